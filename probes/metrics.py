"""Rank measures of how well scores read off a variable, weighted by patient and restricted to strata.

All of them take many score vectors at once (a permutation each, or a bootstrap sample each) because their
sorting is what a permutation test spends its time on. Higher is better everywhere; chance is 0.5 for the
AUROC and 0 for Spearman; nothing is folded: an AUROC below 0.5 stays below 0.5.

Shapes: n images, c score vectors (permutations or samples). A stratum restricts comparisons: two images are
compared only if they lie in the same one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cohort.ranks import below_in_order, correlation, ridits, rows_of_strata, tie_bounds

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


def auroc_parts(
    scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray, strata: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Weight of concordant pairs and weight of all pairs (positive, negative) of the same stratum, each (c,).

    scores (c, n), positive (c, n) or (n,), weights (n,), strata (n,).
    """
    n_vectors = len(scores)
    concordant, pairs = np.zeros(n_vectors), np.zeros(n_vectors)
    for rows in rows_of_strata(strata):
        block = scores if len(rows) == scores.shape[1] else scores[:, rows]  # one stratum: no copy
        is_positive = np.broadcast_to(positive[..., rows], block.shape)
        weight = weights[rows]
        below, order = below_in_order(block, np.where(is_positive, 0.0, weight))
        gain = np.where(is_positive, weight, 0.0)
        positives = gain.sum(axis=1)
        negatives = weight.sum() - positives
        concordant += (np.take_along_axis(gain, order, axis=1) * below).sum(axis=1)
        pairs += positives * negatives
    return concordant, pairs


def auroc(
    scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray, strata: IntArray
) -> NDArray[np.float64]:
    """Area under the ROC curve, (c,): the chance that a positive patient scores above a negative of the same stratum.

    Ties count half; images weigh 1 / images of their patient (see `Patients.weights`), so this is a statement about
    patients. NaN where no stratum holds both classes. Range 0–1, chance 0.5 (Hanley & McNeil 1982).
    """
    concordant, pairs = auroc_parts(scores, positive, weights, strata)
    return np.asarray(np.divide(concordant, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def spearman(
    scores: FloatArray, target_ridits: FloatArray, weights: FloatArray, strata: IntArray
) -> NDArray[np.float64]:
    """Spearman's rank correlation of scores and target within strata, weighted by patient, (c,). Range -1 to 1.

    target_ridits: (c, n) or (n,), from `ridits` with the same weights and strata.
    """
    return correlation(ridits(scores, weights, strata), np.asarray(target_ridits), weights)


class BootstrapAuroc:
    """AUROC of one score vector under many sets of weights: sorted once, then one cumulative sum per sample."""

    def __init__(self, scores: FloatArray, positive: NDArray[np.bool_], strata: IntArray) -> None:
        self._blocks = []
        for rows in rows_of_strata(strata):
            if positive[rows].all() or not positive[rows].any():
                continue
            rows = rows[np.argsort(scores[rows], kind="stable")]
            first, past = tie_bounds(scores[rows])
            of = np.flatnonzero(positive[rows])
            self._blocks.append((rows, positive[rows], of, first[of], past[of]))

    def __call__(self, weights: FloatArray) -> NDArray[np.float64]:
        """weights (samples, n) → (samples,); NaN where a sample has no pair to compare."""
        concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for rows, positive, of, first, past in self._blocks:
            weight = weights[:, rows]
            negative = np.where(positive, 0.0, weight)
            total = np.zeros((len(weights), len(rows) + 1))
            np.cumsum(negative, axis=1, out=total[:, 1:])
            gain = weight[:, of]
            concordant += 0.5 * (gain * (total[:, first] + total[:, past])).sum(axis=1)
            pairs += gain.sum(axis=1) * total[:, -1]
        return np.asarray(np.divide(concordant, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


class BootstrapSpearman:
    """Spearman's correlation of one score vector with one target under many sets of weights."""

    def __init__(self, scores: FloatArray, values: FloatArray, strata: IntArray) -> None:
        self._n = len(scores)
        self._blocks = []
        for rows in rows_of_strata(strata):
            sides = []
            for side in (scores[rows], values[rows]):
                order = np.argsort(side, kind="stable")
                sides.append((order, *tie_bounds(side[order])))
            self._blocks.append((rows, sides))

    def __call__(self, weights: FloatArray) -> NDArray[np.float64]:
        """weights (samples, n) → (samples,)."""
        ranks = np.zeros((2, len(weights), self._n))
        for rows, sides in self._blocks:
            weight = weights[:, rows]
            for side, (order, first, past) in enumerate(sides):
                total = np.zeros((len(weights), len(rows) + 1))
                np.cumsum(weight[:, order], axis=1, out=total[:, 1:])
                scale = np.maximum(total[:, -1:], 1e-12)
                ranks[side][:, rows[order]] = 0.5 * (total[:, first] + total[:, past]) / scale - 0.5
        return correlation(ranks[0], ranks[1], weights)
