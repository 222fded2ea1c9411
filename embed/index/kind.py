"""Choose the kind of index: exact while that is fast, then inverted lists of 4-bit codes, or of 8-bit codes on a
GPU."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from pellucid.cohort.config import Config
from pellucid.embed.index.gpu import n_gpus

Kind = Literal["exact", "ivf-sq8", "ivf-pq"]

EXACT_UP_TO = 100_000  # vectors; up to here an exact search takes less than a millisecond per query
MOST_LISTS = 65_536
TRAIN_PER_LIST = 64  # training vectors per centroid; FAISS requires at least 39
CODE_BITS = 4  # per dimension of a product code: its sixteen products with a query fit into one register
_LEAST_FOR_LISTS = 1_000
_ID_BYTES = 8


class IndexConfig(Config):
    """`embed: index:` of study.yaml."""

    kind: Literal["auto", "exact", "ivf-sq8", "ivf-pq"] = "auto"
    recall: float = Field(0.98, gt=0, le=1)  # share of the true twenty nearest that a search must find
    memory_gb: float | None = Field(None, gt=0)  # limit for the size of the index; None: half of the machine's memory


def n_lists(n: int) -> int:
    """Number of inverted lists for `n` vectors: 4 √n."""
    return max(1, min(MOST_LISTS, int(4 * n**0.5), n // TRAIN_PER_LIST))


def coded_dimensions(dim: int) -> int:
    """Number of directions that 4-bit codes keep: all below 96 dimensions, else two thirds, in multiples of eight."""
    return dim if dim < 96 else round(dim / 12) * 8


def code_length(dim: int) -> int:
    """Bytes of the 4-bit codes of one vector."""
    return -(-coded_dimensions(dim) * CODE_BITS // 8)


def index_bytes(kind: Kind, n: int, dim: int) -> int:
    """Approximate size of an index of that kind in bytes."""
    if kind == "exact":
        return 4 * n * dim
    fixed = 4 * dim * n_lists(n) + (4 * dim * (dim + 2**CODE_BITS) if kind == "ivf-pq" else 0)
    return n * (_ID_BYTES + (dim if kind == "ivf-sq8" else code_length(dim))) + fixed


def choose_kind(n: int, dim: int, kind: str = "auto", memory_gb: float | None = None) -> Kind:
    """The kind for `n` vectors of `dim` dimensions.

    Args:
        kind: one of `Kind`, or auto: exact up to 100,000 vectors that fit into memory; otherwise ivf-pq, or ivf-sq8 if
            FAISS can search it on a GPU.
        memory_gb: limit for the size of the index, in 10⁹ bytes; None: half of the machine's memory.
    """
    if n < _LEAST_FOR_LISTS:
        return "exact"  # too few vectors to train lists, for any requested kind
    if kind in ("exact", "ivf-sq8", "ivf-pq"):
        return kind  # type: ignore[return-value]
    budget = budget_bytes(memory_gb)
    if n <= EXACT_UP_TO and index_bytes("exact", n, dim) <= budget:
        return "exact"
    return "ivf-sq8" if n_gpus() and index_bytes("ivf-sq8", n, dim) <= budget else "ivf-pq"


def budget_bytes(memory_gb: float | None) -> float:
    """Limit for the size of an index in bytes: `memory_gb` · 10⁹, or half of the machine's memory."""
    return 1e9 * memory_gb if memory_gb is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
