"""Block-wise patch masks for iBOT and DINOv2: rectangles, because single patches are easily predicted from neighbours.

- [0]: Zhou et al., iBOT, 2021, section 3.3 and appendix, https://arxiv.org/abs/2111.07832
- [1]: Bao et al., BEiT, 2021, Algorithm 1, https://arxiv.org/abs/2106.08254

Shapes: v masks, a grid of r × c patches, n = r · c.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.recipe import Range

_TRIES = 40  # rectangles drawn per mask; those with too many new patches are skipped
_SMALLEST = 4  # patches of the smallest rectangle, [0]
_ASPECT = 0.3  # height : width between this and its inverse, [1]


def random_block_masks(draw: Draw, views: int, grid: tuple[int, int], probability: float, ratio: Range) -> Tensor:
    """(views · b, n) bool on the CPU, view by view: which patches are masked; all false in an unmasked view.

    A view is masked with `probability`; the masked share of its patches is then uniform in `ratio` ([0], appendix:
    "r is set as 0 with a probability of 0.5 and uniformly sampled from [0.1, 0.5] with a probability of 0.5").
    On the CPU, because the number of masked patches determines later shapes, which would require a GPU synchronisation.
    """
    cpu = copy.copy(draw)  # shares the generator, so that the numbers are those of the global batch
    cpu.device = torch.device("cpu")
    n = grid[0] * grid[1]
    masked = cpu.uniform(0, 1, views) < probability  # (b, views)
    share = cpu.uniform(ratio[0], ratio[1], views)
    target = (share * n).round().clamp(1, n - 1).long() * masked
    rectangles = cpu.uniform(0, 1, views, _TRIES, 4)
    noise = cpu.uniform(0, 1, views, n)

    def by_view(x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(0, 1)  # (b, views, …) → (views · b, …), the order of the views' batches

    return block_masks(by_view(target), by_view(rectangles), by_view(noise), grid)


def block_masks(target: Tensor, rectangles: Tensor, noise: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mask exactly `target` patches of each view, with rectangles where possible; → (v, n) bool.

    The algorithm of [1] for all masks at once: a rectangle of random size, aspect and position is used if it masks at
    least one new patch and not more than required. The remaining patches, one or two, are masked individually.

    Args:
        target: (v,) int64.
        rectangles: (v, tries, 4) in [0, 1): size, aspect, row and column of each try.
        noise: (v, n): determines the order in which individual patches are masked.
    """
    rows, columns = grid
    mask = torch.zeros(len(target), rows, columns)
    missing = target.clone()
    for tried in rectangles.unbind(1):
        open_ = (missing > 0).nonzero()[:, 0]  # masks that are not complete
        if not len(open_):
            break
        size, aspect, top, left = tried[open_].unbind(1)
        wanted, sofar = missing[open_], mask[open_]
        area = _SMALLEST + size * (wanted - _SMALLEST).clamp_min(0)
        stretch = torch.exp((2 * aspect - 1) * math.log(1 / _ASPECT))
        across = _interval((area * stretch).sqrt(), top, rows)[
            :, :, None
        ]  # a rectangle is the product of two intervals
        along = _interval((area / stretch).sqrt(), left, columns)[:, None, :]
        covered = (across * sofar * along).sum(dim=(1, 2))
        new = (across.sum(dim=(1, 2)) * along.sum(dim=(1, 2)) - covered).round().long()
        taken = (new > 0) & (new <= wanted)
        mask[open_[taken]] = torch.maximum(sofar[taken], across[taken] * along[taken])
        missing[open_] -= new * taken
    flat = mask.flatten(1).bool()
    order = noise.masked_fill(flat, 2.0).argsort(dim=1)  # masked ones last
    extra = torch.arange(flat.shape[1]) < missing[:, None]
    return flat | torch.zeros_like(flat).scatter(1, order, extra)


def _interval(length: Tensor, place: Tensor, patches: int) -> Tensor:
    """(v, patches): ones in an interval of about `length` patches; `place` in [0, 1) is its relative position."""
    whole = length.round().clamp(1, patches)
    start = (place * (patches - whole + 1)).floor()[:, None]
    position = torch.arange(patches)
    return ((position >= start) & (position < start + whole[:, None])).float()
