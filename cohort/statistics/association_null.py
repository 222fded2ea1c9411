"""The null distribution of an association: the values of one variable given to other patients, whole patients at a
time.

Where one of the two is the same in all images of a patient, a patient is reduced to one row (shares of levels, mean
rank) and 1,000 permutations are a few matrix products; else images are permuted. A mean of few images scatters more
than one of many: `pellucid.cohort.statistics.random_effects` makes patients exchangeable before they are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics.patient_resampling import PatientPermutations, Patients
from pellucid.cohort.statistics.random_effects import patient_means, standardised
from pellucid.cohort.statistics.weighted_ranks import ridits

SEED = 0  # of all permutations: the p-value of a pair must not depend on who asks
MAX_ROWS = 50_000  # of a test by image, where both variables vary within patients; above, patients are drawn at random
_CHUNK_CELLS = 1_000_000
_KEPT_CELLS = 20_000_000

FloatArray = NDArray[np.float64]
Side = tuple[NDArray[Any], int]  # codes and how many levels, or numbers and 0; where one has levels, it comes first


@dataclass(frozen=True, eq=False)
class Tested:
    """The observed association and its p-value.

    `table` (levels or 1, levels or 1) holds sums over patients; `statistic` is χ², η² or |ρ|. Permutations exactly as
    strong as the observed count half (the mid-p of Lancaster 1961, Biometrika 48:223): with few patients in few levels
    many are, and the test would reject in 2 % instead of 5 %.
    """

    table: FloatArray
    statistic: float
    p_value: float
    n_patients: int


def by_image(first: Side, second: Side, patients: Patients, permutations: int) -> Tested:
    """Both vary within patients: whole blocks go to patients with as many images, and are shuffled there.

    Also a block of equal values goes only to a patient with as many images: a patient of one image has one value
    whatever the variable is, and moved among those of many images such values would make the null too narrow.
    """
    n_all = patients.n_patients
    if len(patients) > MAX_ROWS:
        order = np.random.default_rng([SEED, 4]).permutation(n_all)
        chosen = np.zeros(n_all, dtype=bool)
        chosen[order[: int(np.searchsorted(np.cumsum(patients.sizes[order]), MAX_ROWS, side="right"))]] = True
        rows = chosen[patients.codes]
        first, second, patients = (first[0][rows], first[1]), (second[0][rows], second[1]), patients.subset(rows)
    weights = patients.weights
    left, right = (_columns(side, weights) for side in (first, second))
    plan = PatientPermutations.plan(patients, first[0], patients.sizes, np.zeros(len(patients), dtype=np.int64))
    weighted = right * weights[:, None]
    masses = weights @ left, weights @ right
    expected = np.outer(*masses) / patients.n_patients

    def null() -> Iterator[FloatArray]:
        for source in plan.draw(permutations, SEED, max(1, _CHUNK_CELLS // len(patients))):
            yield np.stack([column.take(source) @ weighted for column in left.T], axis=1) - expected

    squares = [float((weights * side[:, 0] ** 2).sum()) for side in (left, right)]
    return _judged(first, second, left.T @ weighted, masses, squares, null(), patients.n_patients)


def by_patient(first: Side, second: Side, patients: Patients, varies: Sequence[bool], permutations: int) -> Tested:
    """One of the two is the same in all images of each patient: a patient is one row, and any may get any other's.

    Of the other, a patient's value is a mean over images, and scatters the more the fewer these are. Where the number
    of images goes with the variable, values as they are would not be exchangeable. So deviations in units of their own
    scatter are exchanged and multiplied by the scatter of the patient who gets them (Freedman & Lane 1983, weighted as
    in a random-effects model). Of patients with equally many images, or of two constant sides, that is the plain
    permutation.
    """
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
        for order in _orders(n, permutations):
            tables = np.empty((order.shape[1], kept.shape[1], n_moved))
            for level in range(n_moved):
                if adds_up and level == n_moved - 1:
                    tables[:, :, level] = -tables[:, :, :-1].sum(axis=2)
                else:
                    tables[:, :, level] = (scaled[level].T @ deviation[:, level].take(order)).T
            yield tables.transpose(0, 2, 1) if varies[0] else tables

    return _judged(first, second, left.T @ right, masses, squares, null(), n)


def _as_wide(factors: FloatArray) -> FloatArray:
    """Factors (n, k) of exchanged deviations, enlarged so that their sum scatters as that of independent deviations
    would.

    Deviations that are assigned sum to 0, which takes from the scatter where the factors do not sum to 0 themselves.
    """
    whole, left = (factors**2).sum(axis=0), ((factors - factors.mean(axis=0)) ** 2).sum(axis=0)
    widened = np.divide(whole, left, out=np.ones_like(whole), where=left > 1e-12 * whole)
    return np.asarray(factors * np.sqrt(widened))


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
    n_patients: int,
) -> Tested:
    expected = np.outer(*masses) / masses[0].sum() if first[1] and second[1] else np.zeros(table.shape)

    def statistic(deviations: FloatArray) -> FloatArray:
        if first[1] and second[1]:
            return np.asarray((deviations**2 / expected).sum(axis=(1, 2)))  # Pearson's χ², the margins being fixed
        if first[1]:
            return np.asarray((deviations[:, :, 0] ** 2 / masses[0]).sum(axis=1) / squares[1])
        return np.asarray(np.abs(deviations[:, 0, 0]) / np.sqrt(squares[0] * squares[1]))

    observed = float(statistic((table - expected)[None])[0])
    slack = 1e-9 * max(1.0, observed)
    drawn = np.concatenate([statistic(tables) for tables in null])
    above, equal = (drawn > observed + slack).sum(), (np.abs(drawn - observed) <= slack).sum()
    return Tested(table, observed, float((1 + above + equal / 2) / (1 + len(drawn))), n_patients)


def _orders(n_patients: int, permutations: int) -> Iterator[NDArray[np.int32]]:
    """Random orders of the patients in columns, (n_patients, c) at a time."""
    if n_patients * permutations <= _KEPT_CELLS:
        whole = _kept_orders(n_patients, permutations)
        at_once = max(1, _CHUNK_CELLS // n_patients)
        yield from (whole[:, first : first + at_once] for first in range(0, permutations, at_once))
        return
    rng = np.random.default_rng(np.random.SeedSequence([SEED, 3]))
    at_once = max(1, _CHUNK_CELLS // n_patients)
    for first in range(0, permutations, at_once):
        yield _draw(rng, n_patients, min(at_once, permutations - first))


@lru_cache(maxsize=3)
def _kept_orders(n_patients: int, permutations: int) -> NDArray[np.int32]:
    # Most tests are of the same number of patients; drawing the orders would cost more than using them.
    return _draw(np.random.default_rng(np.random.SeedSequence([SEED, 3])), n_patients, permutations)


def forget_orders() -> None:
    """Free the memory of the orders kept between tests."""
    _kept_orders.cache_clear()


def _draw(rng: np.random.Generator, n_patients: int, count: int) -> NDArray[np.int32]:
    rows = np.tile(np.arange(n_patients, dtype=np.int32), (count, 1))
    return np.ascontiguousarray(rng.permuted(rows, axis=1, out=rows).T)
