"""(seed, step) → images: which images make a batch is a function of these two, whatever was run before or by how many."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cohort.prepared import PreparedImages

AHEAD = 2  # batches decoded while the device works on one
_ORDER, _STEP = 0, 1  # streams of random numbers that must not meet


@lru_cache(maxsize=2)
def _permutation(n_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(n_images)


def batch_indices(n_images: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """(batch_size,) indices of the images of step `step`.

    The epochs' permutations laid end to end and cut into batches: within an epoch each image comes once, none is
    dropped, and a batch may reach over the seam between two epochs.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // n_images
    chosen = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = _permutation(n_images, seed, int(epoch))[positions[here] % n_images]
    return chosen


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 64-bit seed for everything random in one step of one process."""
    return int(np.random.SeedSequence([_STEP, seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Batches:
    """Decoded batches, prepared ahead by a pool of threads; images are kept decoded where memory allows."""

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
    ) -> None:
        """`rows`: this process's part of the global batch of `batch_size`; `cache_gb` in 10⁹ bytes."""
        self.images, self.source_px, self.batch_size, self.seed, self.rows = images, source_px, batch_size, seed, rows
        self.workers = workers
        # All or nothing: a cache of a part would help that part only. Pages are taken up as images come in.
        fits = len(images) * source_px * source_px * 3 <= cache_gb * 1e9
        self._cache = np.empty((len(images), source_px, source_px, 3), np.uint8) if fits else None
        self._cached = np.zeros(len(images), dtype=bool)

    def stream(self, start: int, stop: int, *, pin: bool = False) -> Generator[Tensor, None, None]:
        """Batches `start` … `stop − 1`, each (b, source_px, source_px, 3) uint8 in CPU memory (pinned on request)."""
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as pool:
            try:
                for step in range(start, stop + AHEAD):
                    if step < stop:
                        waiting.append(self._submit(pool, step, pin))
                    if step - start >= AHEAD and waiting:
                        batch, parts = waiting.popleft()
                        for part in parts:
                            part.result()
                        yield batch
            finally:
                for _, parts in waiting:
                    for part in parts:
                        part.cancel()

    def _submit(self, pool: ThreadPoolExecutor, step: int, pin: bool) -> tuple[Tensor, list[Future[None]]]:
        chosen = batch_indices(len(self.images), self.batch_size, self.seed, step)[self.rows]
        batch = torch.empty((len(chosen), self.source_px, self.source_px, 3), dtype=torch.uint8, pin_memory=pin)
        out = batch.numpy()
        parts = np.array_split(np.arange(len(chosen)), self.workers)
        return batch, [pool.submit(self._fill, out, part, chosen[part]) for part in parts if len(part)]

    def _fill(self, out: NDArray[np.uint8], slots: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
        for slot, i in zip(slots.tolist(), chosen.tolist(), strict=True):
            if self._cache is None:
                out[slot] = self.images.square(i, self.source_px)
            elif self._cached[i]:
                out[slot] = self._cache[i]
            else:  # two threads may both decode it: they write the same bytes
                out[slot] = self._cache[i] = self.images.square(i, self.source_px)
                self._cached[i] = True
