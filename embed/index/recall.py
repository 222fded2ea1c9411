"""Recall measured on the user's own vectors, and the cheapest search that reaches what was wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.index.build import inner, scanner, turned
from embed.index.exact import cosines, exact_neighbours, sample_queries
from embed.index.library import faiss

RECALL_AT = 20
MOST_QUERIES = 1_000
_WITHIN = 0.999  # of the candidates' exact cosines exceed their score by no more than the slack
_FEWER = 4  # of the candidates after the first 2 k about so many times fewer may still enter
_TIE = 1e-6  # rounding: of two copies either is right
_EXACT_COST = {"ivf-sq8": 10, "ivf-pq": 40}  # one exact cosine from the file costs about as much as so many codes
_FACTORS = {"ivf-sq8": (1, 2, 4, 8, 16, 32), "ivf-pq": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)}


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
        far: similarity to the nearest list's centre that 99 of 100 queries exceed; one that does not is unlike the vectors
            that the figures were measured on, and is looked for in more lists.
        slack: by how much the exact cosine of a candidate exceeds the score of its code at most, but for one in a thousand.
    """

    nprobe: int
    factor: int
    recall: float
    error: float
    queries: int
    reached: bool
    far: float = -1.0
    slack: float | None = None


def tuned(index: Any, values: NDArray[np.float32], kind: str, wanted: float) -> Tuned:
    """The cheapest number of lists and of candidates at which `wanted` of the true twenty nearest are found.

    The queries are rows of the vectors themselves, each looked for among all others. `wanted` has to be reached by more
    than one standard error, so that choosing among many settings does not flatter the figure.
    """
    k = min(RECALL_AT, len(values) - 1)
    if kind == "exact" or k < 1:
        return Tuned(0, 1, 1.0, 0.0, 0, True)
    rows = sample_queries(values, MOST_QUERIES)
    queries, truth = exact_neighbours(values, rows, k)
    ivf = inner(index)
    looking, seen = scanner(ivf), turned(index, queries)
    far = float(np.quantile(ivf.quantizer.search(seen, 1)[0][:, 0], 0.01))
    sizes = np.array([ivf.invlists.list_size(i) for i in range(ivf.nlist)], dtype=np.float64)
    scanned = float((sizes**2).sum() / max(sizes.sum(), 1))  # large lists are looked through more often
    best: tuple[float, Tuned] | None = None
    fallback: Tuned | None = None
    for nprobe in _steps(ivf.nlist):
        if best is not None and nprobe * scanned >= best[0]:
            break  # already dearer than what is enough
        factors = _FACTORS[kind]
        params = faiss.SearchParametersIVF(nprobe=nprobe)
        scores, found = looking.search(seen, factors[-1] * k + 1, params=params)
        alike = cosines(values, queries, np.where(found == rows[:, None], -1, found))
        there = np.isfinite(alike)
        slack = float(np.quantile(alike[there] - scores[there], _WITHIN)) if there.any() else None
        for factor in factors:
            mean, error = _recall(alike[:, : factor * k + 1], truth, k)
            this = Tuned(nprobe, factor, mean, error, len(rows), mean - error >= wanted or mean == 1.0, far, slack)
            if this.reached:
                looked_at = (min(factor, 2) + max(0, factor - 2) / _FEWER) * k
                cost = nprobe * scanned + looked_at * _EXACT_COST[kind]
                if best is None or cost < best[0]:
                    best = cost, this
                break
            if fallback is None or this.recall > fallback.recall:
                fallback = this
    if best is not None:
        return best[1]
    assert fallback is not None
    return fallback


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
