"""Ranks and correlations weighted by patient and restricted to strata: the arithmetic under every association and probe.

Shapes: n images, c vectors at once (a permutation each, or a bootstrap sample each). A stratum restricts comparisons: two
images are compared only if they lie in the same one.
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
    """The `counted` weight (c, n) of strictly lower scores plus half that of equal ones; scores in order, `equal` as from the sort."""
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
    """Weighted Pearson correlation of vectors that are already centred, (c,); 0 where one of them is constant."""
    cross = (weights * left * right).sum(axis=-1)
    norm = np.sqrt((weights * left**2).sum(axis=-1) * (weights * right**2).sum(axis=-1))
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 1e-12))
