"""What is missing, and who is missing: a gap that depends on the device or the outcome is itself information."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.source_audit.columns import Column, SourceColumns
from pellucid.cohort.source_audit.permutation_tests import (
    MIN_PATIENTS,
    compare,
    describe_test,
    far_apart,
    is_significant,
)
from pellucid.cohort.statistics.association import assign_q_values


def missing(cohort: SourceColumns) -> list[dict[str, Any]]:
    """For each declared variable the images and patients without it."""
    gaps = []
    for column in cohort.variables:
        rows = ~column.known
        gaps.append(
            {
                "variable": column.name,
                "role": column.role,
                "n_images": int(rows.sum()),
                "n_patients": cohort.patients.count(rows),
                "share_of_patients": cohort.patients.count(rows) / cohort.patients.n_patients,
            }
        )
    return gaps


def who_is_missing(cohort: SourceColumns, year: Column | None = None) -> dict[str, Any]:
    """Whether being missing goes with another variable, by patients; q over all gaps and all variables.

    Variables that are missing in exactly the same images (a patient without a row in the table) are one gap.
    """
    gaps: dict[bytes, list[Column]] = {}
    for column in cohort.variables:
        if not column.known.all():
            gaps.setdefault(np.packbits(column.known).tobytes(), []).append(column)
    others = list(cohort.variables) + ([year] if year is not None and year.role == "calendar" else [])
    tests, untested = [], []
    for columns in gaps.values():
        known = columns[0].known
        names = [column.name for column in columns]
        without, with_it = cohort.patients.count(~known), cohort.patients.count(known)
        if min(without, with_it) < MIN_PATIENTS:
            untested.append({"variables": names, "note": f"too few patients to say who ({min(without, with_it)})"})
            continue
        gap = Column.flag("missing", "missing", ~known, np.ones(len(known), dtype=bool))
        for other in others:
            if other.name in names:
                continue
            found = compare(gap, other, cohort.patients)
            tests.append(
                {
                    "variables": names,
                    "against": other.name,
                    "role": other.role,
                    **found,
                    **_shares(cohort, ~known, other),
                }
            )
    assign_q_values(tests)
    standing = sorted(
        (test for test in tests if is_significant(test)), key=lambda test: (test["q_value"], -abs(test["value"]))
    )
    return {
        "tests": tests,
        "untested": untested,
        "family": "each gap against every other variable",
        "sentences": [missingness_sentence(test) for test in standing],
    }


def _shares(cohort: SourceColumns, gap: NDArray[np.bool_], other: Column) -> dict[str, Any]:
    """Share of images without the variable, each patient counting once, at each level of the other."""
    if not other.shown_levels:
        return {"levels": []}
    levels = []
    for code, level in enumerate(other.shown_levels):
        rows = other.shown == code
        some = cohort.patients.subset(rows)
        if some.n_patients:
            share = float((gap[rows] * some.weights).sum() / some.n_patients)
            levels.append({"level": level, "patients": some.n_patients, "share": share})
    return {"levels": levels}


def missingness_sentence(test: dict[str, Any]) -> str:
    names, against = " and ".join(test["variables"]), test["against"]
    how = describe_test(test)
    apart = far_apart(test["levels"], "share", "{:.0%}".format)
    if apart is None:
        return f"Whether {names} is missing goes with {against} ({how})."
    (high, most), (low, least) = apart
    return (
        f"{names}: missing does not fall evenly: {most} of patients at {against} = {high}, {least} at {low} ({how}). "
        "Leaving these patients out changes who is studied."
    )
