"""Are two variables of the table associated among these patients? One test for source audit, audit and clusters.

Looks at the table only, never at a vector. If an acquisition factor is associated with a clinical variable here, an
embedding that encodes the one will appear to encode the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics.association_null import Side, Tested, by_image, by_patient
from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.cohort.statistics.random_effects import patient_means

MIN_PATIENTS = 10  # at a level; levels of fewer are left out
PERMUTATIONS = 999
MORE_PERMUTATIONS = 4999  # where 999 leave p so small that its steps, multiplied by the family, would hide an effect
_FEW_A_LEVEL = 3  # where most patients are at levels of fewer, the levels are names

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Association:
    """An association of two variables, or the reason why there is none to report.

    `measure` is one of cramers_v (0 to 1), eta_squared (0 to 1, of ranks) and spearman (-1 to 1). Where nothing was
    tested it is "", `value` and `p_value` are None, and `note` says why.
    """

    measure: str
    value: float | None
    p_value: float | None
    n_patients: int  # with both variables, at levels of at least 10 patients
    note: str = ""
    n_patients_tested: int | None = (
        None  # where both vary within patients; fewer than `n_patients` in very large studies
    )


def associate(
    left: NDArray[Any], left_levels: Sequence[str], right: NDArray[Any], right_levels: Sequence[str], patients: Patients
) -> Association:
    """Association of two variables, each patient weighing 1, with p from permuting patients.

    The result does not depend on the order of the two variables or of the images, nor on the stage: number and seed of
    the permutations are fixed. A p-value of at most 5/1000 is computed anew with 4,999 permutations. That keeps
    its level: at any α the outcomes with p ≤ α are among those that the 999 (α ≥ 0.005) or the 4,999 (α < 0.005)
    alone would give.

    Args:
        left: (n,) codes into `left_levels`, -1 where missing; or, where `left_levels` is empty, numbers, NaN where
            missing.
        right: the same.
        patients: of the n images.

    Returns:
        Two sets of levels: bias-corrected Cramér's V. Levels and numbers: η² of the ranks less what as many levels
            would
        explain by chance (ε²; Kelley 1935, Proc Natl Acad Sci 21:554). Two numbers: Spearman's correlation. Levels of
        fewer than 10 patients are left out; with fewer than two levels left, or fewer than 20 patients, there is no
        number.
    """
    sides = [(np.asarray(left), tuple(left_levels)), (np.asarray(right), tuple(right_levels))]
    known = np.logical_and(*(values >= 0 if levels else ~np.isnan(values) for values, levels in sides))
    if (n_known := patients.count(known)) < 2 * MIN_PATIENTS:
        return _untested(n_known, f"too few patients ({n_known})")
    if any(len(np.unique(values[known])) < 2 for values, _ in sides):
        return _untested(n_known, "all have the same value")
    rows = _at_common_levels(sides, known, patients)
    n_patients = patients.count(rows)
    if n_patients < 2 * MIN_PATIENTS or any(len(np.unique(values[rows])) < 2 for values, _ in sides):
        return _untested(n_known, _why_not(sides, known, patients))
    some = patients.subset(rows)
    one, other = (_side(values[rows], levels) for values, levels in sides)
    first, second = _in_order(one, other, some)
    order = np.lexsort((second[0], first[0], some.codes))
    first, second = (first[0][order], first[1]), (second[0][order], second[1])
    some = Patients(some.codes[order], some.n_patients)
    varies = [not some.constant(values).all() for values, _ in (first, second)]
    for permutations in (PERMUTATIONS, MORE_PERMUTATIONS):
        if all(varies):
            tested = by_image(first, second, some, permutations)
        else:
            tested = by_patient(first, second, some, varies, permutations)
        if tested.p_value > 5 / (PERMUTATIONS + 1):
            break
    measure, value = _effect(first, second, tested)
    return Association(measure, value, tested.p_value, n_patients, "", tested.n_patients if all(varies) else None)


def assign_q_values(tests: Sequence[dict[str, Any]]) -> None:
    """Benjamini–Hochberg over one family: sets `q_value` beside each `p_value` that is a number, None beside the
    others."""
    tested = [test for test in tests if test.get("p_value") is not None]
    for test in tests:
        test["q_value"] = None
    if tested:
        from scipy.stats import false_discovery_control  # here: its import takes a second, and workers do not need it

        for test, q in zip(tested, false_discovery_control([t["p_value"] for t in tested]), strict=True):
            test["q_value"] = float(q)


def _untested(n_patients: int, note: str) -> Association:
    return Association("", None, None, n_patients, note)


def _patients_at(codes: NDArray[Any], n_levels: int, patients: Patients) -> NDArray[np.int64]:
    """Patients with at least one image at each level, (n_levels,)."""
    cells = np.unique(patients.codes * n_levels + codes)
    return np.bincount(cells % n_levels, minlength=n_levels)


def _at_common_levels(
    sides: Sequence[tuple[NDArray[Any], tuple[str, ...]]], known: NDArray[np.bool_], patients: Patients
) -> NDArray[np.bool_]:
    """Images whose levels all have 10 patients or more among the images kept.

    Leaving out a level of one variable may make one of the other rare. What remains in the end does not depend on the
    order.
    """
    rows = known.copy()
    while True:
        before = rows.sum()
        for values, levels in sides:
            if levels and rows.any():
                counts = _patients_at(values[rows], len(levels), Patients(patients.codes[rows], patients.n_patients))
                rows[rows] = (counts >= MIN_PATIENTS)[values[rows]]
        if rows.sum() == before:
            return rows


def _why_not(
    sides: Sequence[tuple[NDArray[Any], tuple[str, ...]]], known: NDArray[np.bool_], patients: Patients
) -> str:
    some = patients.subset(known)
    for values, levels in sides:
        if levels:
            at = _patients_at(values[known], len(levels), some)
            if np.median(np.repeat(at, at)) < _FEW_A_LEVEL:
                return f"{(at > 0).sum()} levels for {some.n_patients} patients: more an id than a factor"
    return f"fewer than two levels with {MIN_PATIENTS} patients"


def _side(values: NDArray[Any], levels: tuple[str, ...]) -> Side:
    """Codes in the order of the levels' names, without gaps; or numbers."""
    if not levels:
        return values.astype(np.float64), 0
    place = np.empty(len(levels), dtype=np.int64)
    place[sorted(range(len(levels)), key=lambda code: levels[code])] = np.arange(len(levels))
    present, codes = np.unique(place[values], return_inverse=True)
    return codes.astype(np.int64), len(present)


def _in_order(one: Side, other: Side, patients: Patients) -> tuple[Side, Side]:
    """Levels before numbers, fewer levels before more, else by the patients' values: not by who was named first."""
    keys = [(not n_levels, n_levels) for _, n_levels in (one, other)]
    if keys[0] != keys[1]:
        return (one, other) if keys[0] < keys[1] else (other, one)
    means = patient_means(np.column_stack([one[0], other[0]]).astype(np.float64), patients)
    unlike = np.flatnonzero(means[:, 0] != means[:, 1])
    swap = len(unlike) and means[unlike[0], 1] < means[unlike[0], 0]
    return (other, one) if swap else (one, other)


def _effect(first: Side, second: Side, tested: Tested) -> tuple[str, float]:
    if first[1] and second[1]:
        return "cramers_v", float(bergsma_v(tested.table))
    if first[1]:
        return "eta_squared", epsilon_squared(tested.statistic, first[1], tested.n_patients)
    return "spearman", float(np.copysign(tested.statistic, tested.table[0, 0]))


def epsilon_squared(eta_squared: float, n_levels: int, n_patients: int) -> float:
    """η² without what as many levels would explain by chance (Kelley 1935); never below 0."""
    free = n_patients - n_levels
    return max(0.0, 1 - (1 - eta_squared) * (n_patients - 1) / free) if free > 0 else 0.0


def bergsma_v(table: NDArray[np.floating]) -> NDArray[np.float64]:
    """Bias-corrected Cramér's V (Bergsma 2013, J Korean Stat Soc 42:323), tables (…, r, k) → (…).

    Cells are patients (fractions where a patient has several levels). 0 = no association beyond
    what chance gives tables of this size, 1 = complete. Empty rows and columns do not count.
    """
    total = table.sum(axis=(-2, -1))
    n_rows = (table.sum(axis=-1) > 0).sum(axis=-1)
    n_columns = (table.sum(axis=-2) > 0).sum(axis=-1)
    phi2 = chi_squared(table) / total
    phi2 = np.maximum(0.0, phi2 - (n_rows - 1) * (n_columns - 1) / (total - 1))
    rows = n_rows - (n_rows - 1) ** 2 / (total - 1)
    columns = n_columns - (n_columns - 1) ** 2 / (total - 1)
    smaller = np.minimum(rows, columns) - 1
    value = np.divide(phi2, smaller, out=np.zeros(np.shape(phi2)), where=smaller > 0)
    return np.asarray(np.minimum(np.sqrt(value), 1.0))


def chi_squared(table: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson's χ² of tables (…, r, k)."""
    expected = table.sum(-1, keepdims=True) * table.sum(-2, keepdims=True) / table.sum((-2, -1), keepdims=True)
    terms = np.divide((table - expected) ** 2, expected, out=np.zeros_like(expected), where=expected > 0)
    return np.asarray(terms.sum(axis=(-2, -1)))
