"""Nearest rows of *other* patients: the one way to pass over a query's own patient, used by search, explorer and audits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.query import Index

_CROWD = 128  # own rows up to which asking for so many more is cheaper than a filter of one's own


def codes_of(names: Any) -> NDArray[np.int64]:
    """Equal names as equal numbers."""
    return np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def search_elsewhere(
    index: Index,
    queries: NDArray[np.float32],
    k: int,
    groups: NDArray[np.int64],
    own: NDArray[np.int64],
    allowed: NDArray[np.bool_] | None = None,
    *,
    one_each: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` nearest rows of other groups than each query's own.

    Args:
        queries: (m, dim) float32.
        groups: (n,) the group (patient) of each row, numbered from 0.
        own: (m,) the group passed over for each query; −1: none.
        allowed: (n,) which rows may be found.
        one_each: at most one row a group: its nearest.

    Returns:
        (m, k) cosines and rows, the most similar first; −inf and −1 where there are fewer.
    """
    m = len(queries)
    similarity, rows = np.full((m, k), -np.inf, np.float32), np.full((m, k), -1, np.int64)
    sizes = np.bincount(groups)
    n_own = np.where(own >= 0, sizes[np.maximum(own, 0)], 0)
    todo = np.flatnonzero(n_own <= _CROWD)
    if len(todo):  # together: each asks for as many more as its own patient could take up
        ask = k + int(n_own[todo].max())
        found = index.search(queries[todo], min(index.n, 2 * ask if one_each else ask), allowed)
        whole = _fill(similarity, rows, todo, found, groups, own, one_each)
        room = int(allowed.sum()) if allowed is not None else index.n
        done = whole | (found[1].shape[1] >= room)
        left = np.concatenate([np.flatnonzero(n_own > _CROWD), todo[~done]])
    else:
        left = np.arange(m)
    for patient in np.unique(own[left]):  # with a filter that knows whose rows are not wanted
        hers = left[own[left] == patient]
        mine = groups != patient if allowed is None else allowed & (groups != patient)
        if one_each:
            for i in hers:
                similarity[i], rows[i] = _one_each(index, queries[i], k, groups, mine.copy())
        elif mine.any():
            found = index.search(queries[hers], k, mine)
            similarity[hers], rows[hers] = found
    return similarity, rows


def _one_each(
    index: Index, query: NDArray[np.float32], k: int, groups: NDArray[np.int64], mine: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest row of each of the `k` nearest groups among the rows of `mine`, which is used up."""
    best, who = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
    have = 0
    while have < k and mine.any():
        found = index.search(query[None], 4 * (k - have), mine)
        rows = found[1][0][found[1][0] >= 0]
        if not len(rows):
            break
        first = np.sort(np.unique(groups[rows], return_index=True)[1])[: k - have]
        mine &= ~np.isin(groups, groups[rows])  # what is found after these is farther away than all of them
        best[have : have + len(first)], who[have : have + len(first)] = found[0][0][first], rows[first]
        have += len(first)
    return best, who


def _fill(
    similarity: NDArray[np.float32],
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    found: tuple[NDArray[np.float32], NDArray[np.int64]],
    groups: NDArray[np.int64],
    own: NDArray[np.int64],
    one_each: bool,
) -> NDArray[np.bool_]:
    """Write what is left of `found` without the own group; which places have all `k`."""
    k = rows.shape[1]
    group = groups[np.maximum(found[1], 0)]
    good = (found[1] >= 0) & (group != own[places][:, None])
    if one_each:
        for line in range(len(places)):
            kept = np.flatnonzero(good[line])
            _, first = np.unique(group[line][kept], return_index=True)
            good[line] = False
            good[line, kept[first]] = True
    order = np.argsort(~good, axis=1, kind="stable")[:, :k]
    taken = np.take_along_axis(good, order, axis=1)
    width = order.shape[1]
    similarity[places, :width] = np.where(taken, np.take_along_axis(found[0], order, axis=1), -np.inf)
    rows[places, :width] = np.where(taken, np.take_along_axis(found[1], order, axis=1), -1)
    return np.asarray(good.sum(axis=1) >= k)
