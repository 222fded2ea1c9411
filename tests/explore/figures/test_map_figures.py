"""Figures show the numbers: nothing is lost, greyed or compared that should not be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pellucid.explore import wording
from pellucid.explore.figures import map_figures, probe_figures
from pellucid.pretrain.monitor import ACQUISITION, CLINICAL


def _row(name: str, role: str, score: float | None, metric: str = "auroc") -> dict[str, Any]:
    return {"name": name, "role": role, "score": score, "ci_low": score, "ci_high": score, "metric": metric}


def test_every_image_is_on_the_map_and_a_click_gives_its_key() -> None:
    n = 50
    points = pd.DataFrame({"key": range(n), "x": np.arange(n, dtype=float), "y": 0.0})
    values = pd.Series([None if i % 7 == 0 else f"<b>level {i % 15}</b>" for i in range(n)])
    figure = map_figures.map_figure(points, values, name="device")
    keys = [key for trace in figure.data for key in trace.customdata]
    assert sorted(keys) == list(range(n))
    names = [trace.name for trace in figure.data]
    assert any(name.startswith(wording.MISSING) for name in names)
    assert any(name.startswith("other (") for name in names)
    assert not any("<b>" in name for name in names)
    assert len({trace.marker.color for trace in figure.data}) == len(figure.data)


def test_baselines_are_grey_and_roles_have_their_colours() -> None:
    rows = [_row("diagnosis", "clinical", 0.8), _row("device", "acquisition", 0.9)]
    figure = probe_figures.probe_figure({"pixels": rows, "run:mae": rows})
    drawn = {trace.marker.line.color for trace in figure.data if trace.error_x.color}
    assert drawn == {CLINICAL, ACQUISITION, map_figures.MUTED}


def test_the_number_of_patients_is_given_with_each_variable() -> None:
    figure = probe_figures.probe_figure({"run:mae": [_row("diagnosis", "clinical", 0.8) | {"n_patients": 60}]})
    assert "60 patients" in figure.layout.yaxis.ticktext[0]


def test_scores_on_two_scales_are_never_on_one_axis() -> None:
    rows = [_row("diagnosis", "clinical", 0.8), _row("age", "clinical", 0.3, "spearman")]
    assert probe_figures.scales(rows) == ["AUROC", "Spearman correlation"]
    figure = probe_figures.probe_figure({"run:mae": rows})
    axes = {trace.xaxis for trace in figure.data if trace.error_x.color}
    assert len(axes) == 2
    beyond = {"score": 0.2, "ci_low": 0.1, "ci_high": 0.3, "metric": "spearman", "p_value": 0.2}
    pair = {"clinical": "age", "acquisition": "device", "clinical_beyond_acquisition": beyond}
    assert probe_figures.pair_figure([pair], rows, "AUROC") is None
    assert probe_figures.pair_figure([pair], rows, "Spearman correlation") is not None


def test_a_score_that_is_missing_leaves_a_sentence() -> None:
    figure = probe_figures.probe_figure({"run:mae": [_row("diagnosis", "clinical", None)]})
    assert figure.layout.annotations[0].text == "No variable has enough patients."


def test_shares_add_up_to_all_patients_of_a_level() -> None:
    figure = map_figures.shares_figure({"Scanner 10": {"a": 3, "b": 1}, "Scanner 2": {"b": 4}}, "grade", "device")
    total = sum(np.asarray(trace.x, dtype=float) for trace in figure.data)
    assert total.tolist() == [1.0, 1.0]
    assert figure.data[0].y[0].startswith("Scanner 2 ")


def test_words() -> None:
    assert wording.backbone_label("run:/srv/jane/study/analysis/pretrain/mae-tiny-cpu-0a1b2c3d") == "mae-tiny-cpu"
    assert wording.for_markdown("see http://evil.example") == "see http\u2060\\://evil.example"
    assert wording.level_text(3.0) == "3"
    assert wording.level_text(float("nan")) == wording.MISSING
    assert wording.p_value_text(0.0004) == "p < 0.001"
    assert wording.p_value_text(0.034) == "p = 0.034"
    assert [wording.p_value_cell(p) for p in (None, 0.0004, 0.25)] == ["–", "< 0.001", "0.25"]
    assert [wording.number(value) for value in (None, -0.001, -0.18)] == ["–", "0.00", "−0.18"]
    assert wording.interval({"score": -0.18, "ci_low": -0.4, "ci_high": 0.1}) == "−0.18 (−0.40 to 0.10)"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
