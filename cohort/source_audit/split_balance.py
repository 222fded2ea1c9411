"""Are the sides of the split alike? Patients, images and levels per side, and the largest standardised difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.source_audit.columns import MAX_LEVELS_SHOWN, Column, SourceColumns


def balance(cohort: SourceColumns) -> dict[str, Any]:
    """Each other side against training, variable by variable.

    The difference of a number is (a − b) / √((s²a + s²b)/2) of patients' means, of a level the same of its share
    (Austin 2009, Stat Med 28:3083); of a variable, the largest of its levels. By chance alone a difference is within
    1.96 √(1/a + 1/b) in 95 of 100 splits of one level or number (`chance`).
    """
    sides = cohort.images["split"].astype(str).to_numpy(dtype=object)
    counts = pd.Series(sides).value_counts()
    reference = "train" if "train" in counts else str(counts.index[0])
    report: dict[str, Any] = {"reference": reference, "sides": []}
    said = []
    for side in sorted(set(counts.index) - {reference}):
        a, b = sides == side, sides == reference
        n_a, n_b = cohort.patients.count(a), cohort.patients.count(b)
        compared = [_compare(cohort, column, a, b) for column in cohort.variables]
        variables = [entry for entry in compared if entry is not None]
        chance = float(1.96 * np.sqrt(1 / n_a + 1 / n_b))
        worst = max(variables, key=lambda entry: entry["difference"], default=None)
        report["sides"].append(
            {
                "side": str(side),
                "patients": n_a,
                "reference_patients": n_b,
                "chance": chance,
                "largest": worst and worst["variable"],
                "variables": variables,
            }
        )
        for entry in variables:
            lacking = [f"{reference} has no {level}" for level in entry["only_here"]]
            lacking += [f"{side} has no {level}" for level in entry["only_there"]]
            if lacking:
                shown = "; ".join(lacking[:3]) + (" …" if len(lacking) > 3 else "")
                said.append((entry["role"] != "outcome", f"Split: of {entry['variable']}, {shown}."))
        if worst is not None:
            level = f" = {worst['level']}" if worst["level"] is not None else ""
            beyond = worst["difference"] > 1.3 * chance  # the largest of many is a little above what one would be
            of_chance = "more than chance makes" if beyond else "no more than chance makes"
            of_chance += f" of {n_a} and {n_b} patients"
            said.append(
                (
                    not beyond,
                    f"Split: the largest difference between {side} and {reference} is in {worst['variable']}{level} "
                    f"({worst['difference']:.2f} standard deviations, {of_chance}).",
                )
            )
    report["sentences"] = [sentence for _, sentence in sorted(said, key=lambda pair: pair[0])]
    return report


def _compare(
    cohort: SourceColumns, column: Column, a: NDArray[np.bool_], b: NDArray[np.bool_]
) -> dict[str, Any] | None:
    if not (column.known & a).any() or not (column.known & b).any():
        return None
    entry: dict[str, Any] = {"variable": column.name, "role": column.role, "only_here": [], "only_there": []}
    if not column.levels:
        (mean_a, var_a), (mean_b, var_b) = (_moments(cohort, column, side & column.known) for side in (a, b))
        pooled = np.sqrt((var_a + var_b) / 2)
        difference = abs(mean_a - mean_b) / pooled if pooled > 0 else 0.0
        return entry | {"level": None, "difference": float(difference), "means": [mean_a, mean_b], "levels": []}
    k = len(column.levels)
    if k > MAX_LEVELS_SHOWN:  # an id more than a factor: most of its levels are on one side by necessity
        return None
    having, images = [], []
    for side in (a, b):
        having.append(cohort.patients_with(column.values, k, side))
        images.append(np.bincount(column.values[side & column.known], minlength=k))
    totals = [cohort.patients.count(side & column.known) for side in (a, b)]
    share_a, share_b = having[0] / totals[0], having[1] / totals[1]
    pooled = np.sqrt((share_a * (1 - share_a) + share_b * (1 - share_b)) / 2)
    difference = np.abs(share_a - share_b) / np.where(pooled > 0, pooled, 1)
    worst = int(np.argmax(difference))
    return entry | {
        "level": column.levels[worst],
        "difference": float(difference[worst]),
        "only_here": [column.levels[i] for i in range(k) if having[0][i] and not having[1][i]],
        "only_there": [column.levels[i] for i in range(k) if having[1][i] and not having[0][i]],
        "levels": [
            {
                "level": column.levels[i],
                "patients": [int(having[0][i]), int(having[1][i])],
                "images": [int(images[0][i]), int(images[1][i])],
            }
            for i in range(k)
        ],
    }


def _moments(cohort: SourceColumns, column: Column, rows: NDArray[np.bool_]) -> tuple[float, float]:
    some = cohort.patients.subset(rows)
    means = np.bincount(some.codes, weights=some.weights * column.values[rows], minlength=some.n_patients)
    return float(means.mean()), float(means.var(ddof=1)) if len(means) > 1 else 0.0
