"""Rank statistics weighted by patient and restricted to strata: AUROC, Spearman's correlation, mid-ranks.

Associations, probes and the monitoring of a pretraining run all use these. Higher is better; chance is 0.5 for the
AUROC and 0 for a correlation. Nothing is folded: an AUROC below 0.5 stays below 0.5. For thousands of permutations
`pellucid.probes.inference.binned_rank_metrics` computes the same from binned scores, without sorting.

Shapes: n images, c vectors at once (one per permutation or bootstrap sample). Two images are compared only if they are
in the same stratum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


def rows_of_strata(strata: IntArray) -> list[IntArray]:
    order = np.argsort(strata, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)


def sort_order(scores: FloatArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """The order that sorts each row of (c, n), and which of the sorted ones equal the one before, (c, n - 1)."""
    order = np.argsort(scores, axis=1)
    ordered = along(scores, order)
    return order, ordered[:, 1:] == ordered[:, :-1]


def along(values: NDArray[np.generic], order: IntArray) -> NDArray[Any]:
    """np.take_along_axis(values, order, axis=1), which is slower; one row of values serves all rows of order."""
    if values.ndim == 1:
        return np.asarray(values[order])
    out = np.empty(order.shape, dtype=values.dtype)
    for row, its, place in zip(out, values, order, strict=True):
        np.take(its, place, out=row, mode="clip")
    return out


def below(counted: FloatArray, equal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The `counted` weight (c, n) of strictly lower scores plus half that of equal ones; scores in order, `equal` as
    from the sort."""
    upto = np.cumsum(counted, axis=1, dtype=np.float64)
    under = upto - 0.5 * counted
    if equal.any():  # duplicate images, a probe of few levels: what lies before and behind a group of ties, halved
        edge = np.zeros((len(equal), 1), dtype=bool)
        first = np.flatnonzero(~np.hstack([edge, equal]) & np.hstack([equal, edge]))
        last = np.flatnonzero(np.hstack([edge, equal]) & ~np.hstack([equal, edge]))
        middle = 0.5 * (upto.ravel()[first] - counted.ravel()[first] + upto.ravel()[last])
        sizes = last - first + 1
        start = np.repeat(first - np.cumsum(sizes) + sizes, sizes)
        under.ravel()[start + np.arange(len(start))] = np.repeat(middle, sizes)
    return np.asarray(under)


def ridits(values: FloatArray, weights: FloatArray, strata: IntArray) -> NDArray[np.float64]:
    """Weighted mid-ranks within each stratum, scaled to -0.5 … 0.5 (Bross 1958). values (c, n) → (c, n)."""
    out = np.empty(values.shape)
    for rows in rows_of_strata(strata):
        order, equal = sort_order(values[:, rows])
        under = below(weights[rows][order], equal)
        ranks = np.empty_like(under)
        np.put_along_axis(ranks, order, under, axis=1)
        out[:, rows] = ranks / weights[rows].sum() - 0.5
    return out


def correlation(left: FloatArray, right: FloatArray, weights: FloatArray) -> NDArray[np.float64]:
    """Weighted Pearson correlation of vectors that are already centred, (c,); 0 where one of them is constant.

    Args:
        left, right, weights: each (c, n) or (n,), broadcast against each other.
    """
    cross = (weights * left * right).sum(axis=-1)
    norm = np.sqrt((weights * left**2).sum(axis=-1) * (weights * right**2).sum(axis=-1))
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 1e-12))


def auroc(
    scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray, strata: IntArray
) -> NDArray[np.float64]:
    """Area under the ROC curve, (c,): the chance that a positive patient scores above a negative one of the same
    stratum.

    Ties count half; with images weighted 1 / images of their patient (`Patients.weights`) this is a statement about
    patients. NaN where no stratum holds both classes. Range 0–1, chance 0.5 (Hanley & McNeil 1982).

    Args:
        scores, positive, weights: each (c, n), (1, n) or (n,), broadcast against each other. strata: (n,).
    """
    scores, positive, weights = np.atleast_2d(scores), np.atleast_2d(positive), np.atleast_2d(weights)
    n_vectors, n = np.broadcast_shapes(scores.shape, positive.shape, weights.shape)
    concordant, pairs = np.zeros(n_vectors), np.zeros(n_vectors)
    for rows in rows_of_strata(strata):
        inside = slice(None) if len(rows) == n else rows  # one stratum: no copy
        order, equal = sort_order(scores[:, inside])
        order, equal = _repeated(order, n_vectors), _repeated(equal, n_vectors)
        weight = weights[:, inside]
        signed = along(_repeated(np.where(positive[:, inside], weight, -weight), n_vectors), order)
        gain = np.maximum(signed, 0.0)
        loss = gain - signed
        concordant += np.einsum("ij,ij->i", gain, below(loss, equal))
        pairs += gain.sum(axis=1) * loss.sum(axis=1)
    return np.asarray(np.divide(concordant, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def _repeated(rows: NDArray[Any], n_vectors: int) -> NDArray[Any]:
    """(1, n) or (c, n) → (c, n), without a copy."""
    return np.broadcast_to(rows, (n_vectors, rows.shape[1]))


def spearman(
    scores: FloatArray, target_ridits: FloatArray, weights: FloatArray, strata: IntArray
) -> NDArray[np.float64]:
    """Spearman's rank correlation of scores and target within strata, weighted by patient, (c,). Range -1 to 1.

    target_ridits: (c, n) or (n,), from `ridits` with the same weights and strata.
    """
    targets = np.broadcast_to(target_ridits, scores.shape)
    cross, norm = np.zeros(len(scores)), np.zeros(len(scores))
    for rows in rows_of_strata(strata):  # in sorted order: ranks are never put back into their places
        whole = len(rows) == scores.shape[1]
        weight = weights if whole else weights[rows]
        order, equal = sort_order(scores if whole else np.take(scores, rows, axis=1))
        mass = weight[order]
        ranks = below(mass, equal) / weight.sum() - 0.5
        mass *= ranks
        cross += np.einsum("ij,ij->i", mass, along(targets if whole else np.take(targets, rows, axis=1), order))
        norm += np.einsum("ij,ij->i", mass, ranks)
    norm = np.sqrt(norm * (weights * targets**2).sum(axis=1))
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 1e-12))
