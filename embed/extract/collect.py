"""The parts of an extraction, and what was taken over, put together in the source's order without holding it in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.runs import atomic_path
from pellucid.embed.extract.chunks import Job, read_part
from pellucid.embed.store.vectors import Vectors

_BLOCK = 65_536  # rows copied at once


@dataclass(frozen=True)
class Assembled:
    """All rows, in order.

    Attributes:
        rows: unit, image_id, content and old_row (−1: computed now) of each picture that has a vector.
        values: (n, dim) float32, memory-mapped.
        failed: image_id, reason and content of each that has none.
    """

    rows: pd.DataFrame
    values: NDArray[np.float32]
    failed: list[dict[str, str]]


def assemble(
    job: Job, taken: pd.DataFrame, earlier: Vectors | None, dim: int, vectors: Path, tokens: Path | None
) -> Assembled:
    """Write all vectors into one file, part by part.

    Args:
        taken: rows of the earlier store that serve again (`pellucid.embed.extract.reused_vectors.taken_over`).
        dim: of the vectors.
        vectors: where they go.
        tokens: where the patch tokens go, float16 (n, patches, width); None: there are none.
    """
    frames = [taken.assign(part=-1, place=0, reason="")]
    for number in range(job.n_parts):
        part = read_part(job.folder, number)
        good = part.reasons == ""
        frames.append(
            pd.DataFrame(
                {
                    "unit": part.units,
                    "image_id": part.image_ids.astype(object),
                    "content": part.contents.astype(object),
                    "old_row": np.int64(-1),
                    "part": number,
                    "place": np.cumsum(good) - 1,
                    "reason": part.reasons.astype(object),
                }
            )
        )
    rows = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    rows = rows.sort_values("unit", kind="stable")
    bad = rows[rows["reason"] != ""]
    columns = ("image_id", "reason", "content")
    failed = [dict(zip(columns, row, strict=True)) for row in bad[list(columns)].itertuples(index=False)]
    rows = rows[rows["reason"] == ""].reset_index(drop=True)
    _write(job, rows, vectors, "vectors", None if earlier is None else earlier.values, (dim,))
    if tokens is not None:
        old = None if earlier is None else earlier.tokens
        _write(job, rows, tokens, "tokens", old, _shape_of_tokens(job, old))
    values = np.load(vectors, mmap_mode="r") if len(rows) else np.empty((0, dim), np.float32)
    return Assembled(rows[["unit", "image_id", "content", "old_row"]], values, failed)


def _shape_of_tokens(job: Job, old: NDArray[Any] | None) -> tuple[int, ...]:
    if old is not None:
        return old.shape[1:]
    return next((found.shape[1:] for p in range(job.n_parts) if len(found := _of(job, p, "tokens"))), ())


def _write(
    job: Job, rows: pd.DataFrame, path: Path, what: str, old: NDArray[Any] | None, shape: tuple[int, ...]
) -> None:
    """The array of that name of all parts and of the earlier store, in the rows' order."""
    if not len(rows):  # nothing can be mapped that has no length
        return
    with atomic_path(path) as temporary:
        dtype = np.float32 if what == "vectors" else np.float16
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(rows), *shape))
        _fill(out, job, rows, what, old)
        out.flush()


def _fill(out: NDArray[Any], job: Job, rows: pd.DataFrame, what: str, old: NDArray[Any] | None) -> None:
    old_rows, parts, places = (rows[name].to_numpy() for name in ("old_row", "part", "place"))
    if old is not None:
        again = np.flatnonzero(old_rows >= 0)
        for start in range(0, len(again), _BLOCK):
            block = again[start : start + _BLOCK]
            out[block] = old[old_rows[block]]
    order = np.argsort(parts, kind="stable")
    numbers, starts = np.unique(parts[order], return_index=True)
    for number, where in zip(numbers, np.split(order, starts[1:]), strict=True):
        if number >= 0:
            out[where] = _of(job, int(number), what)[places[where]]


def _of(job: Job, part: int, what: str) -> NDArray[Any]:
    held = read_part(job.folder, part)
    found = held.vectors if what == "vectors" else held.tokens
    return np.empty(0) if found is None else found
