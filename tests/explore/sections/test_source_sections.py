"""The source audit as shown: figures show the numbers of source.json, and an older source.json is still shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from pellucid.explore.figures import source_figures
from pellucid.explore.sections.source_sections import sections
from pellucid.explore.study_findings import gather


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


@pytest.mark.parametrize("source", [{}, {"sentences": ["720 images can be used."], "factors": [], "missing": []}])
def test_sections_missing_in_an_older_scan_are_left_out(source: dict[str, Any]) -> None:
    shown = sections(source, {"the file is empty": 2})
    assert [section.key for section in shown] == ["there", "quarantined"][-1 if not source else 0 :]
    assert all(section.title for section in shown)


def findings_near(whole: Any) -> Any:
    return gather(whole.study, whole.runs["scan"], [whole.runs["own"]], near_run=whole.runs["near"]).near


@pytest.mark.long
def test_pairs_and_unusual_images_are_shown_as_pictures_by_research_id(whole: Any) -> None:
    near = findings_near(whole)
    ids = near.unusual["image_id"].tolist()
    pair = {"group": "N0001", "image_id": ids[0], "other_image_id": ids[1], "patient": "P1", "other_patient": "P2",
            "split": "train", "other_split": "test", "similarity": 0.987, "ratio": 0.1, "agreement": 0.9, "how": "turned"}  # fmt: skip
    again = pair | {"other_image_id": ids[2]}
    found = replace(near, pairs=pd.DataFrame([pair, again]))
    by_key = {section.key: section for section in sections({}, {}, found)}
    shown = by_key["near"].pictures
    assert [(row.title, list(row.images)) for row in shown] == [
        ("turned, similarity 0.99", [(ids[0], "P1 (train)"), (ids[1], "P2 (test)")])
    ], "of a group the first pair"
    unlike = by_key["unusual"].pictures[0].images
    assert unlike[0][0] == ids[0]
    patients = [caption.partition(",")[0] for _, caption in unlike]
    assert len(set(patients)) == len(patients) == 12
    assert [s.key for s in sections({}, {}, None)] == []


@pytest.mark.long
def test_the_scan_of_a_phantom_is_shown_whole_and_in_order(whole: Any) -> None:
    source = whole.runs["scan"].read_json("source.json")
    shown = sections(source, {})
    order = [
        "there",
        "enough",
        "entangled",
        "per-patient",
        "quality",
        "calendar",
        "missing",
        "duplicates",
        "privacy",
        "splits",
    ]
    keys = [section.key for section in shown]
    assert keys == [key for key in order if key in keys]
    assert {"there", "enough", "entangled", "per-patient", "calendar", "splits"} <= set(keys)
    shown_sentences = [sentence for section in shown for sentence in section.sentences]
    assert all(text in shown_sentences for texts in source["sections"].values() for text in texts)
    both = sections(source, {}, findings_near(whole))
    assert [s.key for s in both if s.key in order] == keys, "the vectors add sections and change none"
    for section in shown:
        titles = [drawing.title for drawing in section.drawings]
        assert len(set(titles)) == len(titles)
        for drawing in section.drawings:
            assert drawing.figure().data
