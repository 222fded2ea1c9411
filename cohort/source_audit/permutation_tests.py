"""Tests of the source audit: two columns, each patient counting once, p from permuting whole patients.

Where one of the two is the same in all images of a patient, a patient is reduced to one row (shares of levels, mean rank) and
1,000 permutations are a few matrix products; else images are permuted. The statistics are those of `pellucid.cohort.statistics.association.associate`.
A mean of few images scatters more than one of many: `pellucid.cohort.source_audit.random_effects` makes patients exchangeable before they are exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from pellucid.cohort.source_audit.columns import Column
from pellucid.cohort.source_audit.random_effects import patient_means, standardised
from pellucid.cohort.statistics.association import bergsma_v
from pellucid.cohort.statistics.patient_resampling import PatientPermutations, Patients
from pellucid.cohort.statistics.weighted_ranks import ridits

MIN_PATIENTS = 10  # fewer say nothing
ALPHA = 0.05
PERMUTATIONS = 999
MORE_PERMUTATIONS = 4999  # where 999 leave p so small that its steps, multiplied by the family, would hide an effect
FEW_A_LEVEL = 3  # where most patients are at levels of fewer, the levels are names
MAX_ROWS = 50_000  # of a test by image, where both columns vary within patients; above, patients are drawn at random
_CHUNK_CELLS = 1_000_000
_KEPT_CELLS = 20_000_000
MEASURES = {"cramers_v": "Cramér's V", "eta_squared": "η²", "spearman": "Spearman's ρ"}

FloatArray = NDArray[np.float64]
Side = tuple[NDArray[Any], int]  # codes and how many levels, or numbers and 0


def compare(left: Column, right: Column, patients: Patients, seed: int) -> dict[str, Any]:
    """Are two columns associated?

    Returns:
        measure ("" if not tested), value, p_value (None if not tested), n_patients who have both, note (why not).

    A p-value of at most 5/1000 is computed anew with 4,999 permutations. That keeps its level: at any α the outcomes with
    p ≤ α are among those that the 999 (α ≥ 0.005) or the 4,999 (α < 0.005) alone would give.
    """
    known = left.known & right.known
    some = patients.subset(known)
    found: dict[str, Any] = {"measure": "", "value": None, "p_value": None, "n_patients": some.n_patients, "note": ""}
    if some.n_patients < MIN_PATIENTS:
        return found | {"note": f"too few patients ({some.n_patients})"}
    first, second = _side(left, known), _side(right, known)
    if min(first[1] or len(np.unique(first[0])), second[1] or len(np.unique(second[0]))) < 2:
        return found | {"note": "all have the same value"}
    for codes, n_levels in (first, second):
        if n_levels and _like_an_id(codes, n_levels, some):
            return found | {"note": f"{n_levels} levels for {some.n_patients} patients: more an id than a factor"}
    varies = [not some.constant(values).all() for values, _ in (first, second)]
    result: dict[str, Any] = {}
    for permutations in (PERMUTATIONS, MORE_PERMUTATIONS):
        if all(varies):
            result = _by_image(first, second, some, permutations, seed)
        else:
            result = _by_patient(first, second, some, varies, permutations, seed)
        if result["p_value"] > 5 / (PERMUTATIONS + 1):
            break
    return found | result


def judge(tests: Sequence[dict[str, Any]]) -> None:
    """Benjamini–Hochberg over all of these that have a p-value: sets `q_value` (None where there is none)."""
    tested = [test for test in tests if test["p_value"] is not None]
    for test in tests:
        test["q_value"] = None
    if tested:
        for test, q in zip(tested, multipletests([t["p_value"] for t in tested], method="fdr_bh")[1], strict=True):
            test["q_value"] = float(q)


def stands(test: dict[str, Any]) -> bool:
    """Whether a judged association is to be told: q ≤ 0.05 in its family."""
    return test.get("q_value") is not None and test["q_value"] <= ALPHA


def told(test: dict[str, Any]) -> str:
    """The numbers of a judged test for a sentence: `Cramér's V 0.58, q = 0.002, 240 patients`."""
    q = "q < 0.001" if test["q_value"] < 0.001 else f"q = {test['q_value']:.3f}"
    return f"{MEASURES[test['measure']]} {abs(test['value']):.2f}, {q}, {test['n_patients']} patients"


def far_apart(
    levels: Sequence[dict[str, Any]], key: str, printed: Callable[[float], str]
) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The levels with the highest and the lowest number, each (level, number as printed), to name in a sentence.

    None where fewer than two levels have 10 patients, or where the two numbers would be printed alike.
    """
    enough = sorted((level for level in levels if level["patients"] >= MIN_PATIENTS), key=lambda level: level[key])
    if len(enough) < 2:
        return None
    low, high = ((level["level"], printed(level[key])) for level in (enough[0], enough[-1]))
    return (high, low) if high[1] != low[1] else None


def _like_an_id(codes: NDArray[Any], n_levels: int, patients: Patients) -> bool:
    """Whether half of the patients or more are at levels of fewer than 3 patients (a date, a serial number)."""
    cells = np.unique(patients.codes * n_levels + codes) % n_levels
    return bool(np.median(np.bincount(cells, minlength=n_levels)[cells]) < FEW_A_LEVEL)


def _side(column: Column, rows: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    values = column.values[rows]
    if not column.levels:
        return values, 0
    present, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), len(present)


def _by_image(first: Side, second: Side, patients: Patients, permutations: int, seed: int) -> dict[str, Any]:
    """Both vary within patients: whole blocks go to patients with as many images, and are shuffled there.

    Also a block of equal values goes only to a patient with as many images: a patient of one image has one value whatever
    the variable is, and moved among those of many images such values would make the null too narrow.
    """
    n_all = patients.n_patients
    if len(patients) > MAX_ROWS:
        order = np.random.default_rng([seed, 4]).permutation(n_all)
        chosen = np.zeros(n_all, dtype=bool)
        chosen[order[: int(np.searchsorted(np.cumsum(patients.sizes[order]), MAX_ROWS, side="right"))]] = True
        rows = chosen[patients.codes]
        first, second, patients = (first[0][rows], first[1]), (second[0][rows], second[1]), patients.subset(rows)
    first, second = _numbers_right(first, second)
    weights = patients.weights
    left, right = (_columns(side, weights) for side in (first, second))
    plan = PatientPermutations.plan(patients, first[0], patients.sizes, np.zeros(len(patients), dtype=np.int64))
    weighted = right * weights[:, None]
    masses = weights @ left, weights @ right
    expected = np.outer(*masses) / patients.n_patients

    def null() -> Iterator[FloatArray]:
        for source in plan.draw(permutations, seed, max(1, _CHUNK_CELLS // len(patients))):
            yield np.stack([column.take(source) @ weighted for column in left.T], axis=1) - expected

    squares = [float((weights * side[:, 0] ** 2).sum()) for side in (left, right)]
    result = _judged(first, second, left.T @ weighted, masses, squares, null())
    return result | {"n_patients": n_all, "n_patients_tested": patients.n_patients}


def _by_patient(
    first: Side, second: Side, patients: Patients, varies: Sequence[bool], permutations: int, seed: int
) -> dict[str, Any]:
    """One of the two is the same in all images of each patient: a patient is one row, and any may get any other's.

    Of the other, a patient's value is a mean over images, and scatters the more the fewer these are. Where the number of
    images goes with the variable, values as they are would not be exchangeable. So deviations in units of their own
    scatter are exchanged and multiplied by the scatter of the patient who gets them (Freedman & Lane 1983, weighted as in
    a random-effects model). Of patients with equally many images, or of two constant sides, that is the plain permutation.
    """
    if second[1] and not first[1]:
        first, second, varies = second, first, varies[::-1]
    n, weights = patients.n_patients, patients.weights
    of_image = [_columns(side, weights) for side in (first, second)]
    squares = [float((weights * side[:, 0] ** 2).sum()) for side in of_image]
    left, right = (
        patient_means(side, patients) for side in of_image
    )  # (n_patients, levels or 1): shares of levels, mean ranks
    masses = left.sum(axis=0), right.sum(axis=0)
    kept = right if varies[0] else left
    kept = kept - kept.mean(axis=0)
    deviation, error = standardised(of_image[0 if varies[0] else 1], patients)
    n_moved = error.shape[1]
    scaled = [_as_wide(kept * column[:, None]) for column in error.T]
    adds_up = n_moved > 1 and (n_moved == 2 or not any(varies))  # levels add up to the patient: no product for the last

    def null() -> Iterator[FloatArray]:
        for order in _orders(n, permutations, seed):
            tables = np.empty((order.shape[1], kept.shape[1], n_moved))
            for level in range(n_moved):
                if adds_up and level == n_moved - 1:
                    tables[:, :, level] = -tables[:, :, :-1].sum(axis=2)
                else:
                    tables[:, :, level] = (scaled[level].T @ deviation[:, level].take(order)).T
            yield tables.transpose(0, 2, 1) if varies[0] else tables

    return _judged(first, second, left.T @ right, masses, squares, null())


def _as_wide(factors: FloatArray) -> FloatArray:
    """Factors (n, k) of exchanged deviations, enlarged so that their sum scatters as that of independent deviations would.

    Deviations that are dealt out sum to 0, which takes from the scatter where the factors do not sum to 0 themselves.
    """
    whole, left = (factors**2).sum(axis=0), ((factors - factors.mean(axis=0)) ** 2).sum(axis=0)
    widened = np.divide(whole, left, out=np.ones_like(whole), where=left > 1e-12 * whole)
    return np.asarray(factors * np.sqrt(widened))


def _numbers_right(first: Side, second: Side) -> tuple[Side, Side]:
    return (second, first) if second[1] and not first[1] else (first, second)


def _columns(side: Side, weights: FloatArray) -> FloatArray:
    """(n, levels) indicators, or (n, 1) ranks around 0."""
    values, n_levels = side
    if n_levels:
        return np.asarray(values[:, None] == np.arange(n_levels), dtype=np.float64)
    one = np.zeros(len(values), dtype=np.int64)
    return np.asarray(ridits(np.asarray(values, dtype=np.float64)[None], weights, one)[0][:, None])


def _judged(
    first: Side,
    second: Side,
    table: FloatArray,  # (levels or 1, levels or 1) sums over patients
    masses: tuple[FloatArray, FloatArray],  # of both: patients at each level, or the sum of ranks (0)
    squares: Sequence[float],  # Σ weight · rank² of the two
    null: Iterator[FloatArray],  # (c, levels or 1, levels or 1) less what is expected, under permutation, c at a time
) -> dict[str, Any]:
    expected = np.outer(*masses) / masses[0].sum() if first[1] and second[1] else np.zeros(table.shape)

    def statistic(deviations: FloatArray) -> FloatArray:
        if first[1] and second[1]:
            return np.asarray((deviations**2 / expected).sum(axis=(1, 2)))  # Pearson's χ², the margins being fixed
        if first[1]:
            return np.asarray((deviations[:, :, 0] ** 2 / masses[0]).sum(axis=1) / squares[1])
        return np.asarray(np.abs(deviations[:, 0, 0]) / np.sqrt(squares[0] * squares[1]))

    observed = float(statistic((table - expected)[None])[0])
    edge = observed - 1e-9 * max(1.0, observed)
    as_large = np.concatenate([statistic(tables) >= edge for tables in null])
    p_value = float((1 + as_large.sum()) / (1 + len(as_large)))
    if first[1] and second[1]:
        return {"measure": "cramers_v", "value": float(bergsma_v(table)), "p_value": p_value}
    if first[1]:
        return {"measure": "eta_squared", "value": observed, "p_value": p_value}
    signed = float(table[0, 0] / np.sqrt(squares[0] * squares[1]))
    return {"measure": "spearman", "value": signed, "p_value": p_value}


def _orders(n_patients: int, permutations: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """Random orders of the patients in columns, (n_patients, c) at a time."""
    if n_patients * permutations <= _KEPT_CELLS:
        whole = _kept_orders(n_patients, permutations, seed)
        at_once = max(1, _CHUNK_CELLS // n_patients)
        yield from (whole[:, first : first + at_once] for first in range(0, permutations, at_once))
        return
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    at_once = max(1, _CHUNK_CELLS // n_patients)
    for first in range(0, permutations, at_once):
        yield _draw(rng, n_patients, min(at_once, permutations - first))


@lru_cache(maxsize=3)
def _kept_orders(n_patients: int, permutations: int, seed: int) -> NDArray[np.int32]:
    # Most tests are of the same number of patients; drawing the orders would cost more than using them.
    return _draw(np.random.default_rng(np.random.SeedSequence([seed, 3])), n_patients, permutations)


def forget_orders() -> None:
    """Free the orders kept for the tests of one audit."""
    _kept_orders.cache_clear()


def _draw(rng: np.random.Generator, n_patients: int, count: int) -> NDArray[np.int32]:
    rows = np.tile(np.arange(n_patients, dtype=np.int32), (count, 1))
    return np.ascontiguousarray(rng.permuted(rows, axis=1, out=rows).T)
