"""Measure recall on the user's own vectors, and find the cheapest search settings that reach the required recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.brute_force import cosines, exact_neighbours, sample_queries
from pellucid.embed.index.inverted_lists import list_of_row, pruned, scan
from pellucid.embed.index.training import inner, projected, scanner

RECALL_AT = 20
MOST_QUERIES = 1_000
_WITHIN_SLACK = 0.999  # share of candidates whose exact cosine exceeds their score by at most the slack
_FEWER = 4  # after the first 2 k, about this many times fewer candidates need their exact cosine
_WIDEST = 256  # nearest lists whose hits are counted in advance
_MARGINS = (0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)  # quantiles of the distances of the right lists
_OVER = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)  # share of the allowed misses that codes may cause
_TIE = 1e-6  # rounding: either of two copies counts as right
_EXACT_COST = {"ivf-sq8": 10, "ivf-pq": 40}  # cost of one exact cosine from the file, in scanned codes
FACTORS = {"ivf-sq8": (1, 2, 4, 8, 16, 32), "ivf-pq": (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32)}


@dataclass(frozen=True)
class SearchSettings:
    """How to search, and the recall that results.

    Attributes:
        nprobe: lists scanned per query; 0 for an exact index.
        factor: number of candidates that get their exact cosine, as a multiple of the rows requested.
        recall: share of the true twenty nearest that is found, mean over the queries.
        error: standard error of the recall over the queries.
        queries: number of queries.
        reached: whether the recall exceeds the required one by more than one standard error.
        far: similarity to the nearest list's centre that 499 of 500 queries exceed. Other queries are unlike the
            vectors on which recall was measured, and more lists are scanned for them.
        slack: the exact cosine of a candidate exceeds the score of its code by at most this, except for one in a
            thousand.
        margin: skip those of the `nprobe` nearest lists whose centre is less similar to the query than the nearest
            centre by more than this (pruning as in SPANN, Chen et al., NeurIPS 2021, section 3.2). A query inside a
            cluster needs few lists, one between clusters many: less than half of the codes are scanned for the same
            recall. None: scan all.
    """

    nprobe: int
    factor: int
    recall: float
    error: float
    queries: int
    reached: bool
    far: float = -1.0
    slack: float | None = None
    margin: float | None = None


def tuned(index: Any, values: NDArray[np.float32], kind: str, wanted: float) -> SearchSettings:
    """The cheapest settings that find the share `wanted` of the true twenty nearest.

    Queries are rows of the vectors, each searched among all others. The recall must exceed `wanted` by more than one
    standard error, to offset the optimism of choosing among many settings.
    """
    k = min(RECALL_AT, len(values) - 1)
    if kind == "exact" or k < 1:
        return SearchSettings(0, 1, 1.0, 0.0, 0, True)
    rows = sample_queries(values, MOST_QUERIES)
    queries, truth, neighbours = exact_neighbours(values, rows, k)
    ivf = inner(index)
    list_scanner, inner_queries = scanner(ivf), projected(index, queries)
    near, lists = ivf.quantizer.search(inner_queries, min(ivf.nlist, _WIDEST))
    far = float(np.quantile(near[:, 0], 0.002))
    best: tuple[float, SearchSettings] | None = None
    fallback: SearchSettings | None = None
    for nprobe, margin, codes in _promising(ivf, len(values), near, lists, neighbours, wanted):
        if best is not None and codes >= best[0]:
            break  # already more expensive than settings that suffice
        factors = FACTORS[kind]
        if nprobe > lists.shape[1]:
            near, lists = ivf.quantizer.search(inner_queries, nprobe)
        some = pruned(near[:, :nprobe], lists[:, :nprobe], margin)
        found, scores = scan(list_scanner, inner_queries, factors[-1] * k + 1, near[:, :nprobe], some)
        exact = cosines(values, queries, np.where(found == rows[:, None], -1, found))
        there = np.isfinite(exact)
        slack = float(np.quantile(exact[there] - scores[there], _WITHIN_SLACK)) if there.any() else None
        for factor in factors:
            mean, error = _recall(exact[:, : factor * k + 1], truth, k)
            reached = mean - error >= wanted or mean == 1.0
            settings = SearchSettings(nprobe, factor, mean, error, len(rows), reached, far, slack, margin)
            if settings.reached:
                n_exact = (min(factor, 2) + max(0, factor - 2) / _FEWER) * k
                cost = codes + n_exact * _EXACT_COST[kind]
                if best is None or cost < best[0]:
                    best = cost, settings
                break
            if fallback is None or settings.recall > fallback.recall:
                fallback = settings
    if best is not None:
        return best[1]
    assert fallback is not None
    return fallback


def _promising(
    ivf: Any,
    n: int,
    near: NDArray[np.float32],
    lists: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    wanted: float,
) -> list[tuple[int, float | None, float]]:
    """(nprobe, margin, mean number of codes scanned) worth trying, the cheapest first.

    The lists that contain the true neighbours give, before any code is scanned, an upper bound on the recall of each
    setting. For several bounds, the setting that reaches it with the fewest codes is worth trying, because codes lose
    some neighbours too.

    Args:
        near, lists: (m, widest) each query's nearest lists.
        neighbours: (m, k) its true neighbours.
    """
    sizes = np.array([ivf.invlists.list_size(i) for i in range(ivf.nlist)], dtype=np.float64)
    home = list_of_row(ivf, n)[neighbours]  # (m, k)
    gap = (near[:, :1] - near).astype(np.float64)
    there = lists[:, None, :] == home[:, :, None]
    rank = np.where(there.any(axis=2), there.argmax(axis=2), lists.shape[1])
    apart = np.where(
        rank < lists.shape[1], np.take_along_axis(gap, np.minimum(rank, lists.shape[1] - 1), axis=1), np.inf
    )
    met = apart[np.isfinite(apart)]
    margins = [float(m) for m in np.unique(np.quantile(met, _MARGINS))] if len(met) else []
    options: list[tuple[float, float, int, float | None]] = []
    held = sizes[lists]
    for nprobe in _steps(ivf.nlist):
        inside = min(nprobe, lists.shape[1])
        for margin in (*margins, None) if nprobe <= lists.shape[1] else (None,):
            within = np.inf if margin is None else margin
            codes = float((held[:, :inside] * (gap[:, :inside] <= within)).sum(axis=1).mean()) * nprobe / inside
            most = float(((rank < nprobe) & (apart <= within)).mean()) if nprobe <= lists.shape[1] else 1.0
            options.append((codes, most, nprobe, margin))
    options.sort(key=lambda option: option[0])
    chosen = {min((i for i, option in enumerate(options) if option[1] >= share), default=len(options) - 1)
              for share in (wanted + (1 - wanted) * over for over in _OVER)}  # fmt: skip
    worth = [options[i] for i in sorted(chosen)]
    wider = [option for option in options if option[3] is None and option[0] > worth[-1][0]]  # in case none suffices
    return [(nprobe, margin, codes) for codes, _, nprobe, margin in (*worth, *wider)]


def _recall(exact: NDArray[np.float32], truth: NDArray[np.float32], k: int) -> tuple[float, float]:
    """Mean and standard error of the recall; a candidate is right if it is as similar as the k-th true neighbour.

    Args:
        exact: (m, candidates) exact cosines.
        truth: (m, k) cosines of the true neighbours.
    """
    right = np.minimum((exact >= truth[:, k - 1 : k] - _TIE).sum(axis=1), k) / k
    return float(right.mean()), float(right.std() / np.sqrt(len(right)))


def _steps(lists: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … up to all lists."""
    steps = {lists}
    for power in range(0, 17):
        steps |= {s for s in (2**power, 3 * 2 ** (power - 1) if power else 1) if s < lists}
    return sorted(steps)
