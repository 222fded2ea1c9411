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

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


def _rows_of_strata(strata: IntArray) -> list[IntArray]:
    order = np.argsort(strata, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)


def _tie_bounds(values_sorted: FloatArray) -> tuple[IntArray, IntArray]:
    """For each position of a sorted vector the first position of its tie group and the one past its last."""
    new = np.concatenate([[True], values_sorted[1:] != values_sorted[:-1]])
    first = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    past = np.concatenate([first[1:], [len(values_sorted)]])
    return first[group], past[group]


def _below(scores: FloatArray, counted: FloatArray) -> tuple[FloatArray, IntArray]:
    """For every score the `counted` weight of strictly lower scores plus half that of equal ones.

    scores (c, n), counted (c, n) or (n,). Returns ((c, n) in sorted order, (c, n) the sorting order).
    """
    order = np.argsort(scores, axis=1)
    ordered = np.take_along_axis(scores, order, axis=1)
    mass = counted[order] if counted.ndim == 1 else np.take_along_axis(counted, order, axis=1)
    upto = np.cumsum(mass, axis=1, dtype=np.float64)
    below = upto - 0.5 * mass
    tied = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    if len(tied):  # duplicate images, a probe of few levels: spread what was counted at a tie group's ends over it
        edge = np.ones((len(tied), 1), dtype=bool)
        differs = ordered[tied, 1:] != ordered[tied, :-1]
        before = np.where(np.hstack([edge, differs]), upto[tied] - mass[tied], -np.inf)
        after = np.where(np.hstack([differs, edge]), upto[tied], np.inf)
        start = np.maximum.accumulate(before, axis=1)
        end = np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1]
        below[tied] = 0.5 * (start + end)
    return below, order


def auroc_parts(
    scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray, strata: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Weight of concordant pairs and weight of all pairs (positive, negative) of the same stratum, each (c,).

    scores (c, n), positive (c, n) or (n,), weights (n,), strata (n,).
    """
    n_vectors = len(scores)
    concordant, pairs = np.zeros(n_vectors), np.zeros(n_vectors)
    for rows in _rows_of_strata(strata):
        block = scores if len(rows) == scores.shape[1] else scores[:, rows]  # one stratum: no copy
        is_positive = np.broadcast_to(positive[..., rows], block.shape)
        weight = weights[rows]
        below, order = _below(block, np.where(is_positive, 0.0, weight))
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


def ridits(values: FloatArray, weights: FloatArray, strata: IntArray) -> NDArray[np.float64]:
    """Weighted mid-ranks within each stratum, scaled to -0.5 … 0.5 (Bross 1958). values (c, n) → (c, n)."""
    out = np.empty(values.shape)
    for rows in _rows_of_strata(strata):
        below, order = _below(values[:, rows], weights[rows])
        ranks = np.empty_like(below)
        np.put_along_axis(ranks, order, below, axis=1)
        out[:, rows] = ranks / weights[rows].sum() - 0.5
    return out


def correlation(left: FloatArray, right: FloatArray, weights: FloatArray) -> NDArray[np.float64]:
    """Weighted Pearson correlation of vectors that are already centred, (c,); 0 where one of them is constant."""
    cross = (weights * left * right).sum(axis=-1)
    norm = np.sqrt((weights * left**2).sum(axis=-1) * (weights * right**2).sum(axis=-1))
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 1e-12))


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
        for rows in _rows_of_strata(strata):
            if positive[rows].all() or not positive[rows].any():
                continue
            rows = rows[np.argsort(scores[rows], kind="stable")]
            first, past = _tie_bounds(scores[rows])
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
        for rows in _rows_of_strata(strata):
            sides = []
            for side in (scores[rows], values[rows]):
                order = np.argsort(side, kind="stable")
                sides.append((order, *_tie_bounds(side[order])))
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
