"""Plotly figures of report and explorer: data in, a `Figure` out."""

from pellucid.explore.figures.map_figures import factor_figure, map_figure, note_figure, shares_figure
from pellucid.explore.figures.probe_figures import by_neighbours, pair_figure, probe_figure, scales
from pellucid.explore.figures.source_figures import (
    balance_figure,
    burned_in_figure,
    course_figure,
    events_figure,
    grades_figure,
    images_per_patient_figure,
    missing_by_figure,
    missing_figure,
    periods_figure,
)

__all__ = [
    "balance_figure",
    "burned_in_figure",
    "by_neighbours",
    "course_figure",
    "events_figure",
    "factor_figure",
    "grades_figure",
    "images_per_patient_figure",
    "map_figure",
    "missing_by_figure",
    "missing_figure",
    "note_figure",
    "pair_figure",
    "periods_figure",
    "probe_figure",
    "scales",
    "shares_figure",
]
