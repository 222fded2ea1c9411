"""Recall measured on the user's own vectors, and the cheapest search that reaches what was wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.brute_force import cosines, exact_neighbours, sample_queries
from pellucid.embed.index.inverted_lists import list_of_row, pruned, scan
from pellucid.embed.index.training import inner, scanner, turned

RECALL_AT = 20
MOST_QUERIES = 1_000
_WITHIN = 0.999  # of the candidates' exact cosines exceed their score by no more than the slack
_FEWER = 4  # of the candidates after the first 2 k about so many times fewer may still enter
_WIDEST = 256  # lists of which it is known beforehand what they would find
_MARGINS = (
    0.9,
    0.95,
    0.97,
    0.98,
    0.985,
    0.99,
    0.995,
    0.998,
    0.999,
)  # quantiles of the true neighbours' lists' distances
_OVER = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)  # of what may be missed, the share that the codes may lose
_TIE = 1e-6  # rounding: of two copies either is right
_EXACT_COST = {"ivf-sq8": 10, "ivf-pq": 40}  # one exact cosine from the file costs about as much as so many codes
_FACTORS = {"ivf-sq8": (1, 2, 4, 8, 16, 32), "ivf-pq": (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32)}


@dataclass(frozen=True)
class Tuned:
    """How to search, and what that finds.

    Attributes:
        nprobe: lists that are looked through for a query; 0 for an exact index.
        factor: candidates that get their exact cosine, as a multiple of what is asked for.
        recall: share of the true twenty nearest that is found, mean over the queries.
        error: its standard error over the queries.
        queries: how many.
        reached: whether it is as high as was wanted, by more than one standard error.
        far: similarity to the nearest list's centre that 499 of 500 queries exceed; one that does not is unlike the vectors
            that the figures were measured on, and is looked for in more lists.
        slack: by how much the exact cosine of a candidate exceeds the score of its code at most, but for one in a thousand.
        margin: of the `nprobe` nearest lists those are passed over whose centre is less similar to the query than the
            nearest one's by more than this (as Chen et al., SPANN, NeurIPS 2021, section 3.2, prune their lists). A query in
            the middle of a cluster needs few lists, one between clusters many: for the same recall less than half of the
            codes are looked at. None: all of them are.
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


def tuned(index: Any, values: NDArray[np.float32], kind: str, wanted: float) -> Tuned:
    """The cheapest number of lists and of candidates at which `wanted` of the true twenty nearest are found.

    The queries are rows of the vectors themselves, each looked for among all others. `wanted` has to be reached by more
    than one standard error, so that choosing among many settings does not flatter the figure.
    """
    k = min(RECALL_AT, len(values) - 1)
    if kind == "exact" or k < 1:
        return Tuned(0, 1, 1.0, 0.0, 0, True)
    rows = sample_queries(values, MOST_QUERIES)
    queries, truth, who = exact_neighbours(values, rows, k)
    ivf = inner(index)
    looking, seen = scanner(ivf), turned(index, queries)
    near, lists = ivf.quantizer.search(seen, min(ivf.nlist, _WIDEST))
    far = float(np.quantile(near[:, 0], 0.002))
    best: tuple[float, Tuned] | None = None
    fallback: Tuned | None = None
    for nprobe, margin, codes in _ways(ivf, len(values), near, lists, who, wanted):
        if best is not None and codes >= best[0]:
            break  # already dearer than what is enough
        factors = _FACTORS[kind]
        if nprobe > lists.shape[1]:
            near, lists = ivf.quantizer.search(seen, nprobe)
        some = pruned(near[:, :nprobe], lists[:, :nprobe], margin)
        found, scores = scan(looking, seen, factors[-1] * k + 1, near[:, :nprobe], some)
        alike = cosines(values, queries, np.where(found == rows[:, None], -1, found))
        there = np.isfinite(alike)
        slack = float(np.quantile(alike[there] - scores[there], _WITHIN)) if there.any() else None
        for factor in factors:
            mean, error = _recall(alike[:, : factor * k + 1], truth, k)
            reached = mean - error >= wanted or mean == 1.0
            this = Tuned(nprobe, factor, mean, error, len(rows), reached, far, slack, margin)
            if this.reached:
                looked_at = (min(factor, 2) + max(0, factor - 2) / _FEWER) * k
                cost = codes + looked_at * _EXACT_COST[kind]
                if best is None or cost < best[0]:
                    best = cost, this
                break
            if fallback is None or this.recall > fallback.recall:
                fallback = this
    if best is not None:
        return best[1]
    assert fallback is not None
    return fallback


def _ways(
    ivf: Any,
    n: int,
    near: NDArray[np.float32],
    lists: NDArray[np.int64],
    who: NDArray[np.int64],
    wanted: float,
) -> list[tuple[int, float | None, float]]:
    """(nprobe, margin, mean number of codes looked at) that may do, the cheapest first.

    Which list each true neighbour lies in tells, before any code is read, what share of them a way can find at most. Of all
    that can find as much, the one that looks at the fewest codes is worth a try, for several such shares: the codes
    themselves lose some again.

    Args:
        near, lists: (m, widest) each query's nearest lists.
        who: (m, k) its true neighbours.
    """
    sizes = np.array([ivf.invlists.list_size(i) for i in range(ivf.nlist)], dtype=np.float64)
    home = list_of_row(ivf, n)[who]  # (m, k)
    gap = (near[:, :1] - near).astype(np.float64)
    there = lists[:, None, :] == home[:, :, None]
    rank = np.where(there.any(axis=2), there.argmax(axis=2), lists.shape[1])
    apart = np.where(
        rank < lists.shape[1], np.take_along_axis(gap, np.minimum(rank, lists.shape[1] - 1), axis=1), np.inf
    )
    met = apart[np.isfinite(apart)]
    margins = [float(m) for m in np.unique(np.quantile(met, _MARGINS))] if len(met) else []
    told: list[tuple[float, float, int, float | None]] = []
    held = sizes[lists]
    for nprobe in _steps(ivf.nlist):
        inside = min(nprobe, lists.shape[1])
        for margin in (*margins, None) if nprobe <= lists.shape[1] else (None,):
            within = np.inf if margin is None else margin
            codes = float((held[:, :inside] * (gap[:, :inside] <= within)).sum(axis=1).mean()) * nprobe / inside
            most = float(((rank < nprobe) & (apart <= within)).mean()) if nprobe <= lists.shape[1] else 1.0
            told.append((codes, most, nprobe, margin))
    told.sort(key=lambda way: way[0])
    chosen = {min((i for i, way in enumerate(told) if way[1] >= share), default=len(told) - 1)
              for share in (wanted + (1 - wanted) * over for over in _OVER)}  # fmt: skip
    worth = [told[i] for i in sorted(chosen)]
    wider = [
        way for way in told if way[3] is None and way[0] > worth[-1][0]
    ]  # where even the best of these finds too few
    return [(nprobe, margin, codes) for codes, _, nprobe, margin in (*worth, *wider)]


def _recall(alike: NDArray[np.float32], truth: NDArray[np.float32], k: int) -> tuple[float, float]:
    """Mean and standard error; a candidate is right if it is as similar as the k-th true neighbour: of copies any will do.

    Args:
        alike: (m, candidates) exact cosines.
        truth: (m, k) those of the true neighbours.
    """
    right = np.minimum((alike >= truth[:, k - 1 : k] - _TIE).sum(axis=1), k) / k
    return float(right.mean()), float(right.std() / np.sqrt(len(right)))


def _steps(lists: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … up to all lists."""
    steps = {lists}
    for power in range(0, 17):
        steps |= {s for s in (2**power, 3 * 2 ** (power - 1) if power else 1) if s < lists}
    return sorted(steps)
