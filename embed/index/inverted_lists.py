"""Direct access to FAISS inverted lists: the rows in a list, the lists to scan for a query, and scanning them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.untyped_faiss import faiss


def pruned(near: NDArray[np.float32], lists: NDArray[np.int64], margin: float | None) -> NDArray[np.int64]:
    """(m, p) the lists to scan, −1 for those that are skipped."""
    if margin is None:
        return np.ascontiguousarray(lists)
    return np.where(near[:, :1] - near <= margin, lists, -1)


def scan(
    scanner: Any,
    inner_queries: NDArray[np.float32],
    k: int,
    near: NDArray[np.float32],
    lists: NDArray[np.int64],
    selector: Any = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Scan the (m, p) lists given: (m, k) rows, −1 for none, and their scores computed from the codes."""
    n_queries = len(inner_queries)
    scores, rows = np.empty((n_queries, k), np.float32), np.empty((n_queries, k), np.int64)
    inner_queries, lists = np.ascontiguousarray(inner_queries), np.ascontiguousarray(lists)
    near = np.ascontiguousarray(near)
    more = {} if selector is None else {"sel": selector}
    params = faiss.SearchParametersIVF(nprobe=lists.shape[1], **more)
    to = faiss.swig_ptr
    scanner.search_preassigned_c(
        n_queries, to(inner_queries), k, to(lists), to(near), to(scores), to(rows), False, params
    )
    return rows, scores


def list_ids(lists: Any, number: int) -> NDArray[np.int64]:
    """A copy of the row numbers in one inverted list."""
    size = lists.list_size(number)
    if not size:
        return np.empty(0, np.int64)
    pointer = lists.get_ids(number)
    try:
        return np.array(faiss.rev_swig_ptr(pointer, size), dtype=np.int64)
    finally:
        lists.release_ids(number, pointer)


def list_of_row(ivf: Any, n: int) -> NDArray[np.int32]:
    """(n,) the list that contains each row."""
    where = np.zeros(n, np.int32)
    for number in range(ivf.nlist):
        where[list_ids(ivf.invlists, number)] = number
    return where
