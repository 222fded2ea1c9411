"""Probe and pair figures show the numbers: no backbone is hidden, and no two scales share an axis."""

from __future__ import annotations

from typing import Any

from pellucid.explore.figures import map_figures, probe_figures
from pellucid.pretrain.monitor import ACQUISITION, CLINICAL


def _row(name: str, role: str, score: float | None, metric: str = "auroc") -> dict[str, Any]:
    return {"name": name, "role": role, "score": score, "ci_low": score, "ci_high": score, "metric": metric}


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
