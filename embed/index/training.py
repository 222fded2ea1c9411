"""Train and fill a FAISS index block by block, so that memory never holds a second copy of the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.gpu import clustering_on_gpu
from pellucid.embed.index.kind import CODE_BITS, TRAIN_PER_LIST, Kind, coded_dimensions, n_lists
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.untyped_faiss import faiss

BLOCK = 65_536


def unit_blocks(values: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> Iterator[tuple[int, Any]]:
    """Yield (start, rows scaled to length 1) block by block, of all rows or of `rows` in that order."""
    n = len(values) if rows is None else len(rows)
    for start in range(0, n, BLOCK):
        part = values[start : start + BLOCK] if rows is None else values[rows[start : start + BLOCK]]
        yield start, normalised(np.asarray(part, dtype=np.float32))


def filled(values: NDArray[np.float32], kind: Kind) -> Any:
    """A FAISS inner-product index over (n, dim) float32 rows scaled to length 1; row i has the id i."""
    index = trained(values, kind)
    if kind == "exact":
        for _, block in unit_blocks(values):
            index.add(block)
        return index
    for start, block in unit_blocks(values):
        index.add_with_ids(block, np.arange(start, start + len(block), dtype=np.int64))
    return index


def trained(values: NDArray[np.float32], kind: Kind) -> Any:
    """An empty index of that kind, with lists and codes trained on a sample of the vectors."""
    n, dim = values.shape
    if kind == "exact":
        return faiss.IndexFlatIP(dim)
    lists = n_lists(n)
    sample = np.sort(np.random.default_rng(0).choice(n, min(n, lists * TRAIN_PER_LIST), replace=False))
    unit = normalised(np.asarray(values[sample], dtype=np.float32))
    index: Any
    if kind == "ivf-sq8":
        index = ivf = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
    else:
        kept = coded_dimensions(dim)
        ivf = faiss.IndexIVFPQ(faiss.IndexFlatIP(kept), kept, lists, kept, CODE_BITS, faiss.METRIC_INNER_PRODUCT)
        ivf.pq.cp.min_points_per_centroid = 1
        index = faiss.IndexPreTransform(_projection(unit, kept), ivf)
    with clustering_on_gpu(ivf):
        index.train(unit)
    return index


def _projection(unit: NDArray[np.float32], kept: int) -> Any:
    """Projection onto the `kept` directions of largest variance, followed by a random rotation.

    Codes have the same number of bits in each dimension. Without the rotation their steps would be coarsest in the
    directions that matter most, and 384 codes would find less than 192 do with it (benchmarks/LOG.md).
    """
    dim = unit.shape[1]
    directions = np.linalg.eigh((unit.T @ unit).astype(np.float64))[1][:, ::-1][:, :kept]
    mixed = directions @ np.linalg.qr(np.random.default_rng(0).normal(size=(kept, kept)))[0]
    projection = faiss.LinearTransform(dim, kept, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(mixed.T, dtype=np.float32).ravel(), projection.A)
    projection.is_trained = True
    return projection


def scanner(ivf: Any) -> Any:
    """The object that scans the lists: product codes laid out for SIMD registers (André et al., VLDB 2015), in memory.

    A query reads half a byte per dimension of a vector, and reading dominates the time. The file keeps plain lists,
    from which entries can be removed.
    """
    return faiss.IndexIVFPQFastScan(ivf) if isinstance(ivf, faiss.IndexIVFPQ) else ivf


def inner(index: Any) -> Any:
    """The inverted-list index inside an index, after any projection; None for an exact index."""
    found = faiss.try_extract_index_ivf(index)
    if found is None:
        return None
    lists = faiss.downcast_index(found)
    lists.referenced_objects = [index]  # keeps their owner alive; otherwise the pointer would dangle
    return lists


def projected(index: Any, unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, dim) rows → the projected rows that the inverted lists contain."""
    if not isinstance(index, faiss.IndexPreTransform):
        return np.ascontiguousarray(unit)
    return np.asarray(index.chain.at(0).apply(unit), dtype=np.float32)
