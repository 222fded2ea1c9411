"""Inverted lists from outside: which rows stand in one, which lists a query looks through, and looking through them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.untyped_faiss import faiss


def pruned(near: NDArray[np.float32], lists: NDArray[np.int64], margin: float | None) -> NDArray[np.int64]:
    """(m, p) the lists that are looked through, −1 for those passed over."""
    if margin is None:
        return np.ascontiguousarray(lists)
    return np.where(near[:, :1] - near <= margin, lists, -1)


def scan(
    looking: Any,
    seen: NDArray[np.float32],
    k: int,
    near: NDArray[np.float32],
    lists: NDArray[np.int64],
    selector: Any = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(m, k) rows, −1 for none, and scores by their codes in the (m, p) lists given."""
    scores, rows = np.empty((len(seen), k), np.float32), np.empty((len(seen), k), np.int64)
    seen, lists, near = np.ascontiguousarray(seen), np.ascontiguousarray(lists), np.ascontiguousarray(near)
    more = {} if selector is None else {"sel": selector}
    params = faiss.SearchParametersIVF(nprobe=lists.shape[1], **more)
    to = faiss.swig_ptr
    looking.search_preassigned_c(len(seen), to(seen), k, to(lists), to(near), to(scores), to(rows), False, params)
    return rows, scores


def list_ids(lists: Any, number: int) -> NDArray[np.int64]:
    """The rows in one inverted list, as a copy."""
    size = lists.list_size(number)
    if not size:
        return np.empty(0, np.int64)
    pointer = lists.get_ids(number)
    try:
        return np.array(faiss.rev_swig_ptr(pointer, size), dtype=np.int64)
    finally:
        lists.release_ids(number, pointer)


def list_of_row(ivf: Any, n: int) -> NDArray[np.int32]:
    """(n,) in which list each row stands."""
    where = np.zeros(n, np.int32)
    for number in range(ivf.nlist):
        where[list_ids(ivf.invlists, number)] = number
    return where
