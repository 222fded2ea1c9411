"""Exact nearest rows by cosine, block by block over memory-mapped vectors: the reference for measuring recall."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.training import unit_blocks
from pellucid.embed.index.untyped_faiss import faiss

_BLOCK_CELLS = 16_000_000  # similarities at once: 64 MB
_CACHE_BYTES = 8_000_000  # candidates processed together, so that they stay in the processor's cache


def exact_search(
    values: NDArray[np.float32], queries: NDArray[np.float32], k: int, rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` most similar rows to each query.

    Args:
        values: (n, dim) float32 rows of any length, possibly memory-mapped.
        queries: (m, dim) float32 of length 1.
        rows: which rows may be found; None: all.

    Returns:
        (m, k) cosines and (m, k) rows, the most similar first; padded with −inf and −1.
    """
    m = len(queries)
    best = np.full((m, k), -np.inf, np.float32)
    best_rows = np.full((m, k), -1, np.int64)
    at_once = max(1, _BLOCK_CELLS // 65_536)
    for start, block in unit_blocks(values, rows):
        for first in range(0, m, at_once):
            part = slice(first, min(first + at_once, m))
            similarity = queries[part] @ block.T
            take = min(k, similarity.shape[1])
            found = np.argpartition(-similarity, take - 1, axis=1)[:, :take]
            both = np.concatenate([best[part], np.take_along_axis(similarity, found, axis=1)], axis=1)
            ids = found + start if rows is None else rows[found + start]
            both_rows = np.concatenate([best_rows[part], ids], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best[part] = np.take_along_axis(both, order, axis=1)
            best_rows[part] = np.take_along_axis(both_rows, order, axis=1)
    return best, best_rows


def cosines(
    values: NDArray[np.float32],
    queries: NDArray[np.float32],
    found: NDArray[np.int64],
    lengths: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """(m, width) exact cosines of each query with its candidates, −inf for none.

    Args:
        values: (n, dim) float32 rows of any length, possibly memory-mapped.
        queries: (m, dim) float32 of length 1.
        found: (m, width) candidate rows, −1 for none.
        lengths: (n,) lengths of the rows if known; otherwise computed for the candidates.
    """
    similarity = np.full(found.shape, -np.inf, np.float32)
    base = values if values.flags.c_contiguous and values.dtype == np.float32 else np.ascontiguousarray(values, "f4")
    width, dim = found.shape[1], values.shape[1]
    at_once = max(1, _CACHE_BYTES // max(1, 4 * width * dim))
    origin = np.zeros((min(at_once, len(found)), dim), np.float32)
    for first in range(0, len(found), at_once):  # FAISS's loops read the rows in place, without a copy
        part = slice(first, first + at_once)
        ids, unit = np.ascontiguousarray(found[part]), np.ascontiguousarray(queries[part])
        dots, norms = np.empty(ids.shape, np.float32), np.empty(ids.shape, np.float32)
        to, rows = faiss.swig_ptr(base), faiss.swig_ptr(ids)
        faiss.fvec_inner_products_by_idx(faiss.swig_ptr(dots), faiss.swig_ptr(unit), to, rows, dim, len(ids), width)
        if lengths is not None:
            norms = lengths[np.maximum(ids, 0)]
        else:
            faiss.fvec_L2sqr_by_idx(faiss.swig_ptr(norms), faiss.swig_ptr(origin), to, rows, dim, len(ids), width)
            norms = np.sqrt(np.where(ids >= 0, norms, 1))
        similarity[part] = np.where(ids >= 0, np.clip(dots / np.maximum(norms, 1e-12), -1, 1), -np.inf)
    return similarity


def lengths_of(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) lengths of the rows, computed in blocks."""
    found = np.empty(len(values), np.float32)
    for start in range(0, len(values), 65_536):
        block = np.asarray(values[start : start + 65_536], dtype=np.float32)
        found[start : start + 65_536] = np.sqrt(np.einsum("nd,nd->n", block, block))
    return found


def sample_queries(values: NDArray[np.float32], most: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw rows as queries, few enough that an exact search computes at most about 10¹⁰ similarities."""
    n = len(values)
    wanted = int(min(most, n, max(200, 2_000_000_000 // n)))
    return np.sort(np.random.default_rng(seed).choice(n, wanted, replace=False)).astype(np.int64)


def exact_neighbours(
    values: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """The true `k` nearest rows of each of the given rows, without the row itself.

    Returns:
        (m, dim) queries of length 1, (m, k) cosines and (m, k) rows.
    """
    queries = normalised(np.asarray(values[rows], dtype=np.float32))
    similarity, found = exact_search(values, queries, k + 1)
    own = found == rows[:, None]
    own[~own.any(axis=1), -1] = True  # more than k exact copies: drop one of them instead of the row itself
    return queries, similarity[~own].reshape(len(rows), -1), found[~own].reshape(len(rows), -1)
