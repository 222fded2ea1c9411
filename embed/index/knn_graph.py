"""The exact k-nearest-neighbour graph, used by map and clusters; rows of unit length."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray


def normalised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length 1 (a zero row stays zero), as a new contiguous array."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.maximum(lengths, 1e-12), dtype=np.float32)


def knn_graph(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Exact nearest neighbours by cosine distance.

    Args:
        values: (n, dim) float32.
        k: number of neighbours including the point itself; at most n.

    Returns:
        (n, k) int64 indices and (n, k) float32 distances 1 − cos in 0–2, nearest first, the point itself in column 0.
    """
    unit = normalised(values)
    n, dim = unit.shape
    k = min(k, n)
    index = faiss.IndexFlatIP(dim)
    index.add(unit)
    similarity, found = index.search(unit, k)
    distances = np.clip(1 - similarity, 0, 2).astype(np.float32)
    own = np.arange(n)
    for row in np.flatnonzero(found[:, 0] != own):  # an exact duplicate may precede the point itself
        place = np.flatnonzero(found[row] == row)
        last = int(place[0]) if len(place) else k - 1
        found[row, 1 : last + 1] = found[row, :last].copy()
        distances[row, 1 : last + 1] = distances[row, :last].copy()
        found[row, 0] = row
    distances[:, 0] = 0
    return found.astype(np.int64), distances
