"""Build the index of a vector store: choose its kind, train, fill, tune to the required recall, and write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.embed.index.index_files import pieces_of_rows, sha256_rows, write_index
from pellucid.embed.index.kind import budget_bytes, choose_kind, index_bytes
from pellucid.embed.index.novelty import cohort_distances
from pellucid.embed.index.query import Index
from pellucid.embed.index.recall_tuning import SearchSettings, tuned
from pellucid.embed.index.training import filled, inner


def build_index(
    folder: Path,
    values: NDArray[np.float32],
    space: str | None,
    wanted_recall: float = 0.98,
    kind: str = "auto",
    memory_gb: float | None = None,
    patients: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Write `index.faiss` and `index.json` of (n, dim) float32 vectors.

    Args:
        folder: folder of the vector store; an existing index is replaced.
        values: possibly memory-mapped; never copied as a whole.
        space: hash of everything that makes two vectors comparable (`Vectors.space`).
        wanted_recall: share of the true twenty nearest that a search must find.
        kind: auto, exact, ivf-sq8 or ivf-pq.
        memory_gb: limit for the size of the index, in 10⁹ bytes; None: half of the machine's memory.
        patients: (n,) patient of each row; if given, `index.json` also records distances between images of different
            patients.

    Returns:
        The content of `index.json`. If `kind` is auto and inverted lists do not reach the recall, the index is exact.
    """
    began = time.monotonic()
    n, dim = values.shape
    chosen = choose_kind(n, dim, kind, memory_gb)
    index = filled(values, chosen)
    settings = tuned(index, values, chosen, wanted_recall)
    instead = ""
    if not settings.reached and kind == "auto" and index_bytes("exact", n, dim) <= budget_bytes(memory_gb):
        instead = f"{chosen} found only {settings.recall:.3f} of the true neighbours"
        chosen = "exact"
        index = filled(values, chosen)
        settings = tuned(index, values, chosen, wanted_recall)
    more = {"instead": instead}
    return write_tuned(folder, index, values, space, chosen, wanted_recall, settings, began, patients, more)


def write_tuned(
    folder: Path,
    index: Any,
    values: NDArray[np.float32],
    space: str | None,
    kind: str,
    wanted: float,
    settings: SearchSettings,
    began: float,
    patients: NDArray[Any] | None,
    more: dict[str, Any],
) -> dict[str, Any]:
    """Write a filled and tuned index with its description; returns the content of `index.json`."""
    ivf = inner(index)
    if ivf is not None:
        ivf.nprobe = settings.nprobe
    record: dict[str, Any] = {
        "kind": kind,
        "space": space,
        "n": len(values),
        "dim": int(values.shape[1]),
        "lists": 0 if ivf is None else int(ivf.nlist),
        "nprobe": settings.nprobe,
        "factor": settings.factor,
        "far": round(settings.far, 6),
        "margin": None if settings.margin is None else round(settings.margin, 6),
        "slack": None if settings.slack is None else round(settings.slack, 6),
        "recall_at_20": round(settings.recall, 5),
        "recall_error": round(settings.error, 5),
        "recall_queries": settings.queries,
        "recall_wanted": wanted,
        "recall_reached": settings.reached,
        "trained_on": len(values),
        "lists_changed": 0,
        **{k: v for k, v in more.items() if v != ""},
        "vectors_sha256": sha256_rows(values),
        "vectors_pieces_sha256": pieces_of_rows(values),
    }
    if patients is not None:
        record["unusual"] = cohort_distances(Index(index, values, record), patients)
    record["build_s"] = round(time.monotonic() - began, 2)
    return write_index(folder, index, record)
