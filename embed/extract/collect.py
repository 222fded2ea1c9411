"""Chunks and reused rows → one `vectors.npy` in the order of the source, without holding it in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.runs import atomic_path
from pellucid.embed.extract.chunks import ExtractionJob, read_chunk
from pellucid.embed.store.vectors import Vectors

_BLOCK = 65_536  # rows copied at once


@dataclass(frozen=True)
class Collected:
    """All rows, in order.

    Attributes:
        rows: unit, image_id, content and old_row (−1: newly computed) of each picture that has a vector.
        values: (n, dim) float32, memory-mapped.
        failed: image_id, reason and content of each picture without a vector.
    """

    rows: pd.DataFrame
    values: NDArray[np.float32]
    failed: list[dict[str, str]]


def collect_chunks(
    job: ExtractionJob, reused: pd.DataFrame, earlier: Vectors | None, dim: int, vectors: Path, tokens: Path | None
) -> Collected:
    """Write all vectors into one file, chunk by chunk.

    Args:
        reused: rows of the earlier store that are still valid (`pellucid.embed.extract.reused_vectors.reusable_rows`).
        dim: length of the vectors.
        vectors: file to write.
        tokens: file for the patch tokens, float16 (n, patches, width); None if there are none.
    """
    frames = [reused.assign(chunk=-1, place=0, reason="")]
    for number in range(job.n_chunks):
        chunk = read_chunk(job.folder, number)
        good = chunk.reasons == ""
        frames.append(
            pd.DataFrame(
                {
                    "unit": chunk.units,
                    "image_id": chunk.image_ids.astype(object),
                    "content": chunk.contents.astype(object),
                    "old_row": np.int64(-1),
                    "chunk": number,
                    "place": np.cumsum(good) - 1,
                    "reason": chunk.reasons.astype(object),
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
        _write(job, rows, tokens, "tokens", old, _token_shape(job, old))
    values = np.load(vectors, mmap_mode="r") if len(rows) else np.empty((0, dim), np.float32)
    return Collected(rows[["unit", "image_id", "content", "old_row"]], values, failed)


def _token_shape(job: ExtractionJob, old: NDArray[Any] | None) -> tuple[int, ...]:
    if old is not None:
        return old.shape[1:]
    return next(
        (found.shape[1:] for chunk in range(job.n_chunks) if len(found := _read_array(job, chunk, "tokens"))), ()
    )


def _write(
    job: ExtractionJob, rows: pd.DataFrame, path: Path, name: str, old: NDArray[Any] | None, shape: tuple[int, ...]
) -> None:
    """Write the array `name` (vectors or tokens) of all chunks and of the earlier store in the order of the rows."""
    if not len(rows):  # an empty file cannot be memory-mapped
        return
    with atomic_path(path) as temporary:
        dtype = np.float32 if name == "vectors" else np.float16
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(rows), *shape))
        _fill(out, job, rows, name, old)
        out.flush()


def _fill(out: NDArray[Any], job: ExtractionJob, rows: pd.DataFrame, name: str, old: NDArray[Any] | None) -> None:
    old_rows, chunks, places = (rows[column].to_numpy() for column in ("old_row", "chunk", "place"))
    if old is not None:
        reused = np.flatnonzero(old_rows >= 0)
        for start in range(0, len(reused), _BLOCK):
            block = reused[start : start + _BLOCK]
            out[block] = old[old_rows[block]]
    order = np.argsort(chunks, kind="stable")
    numbers, starts = np.unique(chunks[order], return_index=True)
    for number, where in zip(numbers, np.split(order, starts[1:]), strict=True):
        if number >= 0:
            out[where] = _read_array(job, int(number), name)[places[where]]


def _read_array(job: ExtractionJob, chunk: int, name: str) -> NDArray[Any]:
    held = read_chunk(job.folder, chunk)
    found = held.vectors if name == "vectors" else held.tokens
    return np.empty(0) if found is None else found
