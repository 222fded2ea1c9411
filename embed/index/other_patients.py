"""Nearest rows of *other* patients: excludes a query's own patient, for search, explorer and near duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.query import Index

_MAX_EXTRA = 128  # up to this many rows of the own patient, asking for more neighbours is cheaper than a filter


def codes_of(names: Any) -> NDArray[np.int64]:
    """(n,) integer codes of names: equal names have equal codes, numbered from 0."""
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
    """The `k` nearest rows of groups other than each query's own.

    Args:
        queries: (m, dim) float32.
        groups: (n,) group (patient) of each row, numbered from 0.
        own: (m,) group excluded for each query; −1: none.
        allowed: (n,) mask of the rows that may be found.
        one_each: only the nearest row of each group.

    Returns:
        (m, k) cosines and rows, the most similar first; padded with −inf and −1.
    """
    m = len(queries)
    similarity, rows = np.full((m, k), -np.inf, np.float32), np.full((m, k), -1, np.int64)
    sizes = np.bincount(groups)
    n_own = np.where(own >= 0, sizes[np.maximum(own, 0)], 0)
    todo = np.flatnonzero(n_own <= _MAX_EXTRA)
    if len(todo):  # in one search, with room for all rows of the own patients
        ask = k + int(n_own[todo].max())
        found = index.search(queries[todo], min(index.n, 2 * ask if one_each else ask), allowed)
        whole = _fill(similarity, rows, todo, found, groups, own, one_each)
        room = int(allowed.sum()) if allowed is not None else index.n
        done = whole | (found[1].shape[1] >= room)
        left = np.concatenate([np.flatnonzero(n_own > _MAX_EXTRA), todo[~done]])
    else:
        left = np.arange(m)
    for patient in np.unique(own[left]):  # the others with a filter for each patient
        of_patient = left[own[left] == patient]
        candidates = groups != patient if allowed is None else allowed & (groups != patient)
        if one_each:
            for i in of_patient:
                similarity[i], rows[i] = _one_each(index, queries[i], k, groups, candidates.copy())
        elif candidates.any():
            found = index.search(queries[of_patient], k, candidates)
            similarity[of_patient], rows[of_patient] = found
    return similarity, rows


def _one_each(
    index: Index, query: NDArray[np.float32], k: int, groups: NDArray[np.int64], candidates: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest row of each of the `k` nearest groups among the candidate rows; changes the mask `candidates`."""
    best, best_rows = np.full(k, -np.inf, np.float32), np.full(k, -1, np.int64)
    have = 0
    while have < k and candidates.any():
        found = index.search(query[None], 4 * (k - have), candidates)
        rows = found[1][0][found[1][0] >= 0]
        if not len(rows):
            break
        first = np.sort(np.unique(groups[rows], return_index=True)[1])[: k - have]
        candidates &= ~np.isin(groups, groups[rows])  # later finds are farther away than all of these
        best[have : have + len(first)], best_rows[have : have + len(first)] = found[0][0][first], rows[first]
        have += len(first)
    return best, best_rows


def _fill(
    similarity: NDArray[np.float32],
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    found: tuple[NDArray[np.float32], NDArray[np.int64]],
    groups: NDArray[np.int64],
    own: NDArray[np.int64],
    one_each: bool,
) -> NDArray[np.bool_]:
    """Write `found` without the own groups into `similarity` and `rows`; returns which queries have all `k`."""
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
