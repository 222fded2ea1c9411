"""Making the index of a vector store: the kind is chosen, trained, filled, tuned to the recall wanted, and written."""

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
from pellucid.embed.index.recall_tuning import Tuned, tuned
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
        folder: of the vector store; what index is there is replaced.
        values: perhaps memory-mapped; never copied as a whole.
        space: what makes two vectors comparable (`Vectors.space`).
        wanted_recall: share of the true twenty nearest that a search must find.
        kind: auto, exact, ivf-sq8 or ivf-pq.
        memory_gb: what the index may take, in 10⁹ bytes; None: half of the machine's memory.
        patients: (n,) whose each row is: then `index.json` also says how far apart images of different patients are.

    Returns:
        What `index.json` says. Where `kind` is auto and lists do not reach the recall wanted, the index is exact.
    """
    began = time.monotonic()
    n, dim = values.shape
    chosen = choose_kind(n, dim, kind, memory_gb)
    index = filled(values, chosen)
    how = tuned(index, values, chosen, wanted_recall)
    instead = ""
    if not how.reached and kind == "auto" and index_bytes("exact", n, dim) <= budget_bytes(memory_gb):
        instead = f"{chosen} found only {how.recall:.3f} of the true neighbours"
        chosen = "exact"
        index = filled(values, chosen)
        how = tuned(index, values, chosen, wanted_recall)
    return finished(folder, index, values, space, chosen, wanted_recall, how, began, patients, {"instead": instead})


def finished(
    folder: Path,
    index: Any,
    values: NDArray[np.float32],
    space: str | None,
    kind: str,
    wanted: float,
    how: Tuned,
    began: float,
    patients: NDArray[Any] | None,
    more: dict[str, Any],
) -> dict[str, Any]:
    """Write a filled and tuned index with all that is known of it."""
    ivf = inner(index)
    if ivf is not None:
        ivf.nprobe = how.nprobe
    record: dict[str, Any] = {
        "kind": kind,
        "space": space,
        "n": len(values),
        "dim": int(values.shape[1]),
        "lists": 0 if ivf is None else int(ivf.nlist),
        "nprobe": how.nprobe,
        "factor": how.factor,
        "far": round(how.far, 6),
        "margin": None if how.margin is None else round(how.margin, 6),
        "slack": None if how.slack is None else round(how.slack, 6),
        "recall_at_20": round(how.recall, 5),
        "recall_error": round(how.error, 5),
        "recall_queries": how.queries,
        "recall_wanted": wanted,
        "recall_reached": how.reached,
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
