"""Differentiable sums and gathers over all processes, so that losses over the global batch have exact gradients.

DistributedDataParallel averages the gradients of the processes. A loss that all processes compute from a shared sum,
and a loss of each process's rows against all rows, then have the gradient of the loss over the global batch, provided
that the backward pass sums over the processes too. The functions here do so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def n_processes() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(value: Tensor) -> Tensor:
    """The sum of `value` over the processes, of the same shape; its gradient is summed over the processes too."""
    summed: Tensor = _Total.apply(value) if n_processes() > 1 else value
    return summed


def all_rows(rows: Tensor) -> Tensor:
    """(b, …) of each process → (world · b, …) in the order of ranks; each receives the summed gradient of its rows."""
    gathered: Tensor = _AllRows.apply(rows) if n_processes() > 1 else rows
    return gathered


@torch.no_grad()
def largest(value: Tensor) -> Tensor:
    """The elementwise maximum of `value` over the processes; without gradient."""
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
        dist.all_reduce(summed)  # gloo has no reduce-scatter, and the rows are few
        return summed[dist.get_rank() * ctx.n :][: ctx.n]
