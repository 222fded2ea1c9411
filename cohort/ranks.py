"""Ranks and correlations weighted by patient and restricted to strata: the arithmetic under every association and probe.

Shapes: n images, c vectors at once (a permutation each, or a bootstrap sample each). A stratum restricts comparisons: two
images are compared only if they lie in the same one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


def rows_of_strata(strata: IntArray) -> list[IntArray]:
    order = np.argsort(strata, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)


def tie_bounds(values_sorted: FloatArray) -> tuple[IntArray, IntArray]:
    """For each position of a sorted vector the first position of its tie group and the one past its last."""
    new = np.concatenate([[True], values_sorted[1:] != values_sorted[:-1]])
    first = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    past = np.concatenate([first[1:], [len(values_sorted)]])
    return first[group], past[group]


def below_in_order(scores: FloatArray, counted: FloatArray) -> tuple[FloatArray, IntArray]:
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


def ridits(values: FloatArray, weights: FloatArray, strata: IntArray) -> NDArray[np.float64]:
    """Weighted mid-ranks within each stratum, scaled to -0.5 … 0.5 (Bross 1958). values (c, n) → (c, n)."""
    out = np.empty(values.shape)
    for rows in rows_of_strata(strata):
        below, order = below_in_order(values[:, rows], weights[rows])
        ranks = np.empty_like(below)
        np.put_along_axis(ranks, order, below, axis=1)
        out[:, rows] = ranks / weights[rows].sum() - 0.5
    return out


def correlation(left: FloatArray, right: FloatArray, weights: FloatArray) -> NDArray[np.float64]:
    """Weighted Pearson correlation of vectors that are already centred, (c,); 0 where one of them is constant."""
    cross = (weights * left * right).sum(axis=-1)
    norm = np.sqrt((weights * left**2).sum(axis=-1) * (weights * right**2).sum(axis=-1))
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 1e-12))
