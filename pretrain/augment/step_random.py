"""Randomness of a step as a function of seed and step alone; what views, masks and sensor noise are drawn from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from pellucid.pretrain.data.batches import step_seed


class Draw:
    """The random numbers of one step: drawn for the global batch on the CPU, then this process's rows.

    So they depend on seed and step only: not on the device, not on the number of processes, not on what came before.
    """

    def __init__(self, seed: int, step: int, batch_size: int, rows: slice, device: torch.device) -> None:
        self.batch_size, self.rows, self.device = batch_size, rows, device
        self._generator = torch.Generator().manual_seed(step_seed(seed, step))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(b, *shape) float32, uniform in [low, high)."""
        values = torch.rand((self.batch_size, *shape), generator=self._generator)
        return (low + (high - low) * values[self.rows]).to(self.device, non_blocking=True)

    def split(self, lengths: Sequence[int]) -> list[Draw]:
        """One for each run of this process's rows, all at the place where this one is; see `advance_with`."""
        first, last, _ = self.rows.indices(self.batch_size)
        assert sum(lengths) == last - first
        made = []
        for start, length in zip(accumulate([first, *lengths[:-1]]), lengths, strict=True):
            one = copy.copy(self)
            one.rows = slice(start, start + length)
            one._generator = torch.Generator()
            one._generator.set_state(self._generator.get_state())
            made.append(one)
        return made

    def advance_with(self, part: Draw) -> None:
        """Draw on after what a part of the split has drawn: all of them have drawn as many numbers."""
        self._generator.set_state(part._generator.get_state())

    def happens(self, probability: float) -> Tensor:
        """(b,) bool, each true with `probability`."""
        return self.uniform(0, 1) < probability

    def chosen(self, probability: float) -> Tensor:
        """(k,) int64, this process's images that something happens to with `probability`, in order."""
        return self.parted(probability)[0]

    def parted(self, *limits: float) -> list[Tensor]:
        """One number per image: which of this process's images have it below the first limit, from there to the next, ….

        Parted on the CPU: on a GPU, `happens(p).nonzero()` would wait for all that is under way.
        """
        values = torch.rand(self.batch_size, generator=self._generator)[self.rows]
        inside = [(values >= low) & (values < high) for low, high in pairwise((0.0, *limits))]
        return [part.nonzero()[:, 0].to(self.device, non_blocking=True) for part in inside]

    def shared(self, low: float, high: float) -> float:
        """One number in [low, high) for all images of the step, the same in every process."""
        return low + (high - low) * float(torch.rand((), generator=self._generator))
