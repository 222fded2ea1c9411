"""Which kind of index: exact as long as that is fast, 8-bit inverted lists beyond, product codes where memory is short."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from cohort.config import Config

Kind = Literal["exact", "ivf-sq8", "ivf-pq"]

EXACT_UP_TO = 100_000  # vectors; below, looking at all of them takes under a millisecond each
MOST_LISTS = 65_536
TRAIN_PER_LIST = 64  # vectors per list that the centroids are learned from; FAISS asks for 39 at least
CODE_BITS = 4  # of a product code: sixteen sums fit into one register
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


def n_codes(dim: int) -> int:
    """How many 4-bit codes a vector has: the most that divide it evenly, at most one for two dimensions."""
    return max(m for m in range(1, max(1, dim // 2) + 1) if dim % m == 0)


def code_length(dim: int) -> int:
    """Bytes that the codes of a vector take."""
    return -(-n_codes(dim) * CODE_BITS // 8)


def index_bytes(kind: Kind, n: int, dim: int) -> int:
    """About how many bytes an index of that kind has."""
    if kind == "exact":
        return 4 * n * dim
    fixed = 4 * dim * n_lists(n) + (4 * dim * 2**CODE_BITS if kind == "ivf-pq" else 0)
    return n * (_ID_BYTES + (dim if kind == "ivf-sq8" else code_length(dim))) + fixed


def choose_kind(n: int, dim: int, kind: str = "auto", memory_gb: float | None = None) -> Kind:
    """The kind for `n` vectors of `dim` dimensions.

    Args:
        kind: one of `Kind`, or auto: exact up to 100,000 vectors, ivf-sq8 beyond, and the first of exact, ivf-sq8 and
            ivf-pq from there on that fits into the memory.
        memory_gb: what the index may take, in 10⁹ bytes; None: half of the machine's memory.
    """
    if n < _LEAST_FOR_LISTS:
        return "exact"  # whatever was asked for: there is nothing to learn lists from
    if kind in ("exact", "ivf-sq8", "ivf-pq"):
        return kind  # type: ignore[return-value]
    budget = 1e9 * memory_gb if memory_gb is not None else _machine_bytes() / 2
    order: tuple[Kind, ...] = ("exact", "ivf-sq8") if n <= EXACT_UP_TO else ("ivf-sq8",)
    return next((k for k in order if index_bytes(k, n, dim) <= budget), "ivf-pq")


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
