"""Extraction in chunks: a process or thread claims a chunk and writes it to one file once its images have vectors.

A chunk is the unit of resuming. Batches never cross chunks, and each batch is computed by one thread, so that results
are byte-identical regardless of workers and interruptions. Chunks are claimed by file locks: the kernel releases the
locks of a dead process, and processes on several nodes need only the common folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.images import Pixels
from pellucid.cohort.runs import atomic_path, clear_parts
from pellucid.embed.extract.image_sources import DecodedPicture, ImageSource
from pellucid.embed.store.vectors import to_float16

_MAX_BATCHES_PER_CHUNK = 8  # at most this much work of each worker is lost by a kill
_MIN_CHUNKS = 32  # if there are enough batches: with fewer chunks, workers would wait for the last one of another
_MAX_CHUNKS = 16_384  # files in a folder
_BATCHES_AHEAD = 2  # batches decoded while one is computed
_PICTURES_PER_TASK = 64  # pictures of one file decoded by a pool thread; the consumer decodes the rest

# (n, s, s, 3) uint8 → (n, dim) float32, and (n, patches, width) float32 or None
Encode = Callable[[Pixels], tuple[NDArray[np.float32], NDArray[np.float32] | None]]


@dataclass(frozen=True)
class ExtractionJob:
    """Everything a worker needs to know. It can be pickled.

    Attributes:
        folder: where chunks are written.
        source: where images come from.
        units: the units to compute, in order.
        bounds: chunk `c` is `units[bounds[c] : bounds[c + 1]]`.
        size_px: side of the squares.
        batch_size: images computed at once.
        pad: pad the last batch of a chunk, so that a compiled network gets one shape only.
    """

    folder: Path
    source: ImageSource
    units: NDArray[np.int64]
    bounds: list[int]
    size_px: int
    batch_size: int
    pad: bool = False

    @property
    def n_chunks(self) -> int:
        return len(self.bounds) - 1

    def units_of(self, chunk: int) -> NDArray[np.int64]:
        return self.units[self.bounds[chunk] : self.bounds[chunk + 1]]


@dataclass
class Chunk:
    """The results of one chunk: a row per picture, and a vector for each row without a reason for failure."""

    vectors: NDArray[np.float32]  # (rows without a reason, dim)
    tokens: NDArray[np.float16] | None  # (rows without a reason, patches, width)
    units: NDArray[np.int64]  # (rows,)
    image_ids: NDArray[np.str_]
    contents: NDArray[np.str_]
    reasons: NDArray[np.str_]


# --- files ---


def chunk_bounds(source: ImageSource, units: NDArray[np.int64], batch_size: int) -> list[int]:
    """Where each chunk begins, and the end: whole units, one to eight batches per chunk, at most 16,384 chunks.

    The result depends on the units and the batch size only, not on the number of workers.
    """
    n_batches = min(_MAX_BATCHES_PER_CHUNK, max(1, len(units) // (batch_size * _MIN_CHUNKS)))
    size = batch_size * max(n_batches, -(-len(units) // (batch_size * _MAX_CHUNKS)))
    bounds, held = [0], 0
    for position, unit in enumerate(units):
        pictures = source.n_pictures(int(unit))
        if held and held + pictures > size:
            bounds.append(position)
            held = 0
        held += pictures
    return [*bounds, len(units)] if len(units) else [0]


def chunk_path(folder: Path, chunk: int) -> Path:
    """The file of a chunk."""
    return folder / f"part-{chunk:06d}.npz"


def read_chunk(folder: Path, chunk: int) -> Chunk:
    """Read a finished chunk."""
    with np.load(chunk_path(folder, chunk)) as held:
        tokens = held.get("tokens")
        return Chunk(held["vectors"], tokens, held["units"], held["image_ids"], held["contents"], held["reasons"])


def done_chunks(folder: Path) -> set[int]:
    """Numbers of the finished chunks."""
    return {int(path.name[5:-4]) for path in folder.glob("part-*.npz")}


def prepare_chunk_folder(folder: Path, made_from: dict[str, Any]) -> None:
    """Keep the chunks of an interrupted run only if it had the same images, backbone and batches."""
    if holds_chunks_of(folder, made_from):
        return
    clear_parts(folder)
    folder.mkdir(parents=True)
    with atomic_path(folder / "made-from") as temporary:
        temporary.write_text(_digest(made_from), encoding="utf-8")


def holds_chunks_of(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether the chunks in the folder, if any, belong to this extraction."""
    mark = folder / "made-from"
    return mark.is_file() and mark.read_text(encoding="utf-8") == _digest(made_from)


def _digest(made_from: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


# --- computing ---


def claim_and_compute(job: ExtractionJob, encode: Encode, stop: threading.Event, *, decoders: int = 1) -> None:
    """Claim and compute chunks until no unclaimed one is left.

    A second thread decodes ahead (with a pool of further threads if `decoders` > 1) while this thread computes.

    Args:
        encode: squares → vectors, and patch tokens if they are stored (`Backbone.read`).
        stop: set from outside to stop between two batches.
        decoders: number of decoding threads.
    """
    ready: queue.Queue[_Batch | BaseException | None] = queue.Queue(_BATCHES_AHEAD)
    finished = threading.Event()

    def put(item: _Batch | BaseException | None) -> bool:
        while not (finished.is_set() or stop.is_set()):
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def decode() -> None:
        try:
            with ThreadPoolExecutor(decoders) as pool:
                for batch in _batches(job, pool if decoders > 1 else None, decoders):
                    if not put(batch):
                        batch.claim.close()
                        return
            put(None)
        except BaseException as error:
            put(error)

    decoder = threading.Thread(target=decode, name="decoding", daemon=True)
    decoder.start()
    builder = _ChunkBuilder()
    try:
        while not stop.is_set():
            try:
                item = ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            builder.add(item, job, encode)
            if item.last:
                builder.write(job, item)
                item.claim.close()
                builder = _ChunkBuilder()
    finally:
        finished.set()
        decoder.join()


@dataclass
class _Batch:
    chunk: int
    claim: IO[str]  # the locked file
    units: list[int]
    pictures: list[DecodedPicture]
    last: bool  # of its chunk


@dataclass
class _ChunkBuilder:
    """Collects the results of a chunk, batch by batch."""

    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[NDArray[np.float16]] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, batch: _Batch, job: ExtractionJob, encode: Encode) -> None:
        """Compute a batch."""
        pixels = [picture.pixels for picture in batch.pictures if picture.pixels is not None]
        reasons = [picture.reason for picture in batch.pictures]
        if pixels:
            n = len(pixels)
            if job.pad:
                pixels += [pixels[-1]] * (job.batch_size - n)
            vectors, tokens = encode(np.stack(pixels))
            vectors = vectors[:n]
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                positions = [i for i, picture in enumerate(batch.pictures) if picture.pixels is not None]
                for row in np.flatnonzero(~finite):
                    reasons[positions[row]] = "the backbone returned a vector with NaN or infinite values"
            self.vectors.append(vectors[finite])
            if tokens is not None:
                self.tokens.append(to_float16(tokens[:n][finite]))
        self.units += batch.units
        self.rows += [(p.image_id, p.content, r) for p, r in zip(batch.pictures, reasons, strict=True)]

    def write(self, job: ExtractionJob, batch: _Batch) -> None:
        """Write the chunk to which `batch` belongs."""
        held: dict[str, Any] = {
            name: np.array([row[k] for row in self.rows], dtype=np.str_)
            for k, name in enumerate(("image_ids", "contents", "reasons"))
        }
        held["units"] = np.array(self.units, np.int64)
        held["vectors"] = np.concatenate(self.vectors) if self.vectors else np.empty((0, 0), np.float32)
        if self.tokens:
            held["tokens"] = np.concatenate(self.tokens)
        with atomic_path(chunk_path(job.folder, batch.chunk)) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **held)


def _batches(job: ExtractionJob, pool: ThreadPoolExecutor | None, decoders: int) -> Iterator[_Batch]:
    """The batches of every chunk that can be claimed: `batch_size` decoded pictures each, and failures in between."""
    for chunk in range(job.n_chunks):
        claim = _claim(job.folder, chunk)
        if claim is None:
            continue
        units: list[int] = []
        pictures: list[DecodedPicture] = []
        n_pixels = 0
        for unit, picture in _pictures(job, job.units_of(chunk), pool, decoders):
            if n_pixels == job.batch_size:
                yield _Batch(chunk, claim, units, pictures, last=False)
                units, pictures, n_pixels = [], [], 0
            units.append(unit)
            pictures.append(picture)
            n_pixels += picture.pixels is not None
        yield _Batch(chunk, claim, units, pictures, last=True)


def _claim(folder: Path, chunk: int) -> IO[str] | None:
    """Lock a chunk; None if it is finished, or if another worker holds it."""
    if chunk_path(folder, chunk).exists():
        return None
    try:
        handle = (folder / f"part-{chunk:06d}.lock").open("a", encoding="utf-8")
    except FileNotFoundError:  # extraction has finished, and the folder was removed
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    if chunk_path(folder, chunk).exists():
        handle.close()
        return None
    return handle


def _pictures(
    job: ExtractionJob,
    units: Sequence[int] | NDArray[np.int64],
    pool: ThreadPoolExecutor | None,
    decoders: int,
) -> Iterator[tuple[int, DecodedPicture]]:
    """Every picture of the units, in order, decoded by the pool if there is one."""
    if pool is None:
        for unit in units:
            for picture in job.source.pictures(int(unit), job.size_px):
                yield int(unit), picture
        return

    def decode_first(unit: int) -> tuple[int, list[DecodedPicture], Iterator[DecodedPicture]]:
        rest = job.source.pictures(unit, job.size_px)
        return unit, list(islice(rest, _PICTURES_PER_TASK)), rest

    waiting: deque[Future[tuple[int, list[DecodedPicture], Iterator[DecodedPicture]]]] = deque()
    todo = iter(units)
    while True:
        waiting.extend(pool.submit(decode_first, int(unit)) for unit in islice(todo, 4 * decoders - len(waiting)))
        if not waiting:
            return
        unit, first, rest = waiting.popleft().result()
        for picture in first:
            yield unit, picture
        for picture in rest:
            yield unit, picture
