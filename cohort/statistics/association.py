"""Before any model: are two variables of the table associated among these patients?

Looks at the table only, never at a vector. If an acquisition factor and a clinical variable go together here, an
embedding that has learnt the one will appear to have learnt the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics.patient_resampling import IntArray, PatientPermutations, Patients
from pellucid.cohort.statistics.weighted_ranks import correlation, ridits

CHUNK_CELLS = 8_000_000


@dataclass(frozen=True)
class Association:
    """`measure` is one of cramers_v (0–1), eta_squared (0–1, on ranks) and spearman (-1–1)."""

    measure: str
    value: float
    p_value: float
    n_patients: int


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


def associate(
    left: NDArray[np.generic],  # (n,) codes, or numbers if left_levels is 0
    left_levels: int,
    right: NDArray[np.generic],
    right_levels: int,
    patients: Patients,
    permutations: int = 999,
    seed: int = 0,
) -> Association:
    """Association of two variables, each patient weighing 1, with p from permuting patients.

    Two sets of levels: bias-corrected Cramér's V (p from χ² of the patient table). Levels and numbers: η² of the
    ranks. Two numbers: Spearman's correlation (p two-sided, from its absolute value). Permutations as strong as what was observed
    count half (the mid-p of Lancaster 1961, Biometrika 48:223): of a few patients' levels many are, and the test would reject in
    2 % instead of 5 %. Where all are different it changes nothing.
    """
    weights = patients.weights
    one = np.zeros(len(patients), dtype=np.int64)
    # Where both vary within patients, one who happens to be constant says something else with one image than with ten:
    # only patients with as many images are exchanged (7.5 % were rejected instead of 5 % without this).
    both_vary = not (patients.constant(left).all() or patients.constant(right).all())
    plan = PatientPermutations.plan(patients, left, patients.sizes if both_vary else one[: patients.n_patients], one)
    chunk = int(np.clip(CHUNK_CELLS // (len(patients) * max(left_levels, 1)), 1, 256))

    sides: list[NDArray[Any]] = [
        np.asarray(side, dtype=np.int64)
        if levels
        else ridits(np.asarray(side, dtype=np.float64)[None], weights, one)[0]
        for side, levels in ((left, left_levels), (right, right_levels))
    ]

    def statistic(source: IntArray) -> NDArray[np.float64]:
        moved = sides[0][source]
        if left_levels and right_levels:
            return chi_squared(_tables(moved, left_levels, sides[1], right_levels, weights))
        if left_levels:
            return _eta_squared_moved(moved, left_levels, sides[1], weights)
        if right_levels:
            return _eta_squared_fixed(moved, sides[1], right_levels, weights)
        return np.abs(correlation(moved, sides[1], weights))

    identity = np.arange(len(patients))[None]
    observed = float(statistic(identity)[0])
    null = np.concatenate([statistic(source) for source in plan.draw(permutations, seed, chunk)])
    slack = 1e-9 * max(1.0, observed)
    above, alike = (null > observed + slack).sum(), (np.abs(null - observed) <= slack).sum()
    p_value = float((1 + above + alike / 2) / (1 + permutations))
    if left_levels and right_levels:
        table = _tables(sides[0][None], left_levels, sides[1], right_levels, weights)[0]
        return Association("cramers_v", float(bergsma_v(table)), p_value, patients.n_patients)
    if left_levels or right_levels:
        return Association("eta_squared", observed, p_value, patients.n_patients)
    signed = float(correlation(sides[0], sides[1], weights))
    return Association("spearman", signed, p_value, patients.n_patients)


def _tables(
    moved: NDArray[Any], n_left: int, fixed: NDArray[Any], n_right: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Patient-weighted contingency tables, (c, n_left, n_right) from moved (c, n)."""
    cells = moved * n_right + fixed
    tables = [np.bincount(row, weights=weights, minlength=n_left * n_right) for row in cells]
    return np.asarray(tables, dtype=np.float64).reshape(-1, n_left, n_right)


def _eta_squared_moved(
    moved: NDArray[Any], n_levels: int, values: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of the variance of `values` between the levels, (c,) from level codes (c, n). `values` is centred."""
    out = np.zeros(len(moved))
    for level in range(n_levels):
        inside = (moved == level) * weights
        mass = inside.sum(axis=1)
        out += np.divide((inside @ values) ** 2, mass, out=np.zeros_like(mass), where=mass > 0)
    return np.asarray(out / max(float((weights * values**2).sum()), 1e-300))


def _eta_squared_fixed(
    moved: NDArray[Any], levels: NDArray[Any], n_levels: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same where the numbers (c, n) are permuted and the levels stay."""
    indicator = (levels[:, None] == np.arange(n_levels)) * weights[:, None]
    mass = indicator.sum(axis=0)
    between = np.divide((moved @ indicator) ** 2, mass, out=np.zeros((len(moved), n_levels)), where=mass > 0)
    total = (weights * np.asarray(moved, dtype=np.float64) ** 2).sum(axis=1)
    return np.asarray(between.sum(axis=1) / np.maximum(total, 1e-300))
