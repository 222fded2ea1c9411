"""Which kind of index: exact as long as that is fast, inverted lists of 4-bit codes beyond, of 8-bit codes for a GPU."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from pellucid.cohort.config import Config
from pellucid.embed.index.gpu import n_gpus

Kind = Literal["exact", "ivf-sq8", "ivf-pq"]

EXACT_UP_TO = 100_000  # vectors; below, looking at all of them takes under a millisecond each
MOST_LISTS = 65_536
TRAIN_PER_LIST = 64  # vectors per list that the centroids are learned from; FAISS asks for 39 at least
CODE_BITS = 4  # for each dimension of a product code: its sixteen products with a query fit into one register
_LEAST_FOR_LISTS = 1_000
_ID_BYTES = 8


class IndexConfig(Config):
    """`embed: index:` of study.yaml."""

    kind: Literal["auto", "exact", "ivf-sq8", "ivf-pq"] = "auto"
    recall: float = Field(0.98, gt=0, le=1)  # share of the true twenty nearest that a search must find
    memory_gb: float | None = Field(None, gt=0)  # what the index may take; None: half of the machine's memory


def n_lists(n: int) -> int:
    """Inverted lists for `n` vectors: 4 √n."""
    return max(1, min(MOST_LISTS, int(4 * n**0.5), n // TRAIN_PER_LIST))


def coded_dimensions(dim: int) -> int:
    """In how many directions 4-bit codes are taken: two thirds of many dimensions, in multiples of eight."""
    return dim if dim < 96 else round(dim / 12) * 8


def code_length(dim: int) -> int:
    """Bytes that the 4-bit codes of a vector take."""
    return -(-coded_dimensions(dim) * CODE_BITS // 8)


def index_bytes(kind: Kind, n: int, dim: int) -> int:
    """About how many bytes an index of that kind has."""
    if kind == "exact":
        return 4 * n * dim
    fixed = 4 * dim * n_lists(n) + (4 * dim * (dim + 2**CODE_BITS) if kind == "ivf-pq" else 0)
    return n * (_ID_BYTES + (dim if kind == "ivf-sq8" else code_length(dim))) + fixed


def choose_kind(n: int, dim: int, kind: str = "auto", memory_gb: float | None = None) -> Kind:
    """The kind for `n` vectors of `dim` dimensions.

    Args:
        kind: one of `Kind`, or auto: exact up to 100,000 vectors, beyond (or where that does not fit into the memory)
            ivf-pq, and where FAISS has a GPU ivf-sq8, which is searched there.
        memory_gb: what the index may take, in 10⁹ bytes; None: half of the machine's memory.
    """
    if n < _LEAST_FOR_LISTS:
        return "exact"  # whatever was asked for: there is nothing to learn lists from
    if kind in ("exact", "ivf-sq8", "ivf-pq"):
        return kind  # type: ignore[return-value]
    budget = budget_bytes(memory_gb)
    if n <= EXACT_UP_TO and index_bytes("exact", n, dim) <= budget:
        return "exact"
    return "ivf-sq8" if n_gpus() and index_bytes("ivf-sq8", n, dim) <= budget else "ivf-pq"


def budget_bytes(memory_gb: float | None) -> float:
    """What an index may take: so many 10⁹ bytes, or half of the machine's memory."""
    return 1e9 * memory_gb if memory_gb is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
