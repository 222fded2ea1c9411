"""Random numbers of a training step as a function of seed and step; for views, masks and sensor noise."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from pellucid.pretrain.data.batches import step_seed


class Draw:
    """The random numbers of one step, drawn for the global batch on the CPU and restricted to this process's rows.

    They depend only on seed and step, not on the device, the number of processes or earlier steps.
    """

    def __init__(self, seed: int, step: int, batch_size: int, rows: slice, device: torch.device) -> None:
        self.batch_size, self.rows, self.device = batch_size, rows, device
        self._generator = torch.Generator().manual_seed(step_seed(seed, step))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(b, *shape) float32, uniform in [low, high)."""
        values = torch.rand((self.batch_size, *shape), generator=self._generator)
        return (low + (high - low) * values[self.rows]).to(self.device, non_blocking=True)

    def split(self, lengths: Sequence[int]) -> list[Draw]:
        """One `Draw` per consecutive part of this process's rows, all in the current state; see `advance_with`."""
        first, last, _ = self.rows.indices(self.batch_size)
        assert sum(lengths) == last - first
        made = []
        for start, length in zip(accumulate([first, *lengths[:-1]]), lengths, strict=True):
            part = copy.copy(self)
            part.rows = slice(start, start + length)
            part._generator = torch.Generator()
            part._generator.set_state(self._generator.get_state())
            made.append(part)
        return made

    def advance_with(self, part: Draw) -> None:
        """Continue after the numbers that `part` has drawn; all parts must have drawn equally many."""
        self._generator.set_state(part._generator.get_state())

    def happens(self, probability: float) -> Tensor:
        """(b,) bool, each true with `probability`."""
        return self.uniform(0, 1) < probability

    def chosen(self, probability: float) -> Tensor:
        """(k,) int64, a random selection of this process's images, each with `probability`, in order."""
        return self.parted(probability)[0]

    def parted(self, *limits: float) -> list[Tensor]:
        """One uniform number per image; for each interval between consecutive limits, the images inside it.

        It runs on the CPU, because `happens(p).nonzero()` would synchronise a GPU.
        """
        values = torch.rand(self.batch_size, generator=self._generator)[self.rows]
        inside = [(values >= low) & (values < high) for low, high in pairwise((0.0, *limits))]
        return [part.nonzero()[:, 0].to(self.device, non_blocking=True) for part in inside]

    def shared(self, low: float, high: float) -> float:
        """One number in [low, high) for all images of the step, equal in every process."""
        return low + (high - low) * float(torch.rand((), generator=self._generator))
