"""Figures of the source audit show the numbers of source.json; texts of the table stay text."""

from __future__ import annotations

from typing import Any

from pellucid.explore.figures import source_figures


def _level(level: str, images: int, patients: int, with_event: int) -> dict[str, Any]:
    events = {"recurrence": {"event": "1", "patients": with_event, "known": patients}}
    return {"level": level, "images": images, "patients": patients, "events": events}


FACTOR = {"name": "year", "levels": [_level("2020", 30, 12, 3), _level("2019", 20, 8, 8)], "n_levels": 2}


def test_events_are_part_of_the_patients_and_years_are_names_not_numbers() -> None:
    figure = source_figures.events_figure(FACTOR, "recurrence")
    assert figure.layout.yaxis.type == "category"
    with_event, others, label = figure.data
    assert (list(with_event.x), list(others.x)) == ([8, 3], [0, 9])  # 2019 before 2020
    assert list(label.text) == [" 8 of 8 (100%)", " 3 of 12 (25%)"]


def test_grades_add_up_and_carry_their_patients() -> None:
    levels = [{"level": "A", "patients": 9, "images": 20, "good": 0.5, "borderline": 0.25, "poor": 0.25}]
    figure = source_figures.grades_figure({"levels": levels})
    assert sum(trace.x[0] for trace in figure.data) == 1
    assert figure.data[0].y[0].strip() == "A  (n = 9)"


def test_a_hostile_level_is_text() -> None:
    evil = "<a href='http://evil.example/'>x</a>"
    figures = [
        source_figures.events_figure({"levels": [_level(evil, 3, 2, 1)]}, "recurrence"),
        source_figures.grades_figure(
            {"levels": [{"level": evil, "patients": 1, "good": 1.0, "borderline": 0.0, "poor": 0.0}]}
        ),
        source_figures.missing_by_figure(
            {"levels": [{"level": evil, "patients": 1, "share": 1.0}], "role": "clinical"}
        ),
        source_figures.course_figure({"variable": evil, "course": [{"period": "2020", "shares": {evil: 1.0}}]}),
        source_figures.balance_figure(
            {
                "side": evil,
                "chance": 0.1,
                "variables": [{"variable": evil, "level": evil, "difference": 1, "role": ""}],
            },
            "x",
        ),
    ]
    for figure in figures:
        assert "<a href" not in figure.to_json().replace("\\u003c", "<")


def test_the_chance_band_of_a_split_is_behind_its_differences() -> None:
    side = {
        "side": "test",
        "chance": 0.3,
        "variables": [{"variable": "age", "level": None, "difference": 0.2, "role": "clinical"}],
    }
    figure = source_figures.balance_figure(side, "train")
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == (0, 0.3)
