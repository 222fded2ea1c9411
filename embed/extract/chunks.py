"""Extraction in parts: each is claimed by one thread, process or rank, and is a file once its images have vectors.

A part is the unit of resuming. Batches never cross a part and each is computed by one thread, so that the bytes are the
same whoever computes which part, and how often the work was killed. Whoever works claims parts by locks on files: the
kernel gives back what a dead process held, and processes on several nodes need nothing but the common folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import queue
import signal
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
from pellucid.embed.extract.image_sources import Seen, Source
from pellucid.embed.store.vectors import half

_BATCHES_A_PART = 8  # at most: what a kill can cost each worker

_FEWEST_PARTS = 32  # as long as each has a batch: or some workers would wait for the last part of another

_MOST_PARTS = 16_384  # files in a folder

_AHEAD = 2  # batches that are decoded while one is computed

_PICTURES_AT_ONCE = 64  # of one file, by a decoding thread; whoever waits for them decodes the rest

# (n, s, s, 3) → (n, dim), and (n, patches, width) or None
Encode = Callable[[Pixels], tuple[NDArray[np.float32], NDArray[np.float32] | None]]


@dataclass(frozen=True)
class Job:
    """Everything that a worker has to know; it can be pickled.

    Attributes:
        folder: where the parts lie.
        source: what is read.
        units: those to be computed, in order.
        bounds: part `p` is `units[bounds[p] : bounds[p + 1]]`.
        size_px: side of the squares.
        batch_size: images computed at once.
        pad: fill the last batch of a part up, so that a compiled network sees one shape.
    """

    folder: Path
    source: Source
    units: NDArray[np.int64]
    bounds: list[int]
    size_px: int
    batch_size: int
    pad: bool = False

    @property
    def n_parts(self) -> int:
        return len(self.bounds) - 1

    def units_of(self, part: int) -> NDArray[np.int64]:
        return self.units[self.bounds[part] : self.bounds[part + 1]]


@dataclass
class Part:
    """What came of a part: a row for each picture, and a vector for each whose reason is empty."""

    vectors: NDArray[np.float32]  # (rows without a reason, dim)
    tokens: NDArray[np.float16] | None  # (rows without a reason, patches, width)
    units: NDArray[np.int64]  # (rows,)
    image_ids: NDArray[np.str_]
    contents: NDArray[np.str_]
    reasons: NDArray[np.str_]


def cut(source: Source, units: NDArray[np.int64], batch_size: int) -> list[int]:
    """Where parts begin, and the end: whole units, one to eight batches a part, never more than some ten thousand parts.

    It depends on nothing but the units and the batch size: not on how many workers there are.
    """
    few = min(_BATCHES_A_PART, max(1, len(units) // (batch_size * _FEWEST_PARTS)))
    size = batch_size * max(few, -(-len(units) // (batch_size * _MOST_PARTS)))
    bounds, held = [0], 0
    for at, unit in enumerate(units):
        pictures = source.n_pictures(int(unit))
        if held and held + pictures > size:
            bounds.append(at)
            held = 0
        held += pictures
    return [*bounds, len(units)] if len(units) else [0]


def part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.npz"


def read_part(folder: Path, part: int) -> Part:
    with np.load(part_path(folder, part)) as held:
        tokens = held.get("tokens")
        return Part(held["vectors"], tokens, held["units"], held["image_ids"], held["contents"], held["reasons"])


def done_parts(folder: Path) -> set[int]:
    """Numbers of the parts that are there."""
    return {int(path.name[5:-4]) for path in folder.glob("part-*.npz")}


def fresh_parts(folder: Path, made_from: dict[str, Any]) -> None:
    """Keep the parts of an interrupted call only if it had the same images, backbone and batches."""
    if is_fresh(folder, made_from):
        return
    clear_parts(folder)
    folder.mkdir(parents=True)
    with atomic_path(folder / "made-from") as temporary:
        temporary.write_text(_mark(made_from), encoding="utf-8")


def is_fresh(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether the parts in the folder, if any, belong to this work."""
    mark = folder / "made-from"
    return mark.is_file() and mark.read_text(encoding="utf-8") == _mark(made_from)


def _mark(made_from: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def work(job: Job, encode: Encode, stop: threading.Event, *, decoders: int = 1, alone: bool = False) -> None:
    """Claim and compute parts until none is left that nobody works on.

    One thread decodes ahead (it may have others decode for it) while this one computes.

    Args:
        encode: squares to vectors, and to patch tokens where they are to be kept (`Backbone.read`).
        stop: set from outside to give up between two batches.
        decoders: threads that decode.
        alone: the process is this worker's own and may be killed where a picture takes longer than the source allows.
    """
    ready: queue.Queue[_Batch | BaseException | None] = queue.Queue(_AHEAD)
    left = threading.Event()

    def put(item: _Batch | BaseException | None) -> bool:
        while not (left.is_set() or stop.is_set()):
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            with ThreadPoolExecutor(decoders) as pool:
                for batch in _batches(job, pool if decoders > 1 else None, decoders, alone):
                    if not put(batch):
                        batch.claim.close()
                        return
            put(None)
        except BaseException as error:
            put(error)

    reader = threading.Thread(target=read, name="decoding", daemon=True)
    reader.start()
    made = _Making()
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
            made.add(item, job, encode)
            if item.last:
                made.write(job, item)
                item.claim.close()
                made = _Making()
    finally:
        left.set()
        reader.join()


@dataclass
class _Batch:
    part: int
    claim: IO[str]
    units: list[int]
    seen: list[Seen]
    last: bool


@dataclass
class _Making:
    """A part on its way."""

    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[NDArray[np.float16]] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, batch: _Batch, job: Job, encode: Encode) -> None:
        pixels = [seen.pixels for seen in batch.seen if seen.pixels is not None]
        reasons = [seen.reason for seen in batch.seen]
        if pixels:
            n = len(pixels)
            if job.pad:
                pixels += [pixels[-1]] * (job.batch_size - n)
            vectors, tokens = encode(np.stack(pixels))
            vectors = vectors[:n]
            finite = np.isfinite(vectors).all(axis=1)
            if not finite.all():
                places = [i for i, seen in enumerate(batch.seen) if seen.pixels is not None]
                for place in np.flatnonzero(~finite):
                    reasons[places[place]] = "the backbone gave a vector that is not finite"
            self.vectors.append(vectors[finite])
            if tokens is not None:
                self.tokens.append(half(tokens[:n][finite]))
        self.units += batch.units
        self.rows += [(s.image_id, s.content, r) for s, r in zip(batch.seen, reasons, strict=True)]

    def write(self, job: Job, batch: _Batch) -> None:
        held: dict[str, Any] = {
            name: np.array([row[k] for row in self.rows], dtype=np.str_)
            for k, name in enumerate(("image_ids", "contents", "reasons"))
        }
        held["units"] = np.array(self.units, np.int64)
        held["vectors"] = np.concatenate(self.vectors) if self.vectors else np.empty((0, 0), np.float32)
        if self.tokens:
            held["tokens"] = np.concatenate(self.tokens)
        with atomic_path(part_path(job.folder, batch.part)) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **held)


def _batches(job: Job, pool: ThreadPoolExecutor | None, decoders: int, alone: bool) -> Iterator[_Batch]:
    """The batches of every part that can be claimed; a batch holds `batch_size` pictures, and what failed between them."""
    for part in range(job.n_parts):
        claim = _claim(job.folder, part)
        if claim is None:
            continue
        begun = job.folder / f"part-{part:06d}.begun"
        careful = not job.source.checked and begun.exists()  # somebody died on it, perhaps of a file
        try:
            begun.touch()
        except FileNotFoundError:  # all is done, and the folder was cleared away meanwhile
            claim.close()
            return
        units: list[int] = []
        seen: list[Seen] = []
        n_pixels = 0
        pictures = _pictures(job, job.units_of(part), careful, pool, decoders)
        for unit, picture in _timed(pictures, job.source.time_limit_s if alone else 0):
            if n_pixels == job.batch_size:
                yield _Batch(part, claim, units, seen, last=False)
                units, seen, n_pixels = [], [], 0
            units.append(unit)
            seen.append(picture)
            n_pixels += picture.pixels is not None
        yield _Batch(part, claim, units, seen, last=True)


def _claim(folder: Path, part: int) -> IO[str] | None:
    """The lock on a part that is not there yet, or None where it is, or where somebody else works on it."""
    if part_path(folder, part).exists():
        return None
    try:
        handle = (folder / f"part-{part:06d}.lock").open("a", encoding="utf-8")
    except FileNotFoundError:  # all is done, and the folder was cleared away meanwhile
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    if part_path(folder, part).exists():
        handle.close()
        return None
    return handle


def _pictures(
    job: Job, units: Sequence[int] | NDArray[np.int64], careful: bool, pool: ThreadPoolExecutor | None, decoders: int
) -> Iterator[tuple[int, Seen]]:
    """Every picture of the units, in order, decoded by the pool where there is one."""
    if pool is None:
        for unit in units:
            for seen in job.source.pictures(int(unit), job.size_px, careful):
                yield int(unit), seen
        return

    def some(unit: int) -> tuple[int, list[Seen], Iterator[Seen]]:
        rest = job.source.pictures(unit, job.size_px, careful)
        return unit, list(islice(rest, _PICTURES_AT_ONCE)), rest

    waiting: deque[Future[tuple[int, list[Seen], Iterator[Seen]]]] = deque()
    todo = iter(units)
    while True:
        waiting.extend(pool.submit(some, int(unit)) for unit in islice(todo, 4 * decoders - len(waiting)))
        if not waiting:
            return
        unit, first, rest = waiting.popleft().result()
        for seen in first:
            yield unit, seen
        for seen in rest:
            yield unit, seen


def _timed(pictures: Iterator[tuple[int, Seen]], limit_s: float) -> Iterator[tuple[int, Seen]]:
    """The same; the kernel ends the process, even in a loop of C, where the next takes longer than the limit."""
    while True:
        if limit_s:
            signal.setitimer(signal.ITIMER_REAL, limit_s)
        item = next(pictures, None)
        if limit_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if item is None:
            return
        yield item
