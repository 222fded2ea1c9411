"""The rank measures of `pellucid.cohort.statistics.weighted_ranks` from binned scores without sorting, for many score
vectors or sets of weights.

**Permutations.** A rank is the weight of all lower scores. With scores in 1,024 equal bins over ±8 standard deviations,
one sum of weights per bin gives all ranks in a quarter of the time of sorting; two scores in one bin are a tie. A
permutation test with this statistic is as exact as with any other, as long as observed and permuted targets share it:
the observed score is put into the same bins for its p-value, and reported unbinned.

**Bootstrap.** The scores stay and the weights change: bins of equal mass, without additional ties if there are fewer
images than bins.

Shapes: n images, c score vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import ridits

IntArray = NDArray[np.int64]

N_BINS = 1024
_REACH = 8.0  # standard deviations; larger scores are in the last bin


def binned(scores: NDArray[np.floating]) -> IntArray:
    """Number of the bin of each score (n,), 0 … 1,023; all in one where they do not vary."""
    mean, spread = float(scores.mean()), float(scores.std())
    place = (scores - mean) * (1.0 / spread if spread > 1e-12 else 0.0)
    np.clip(place, -_REACH, _REACH, out=place)
    place += _REACH
    place *= (N_BINS - 0.01) / (2 * _REACH)
    return np.asarray(place, dtype=np.int64)


def auroc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.floating], strata: IntArray
) -> NDArray[np.float64]:
    """(c,) as `pellucid.cohort.statistics.weighted_ranks.auroc`, from scores and positive (c, n), weights and strata
    (n,)."""
    n_strata = int(strata.max()) + 1
    out = np.empty(len(scores))
    first = 2 * N_BINS * strata
    for place, (row, event) in enumerate(zip(scores, positive, strict=True)):
        cell = binned(row)
        cell += N_BINS * event
        if n_strata > 1:
            cell += first
        out[place] = _auroc_of(cell, weights, n_strata)
    return out


def spearman(
    scores: NDArray[np.floating], target_ridits: NDArray[np.floating], weights: NDArray[np.floating], strata: IntArray
) -> NDArray[np.float64]:
    """(c,) as `pellucid.cohort.statistics.weighted_ranks.spearman`, from scores and target_ridits (c, n), weights and
    strata (n,)."""
    n_strata = int(strata.max()) + 1
    out = np.zeros(len(scores))
    first = N_BINS * strata
    for place, (row, target) in enumerate(zip(scores, target_ridits, strict=True)):
        cell = binned(row)
        if n_strata > 1:
            cell += first
        weighted = weights * target
        rank, mass = _ranks(cell, weights, n_strata)
        of_target = np.bincount(cell, weighted, N_BINS * n_strata)
        norm = np.sqrt((mass * rank**2).sum() * (weighted @ target))
        out[place] = of_target @ rank.ravel() / norm if norm > 1e-12 else 0.0
    return out


def _by_mass(values: NDArray[np.floating]) -> IntArray:
    """(n,) bins of about as many images each; equal values share one."""
    one = np.zeros(len(values), dtype=np.int64)
    ranks = ridits(np.asarray(values, dtype=np.float64)[None], np.ones(len(values)), one)[0] + 0.5
    return (ranks * N_BINS).astype(np.int64) if len(values) > N_BINS else np.unique(ranks, return_inverse=True)[1]


class BootstrapAuroc:
    """AUROC of one score vector (n,) under many sets of weights, (samples, n) → (samples,); NaN where a sample has no
    pair."""

    def __init__(self, scores: NDArray[np.floating], positive: NDArray[np.bool_], strata: IntArray) -> None:
        self._strata = int(strata.max()) + 1
        self._cell = _by_mass(scores) + N_BINS * (positive + 2 * strata)

    def __call__(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.array([_auroc_of(self._cell, weight, self._strata) for weight in weights])


class BootstrapSpearman:
    """Spearman's correlation of one score vector with one target under many sets of weights, (samples, n) →
    (samples,)."""

    def __init__(self, scores: NDArray[np.floating], values: NDArray[np.floating], strata: IntArray) -> None:
        self._strata = int(strata.max()) + 1
        self._cells = [_by_mass(side) + N_BINS * strata for side in (scores, values)]

    def __call__(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        out = np.zeros(len(weights))
        for place, weight in enumerate(weights):
            left, right = (_ranks(cell, weight, self._strata)[0].ravel()[cell] for cell in self._cells)
            weighted = weight * left
            norm = np.sqrt((weighted @ left) * ((weight * right) @ right))
            out[place] = weighted @ right / norm if norm > 1e-12 else 0.0
        return out


def _auroc_of(cell: IntArray, weights: NDArray[np.floating], n_strata: int) -> float:
    """cell (n,): bin + 1,024 (event + 2 stratum)."""
    mass = np.bincount(cell, weights, 2 * N_BINS * n_strata).reshape(n_strata, 2, N_BINS)
    below = np.cumsum(mass[:, 0], axis=1) - 0.5 * mass[:, 0]
    pairs = float((mass[:, 0].sum(axis=1) * mass[:, 1].sum(axis=1)).sum())
    return float((mass[:, 1] * below).sum()) / pairs if pairs > 0 else float("nan")


def _ranks(
    cell: IntArray, weights: NDArray[np.floating], n_strata: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank (-0.5 … 0.5 within its stratum) and weight of each bin, (s, 1,024); cell (n,): bin + 1,024 stratum."""
    mass = np.asarray(np.bincount(cell, weights, N_BINS * n_strata), dtype=np.float64).reshape(n_strata, N_BINS)
    upto = np.cumsum(mass, axis=1)
    return (upto - 0.5 * mass) / np.maximum(upto[:, -1:], 1e-12) - 0.5, mass
