"""Training and filling of an index, block by block, so that no second copy of the vectors is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.index.choose import TRAIN_PER_LIST, Kind, code_length, n_lists
from embed.index.gpu import clustering_on_gpu
from embed.index.library import faiss
from embed.neighbours import normalised

BLOCK = 65_536
_TURN_TRAINING = 16_384  # vectors that the rotation is learned from: 64 for each of 256 codes


def unit_blocks(values: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> Iterator[tuple[int, Any]]:
    """(start, rows scaled to length 1) a block at a time; `rows` picks which, in that order."""
    n = len(values) if rows is None else len(rows)
    for start in range(0, n, BLOCK):
        part = values[start : start + BLOCK] if rows is None else values[rows[start : start + BLOCK]]
        yield start, normalised(np.asarray(part, dtype=np.float32))


def filled(values: NDArray[np.float32], kind: Kind) -> Any:
    """A FAISS index by inner product over (n, dim) float32 rows scaled to length 1, row i under the id i."""
    index = trained(values, kind)
    if kind == "exact":
        for _, block in unit_blocks(values):
            index.add(block)
        return index
    for start, block in unit_blocks(values):
        index.add_with_ids(block, np.arange(start, start + len(block), dtype=np.int64))
    return index


def trained(values: NDArray[np.float32], kind: Kind) -> Any:
    """An empty index of that kind, its lists and codes learned from a sample of the vectors."""
    n, dim = values.shape
    if kind == "exact":
        return faiss.IndexFlatIP(dim)
    lists = n_lists(n)
    index: Any
    ivf: Any
    if kind == "ivf-sq8":
        ivf = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index = ivf
    else:
        # OPQ turns the space so that the parts of a product code are about equally hard (Ge et al., CVPR 2013).
        m = code_length(dim)
        turned = dim - dim % m
        ivf = faiss.IndexIVFPQ(faiss.IndexFlatIP(turned), turned, lists, m, 8, faiss.METRIC_INNER_PRODUCT)
        turn = faiss.OPQMatrix(dim, m, turned)
        # FAISS's defaults (50 rounds) take most of an hour on one core at 384 dimensions, for recall that exact cosines
        # of twice as many candidates give as well.
        turn.max_train_points = _TURN_TRAINING
        turn.niter, turn.niter_pq, turn.niter_pq_0 = 6, 2, 8
        ivf.pq.cp.niter = 10
        learner = faiss.ProductQuantizer(turned, m, 8)
        turn.pq = learner
        for codes in (learner.cp, ivf.pq.cp):
            codes.min_points_per_centroid, codes.max_points_per_centroid = 1, 256
        index = faiss.IndexPreTransform(turn, ivf)
    sample = np.sort(np.random.default_rng(0).choice(n, min(n, lists * TRAIN_PER_LIST), replace=False))
    if ivf is not index:
        few = sample[
            np.sort(np.random.default_rng(1).choice(len(sample), min(len(sample), _TURN_TRAINING), replace=False))
        ]
        turn.train(normalised(np.asarray(values[few], dtype=np.float32)))
    with clustering_on_gpu(ivf):
        index.train(normalised(np.asarray(values[sample], dtype=np.float32)))
    if ivf is not index:
        turn.pq = None  # its codebooks were only a help in learning the rotation
    return index


def inner(index: Any) -> Any:
    """The inverted lists inside an index, whatever turns the vectors before; None for an exact one."""
    found = faiss.try_extract_index_ivf(index)
    if found is None:
        return None
    lists = faiss.downcast_index(found)
    lists.referenced_objects = [index]  # which owns them: freed, it would leave a pointer into nothing
    return lists


def turned(index: Any, unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """(m, dim) rows as the inverted lists see them."""
    if not isinstance(index, faiss.IndexPreTransform):
        return unit
    return np.asarray(index.chain.at(0).apply(unit), dtype=np.float32)
