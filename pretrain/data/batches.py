"""Decoded batches: the images of a batch depend only on (seed, step), not on earlier steps or the number of
processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.cohort.errors import UserError
from pellucid.cohort.images import PreparedImages
from pellucid.pretrain.data.sampling import Sampler

AHEAD = 2  # batches decoded in advance
_STEP = 1  # separates these random numbers from those of sampling.py


def batch_indices(n_images: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """(batch_size,) indices of the images of step `step` with `sampling: image`."""
    return Sampler(n_images, seed).batch(batch_size, step)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 64-bit seed for everything random in one step of one process."""
    return int(np.random.SeedSequence([_STEP, seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Batches:
    """Decoded batches, prepared in advance by a pool of threads; decoded images are cached if memory allows."""

    def __init__(
        self,
        images: PreparedImages,
        *,
        source_px: int,
        batch_size: int,
        seed: int,
        rows: slice,
        workers: int,
        cache_gb: float,
        sampler: Sampler | None = None,
    ) -> None:
        """`rows`: this process's part of the global batch of `batch_size`; `cache_gb` in 10⁹ bytes.

        Args:
            sampler: of the same images, in the same order; None: all images equally often, in an order from `seed`.
        """
        self.images, self.source_px, self.batch_size, self.seed, self.rows = images, source_px, batch_size, seed, rows
        self.workers = workers
        self.sampler = Sampler(len(images), seed) if sampler is None else sampler
        # All images or none: a partial cache would help only a part of each batch. Memory is allocated as images are
        # decoded.
        fits = len(images) * source_px * source_px * 3 <= cache_gb * 1e9
        self._cache = np.empty((len(images), source_px, source_px, 3), np.uint8) if fits else None
        self._cached = np.zeros(len(images), dtype=bool)

    def stream(self, start: int, stop: int, *, pin: bool = False) -> Generator[Tensor, None, None]:
        """Batches `start` … `stop − 1`, each (b, source_px, source_px, 3) uint8 in CPU memory.

        With `pin` they are in pinned memory that is reused: start the copy of a batch to the device, on its current
        stream, before requesting the next batch; the copy need not be complete.

        Raises:
            UserError: an image cannot be decoded.
        """
        shape = (len(range(self.batch_size)[self.rows]), self.source_px, self.source_px, 3)
        buffers = PinnedBuffers(shape) if pin else None
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as pool:
            try:
                for step in range(start, stop + AHEAD):
                    if step < stop:
                        batch = torch.empty(shape, dtype=torch.uint8) if buffers is None else buffers.next()
                        waiting.append((batch, self._submit(pool, step, batch)))
                    if step - start >= AHEAD and waiting:
                        batch, parts = waiting.popleft()
                        for part in parts:
                            part.result()
                        yield batch
                        if buffers is not None:
                            buffers.used(batch)
            finally:
                for _, parts in waiting:
                    for part in parts:
                        part.cancel()

    def _submit(self, pool: ThreadPoolExecutor, step: int, batch: Tensor) -> list[Future[None]]:
        first, last, _ = self.rows.indices(self.batch_size)
        start = step * self.batch_size
        # Submitted before the parts that wait for it, and outside the thread that feeds the device.
        chosen = pool.submit(self.sampler.slots, start + first, start + last)
        parts = np.array_split(np.arange(last - first), self.workers)
        return [pool.submit(self._fill, batch.numpy(), part, chosen) for part in parts if len(part)]

    def _fill(self, out: NDArray[np.uint8], slots: NDArray[np.int64], chosen: Future[NDArray[np.int64]]) -> None:
        for slot, i in zip(slots.tolist(), chosen.result()[slots].tolist(), strict=True):
            if self._cache is None:
                out[slot] = self._decoded(i)
            elif self._cached[i]:
                out[slot] = self._cache[i]
            else:  # two threads may decode it at once; they write the same bytes
                out[slot] = self._cache[i] = self._decoded(i)
                self._cached[i] = True

    def _decoded(self, i: int) -> NDArray[np.uint8]:
        try:
            return self.images.square(i, self.source_px)
        except (ValueError, OSError, IndexError) as error:  # Arrow's and the decoders' errors are all of these
            raise UserError(
                f"the prepared copy of {self.images.image_ids[i]} cannot be read ({error}): its shard is damaged; "
                "delete the run of the stage `read` that holds it and scan again"
            ) from error


class PinnedBuffers:
    """Page-locked buffers for a few batches, reused in turn: allocating them at each step would stall the device."""

    def __init__(
        self,
        shape: tuple[int, ...],
        new_buffer: Callable[[tuple[int, ...]], Tensor] | None = None,
        new_event: Callable[[], torch.cuda.Event] = torch.cuda.Event,
    ) -> None:
        """`new_buffer`, `new_event`: replacements of CUDA's in tests."""
        new_buffer = new_buffer or (lambda shape: torch.empty(shape, dtype=torch.uint8, pin_memory=True))
        # One in use, AHEAD being filled or waiting, and one still being copied.
        self._buffers = [new_buffer(shape) for _ in range(AHEAD + 2)]
        self._copied: list[torch.cuda.Event | None] = [None] * len(self._buffers)
        self._new_event = new_event
        self._turn = 0

    def next(self) -> Tensor:
        """A buffer that is no longer being read."""
        event, buffer = self._copied[self._turn], self._buffers[self._turn]
        if event is not None:
            event.synchronize()
        self._turn = (self._turn + 1) % len(self._buffers)
        return buffer

    def used(self, buffer: Tensor) -> None:
        """Call it after the copy of `buffer` was queued on the current stream: the buffer is free when the copy is
        done."""
        event = self._new_event()
        event.record()
        self._copied[next(i for i, mine in enumerate(self._buffers) if mine is buffer)] = event
