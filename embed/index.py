"""The FAISS index of a vector store: exact while that is fast enough, inverted lists with 8-bit codes beyond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cohort.errors import UserError
from cohort.runs import atomic_path
from embed.neighbours import normalised

EXACT_UP_TO = 100_000
_TRAIN_PER_LIST = 64


def build_index(values: NDArray[np.float32], exact_up_to: int = EXACT_UP_TO) -> Any:
    """An inner-product index over (n, dim) float32 rows scaled to length 1, so that scores are cosines."""
    n, dim = values.shape
    if n <= exact_up_to:
        index: Any = faiss.IndexFlatIP(dim)
        index.add(normalised(values))
        return index
    n_lists = int(4 * np.sqrt(n))
    index = faiss.index_factory(dim, f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.sort(np.random.default_rng(0).choice(n, min(n, n_lists * _TRAIN_PER_LIST), replace=False))
    index.train(normalised(values[sample]))
    for start in range(0, n, 65_536):  # never a second copy of everything
        index.add(normalised(values[start : start + 65_536]))
    index.nprobe = 16
    return index


def write_index(folder: Path, index: Any) -> None:
    """`index.faiss`, atomically."""
    with atomic_path(folder / "index.faiss") as temporary:
        faiss.write_index(index, str(temporary))


def read_index(folder: Path, n: int) -> Any:
    """The index of a vector store of `n` rows.

    Raises:
        UserError: missing, damaged, or made from other vectors.
    """
    path = folder / "index.faiss"
    if not path.is_file():
        raise UserError(f"{path}: is missing; run `pellucid embed` again")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError:
        raise UserError(f"{path}: is damaged; run `pellucid embed` again") from None
    if index.ntotal != n:
        raise UserError(f"{path}: holds {index.ntotal} vectors, but vectors.npy has {n}; run `pellucid embed` again")
    return index
