"""Sums and rows of all processes that gradients pass through: losses over the whole batch stay exact when it is shared.

DistributedDataParallel takes the mean over the processes of each one's gradient. Under that rule a loss that every
process computes alike from a shared sum, and a loss that each computes for its own rows against everybody's, both give
the gradient of the one loss over the whole batch, if the backward pass sums over the processes too: as it does here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def n_processes() -> int:
    """How many processes train together; 1 where no process group was joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum over the processes of `value`, of the same shape; its gradient is summed likewise."""
    summed: Tensor = _Total.apply(value) if n_processes() > 1 else value
    return summed


def all_rows(rows: Tensor) -> Tensor:
    """(b, …) of each process → (world · b, …) in the order of the ranks; each gets the gradient of its rows from all."""
    gathered: Tensor = _AllRows.apply(rows) if n_processes() > 1 else rows
    return gathered


@torch.no_grad()
def largest(value: Tensor) -> Tensor:
    """The largest `value` of any process, elementwise; without gradient."""
    if n_processes() == 1:
        return value
    shared = value.detach().clone()
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        summed = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n = len(rows)
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)  # reduce-scatter would do; gloo has none, and the rows are few
        return summed[dist.get_rank() * ctx.n :][: ctx.n]
