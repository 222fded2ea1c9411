"""The rank measures of `probes.metrics` for very many score vectors at once, a permutation each: of scores in bins, unsorted.

A rank asks how much weight lies below. With scores in 1,024 equal bins over ±8 standard deviations of the training patients
(`FoldedRidge` scales them so) one count of the weight per bin tells it, in a quarter of the time that sorting takes; two scores
of one bin are a tie. A permutation test with this statistic is as exact as with any other, as long as observed and permuted
targets share it: the observed score is put into the same bins for its p-value, and reported unbinned.

Shapes: n images, c score vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

N_BINS = 1024
_REACH = 8.0  # standard deviations; what lies beyond is in the last bin


def binned(scores: NDArray[np.floating]) -> IntArray:
    """Number of the bin of each score, 0 … 1,023."""
    place = np.clip(scores, -_REACH, _REACH)
    place += _REACH
    place *= (N_BINS - 0.01) / (2 * _REACH)
    return place.astype(np.int64)


def auroc(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.floating], strata: IntArray
) -> NDArray[np.float64]:
    """(c,) as `probes.metrics.auroc`, from scores and positive (c, n), weights and strata (n,)."""
    n_strata = int(strata.max()) + 1
    out = np.empty(len(scores))
    first = 2 * N_BINS * strata
    for place, (row, event) in enumerate(zip(scores, positive, strict=True)):
        cell = binned(row)
        cell += N_BINS * event
        if n_strata > 1:
            cell += first
        mass = np.bincount(cell, weights, 2 * N_BINS * n_strata).reshape(n_strata, 2, N_BINS)
        below = np.cumsum(mass[:, 0], axis=1) - 0.5 * mass[:, 0]
        pairs = float((mass[:, 0].sum(axis=1) * mass[:, 1].sum(axis=1)).sum())
        out[place] = (mass[:, 1] * below).sum() / pairs if pairs > 0 else np.nan
    return out


def spearman(
    scores: NDArray[np.floating], target_ridits: NDArray[np.floating], weights: NDArray[np.floating], strata: IntArray
) -> NDArray[np.float64]:
    """(c,) as `probes.metrics.spearman`, from scores and target_ridits (c, n), weights and strata (n,)."""
    n_strata = int(strata.max()) + 1
    out = np.zeros(len(scores))
    first = N_BINS * strata
    for place, (row, target) in enumerate(zip(scores, target_ridits, strict=True)):
        cell = binned(row)
        if n_strata > 1:
            cell += first
        weighted = weights * target
        mass, of_target = (
            np.bincount(cell, of, N_BINS * n_strata).reshape(n_strata, N_BINS) for of in (weights, weighted)
        )
        upto = np.cumsum(mass, axis=1)
        rank = (upto - 0.5 * mass) / np.maximum(upto[:, -1:], 1e-12) - 0.5
        norm = np.sqrt((mass * rank**2).sum() * (weighted @ target))
        out[place] = (of_target * rank).sum() / norm if norm > 1e-12 else 0.0
    return out
