"""Compute a batch in pieces, one thread per piece: on a CPU this is faster than sharing each operation among the
threads (benchmarks/LOG.md).

Only computations without interaction between images are divided: views, and networks without batch norm or dropout.
Losses that compare images use the whole batch. There are as many pieces as PyTorch threads, and their gradients are
added in order, so that results are byte-identical for the same number of threads.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pellucid.pretrain.augment.step_random import Draw

_LEAST = 4  # images or views in a piece


def n_pieces(batch: Tensor) -> int:
    """Number of pieces of a batch: one on a GPU."""
    if batch.device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), len(batch) // _LEAST))


def forward_in_pieces(network: nn.Module, batch: Tensor) -> Tensor:
    """(n, …) → `network(batch)`, whose rows must be independent; with gradients for the weights, not for the batch."""

    def one_output(piece: Tensor) -> tuple[Tensor, ...]:
        return (network(piece),)

    return call_in_pieces(network, one_output, batch)[0]


def call_in_pieces(network: nn.Module, call: Callable[..., tuple[Tensor, ...]], *batch: Tensor) -> tuple[Tensor, ...]:
    """`call(*batch)`, computed in pieces.

    Args:
        network: owns the weights that `call` uses.
        call: tensors (n, …) → tensors (n, …); rows must be independent.
        batch: tensors (n, …).

    Returns:
        What `call` returns for the whole batch, with gradients for the weights of `network`, not for the batch.
    """
    n = n_pieces(batch[0])
    if n == 1 or not is_per_image(network):
        return call(*batch)
    pieces = list(zip(*(part.detach().tensor_split(n) for part in batch), strict=True))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not (torch.is_grad_enabled() and trained):
        with torch.no_grad():
            made = _in_threads([functools.partial(call, *piece) for piece in pieces])
        return tuple(torch.cat(parts) for parts in zip(*made, strict=True))
    joined: tuple[Tensor, ...] = _Pieces.apply(call, pieces, *trained)
    return joined


def is_per_image(network: nn.Module) -> bool:
    """Whether the output for an image depends only on that image, and not on random numbers."""
    for module in network.modules():
        if not network.training:
            break
        if isinstance(module, _BatchNorm):
            return False
        rate = module.drop_prob if isinstance(module, DropPath) else module.p if isinstance(module, nn.Dropout) else 0.0
        if rate:
            return False
    return all(module._compiled_call_impl is None for module in network.modules())


def views_in_pieces(make: Callable[[Tensor, Draw], Tensor], images: Tensor, draw: Draw) -> Tensor:
    """(b, …) images → `make(images, draw)`, (b, …); the same values as in one piece."""
    n = n_pieces(images)
    if n == 1:
        return make(images, draw)
    pieces = list(images.tensor_split(n))
    draws = draw.split([len(piece) for piece in pieces])
    made = _in_threads([functools.partial(make, piece, own) for piece, own in zip(pieces, draws, strict=True)])
    draw.advance_with(draws[0])
    return torch.cat(made)


class _Pieces(torch.autograd.Function):
    """Forward and backward of each piece in a thread; the weights receive the gradients of the whole batch."""

    @staticmethod
    def forward(
        ctx: Any, call: Callable[..., tuple[Tensor, ...]], pieces: Sequence[Sequence[Tensor]], *trained: Tensor
    ) -> tuple[Tensor, ...]:
        def run(piece: Sequence[Tensor]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                return call(*piece)

        outputs = _in_threads([functools.partial(run, piece) for piece in pieces])
        ctx.outputs, ctx.trained = outputs, trained
        ctx.set_materialize_grads(False)  # an output that the loss does not use has no gradient
        return tuple(torch.cat([out.detach() for out in parts]) for parts in zip(*outputs, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        outputs = ctx.outputs
        ctx.outputs = None  # releases the graphs
        used = {k: gradient for k, gradient in enumerate(gradients) if gradient is not None}
        lengths = [len(piece[0]) for piece in outputs]
        shares = zip(*(torch.split(gradient, lengths) for gradient in used.values()), strict=True)

        def run(piece: Sequence[Tensor], share: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
            return tuple(torch.autograd.grad([piece[k] for k in used], ctx.trained, share, allow_unused=True))

        found = _in_threads([functools.partial(run, *pair) for pair in zip(outputs, shares, strict=True)])
        return (None, None, *(_sum(of_weight) for of_weight in zip(*found, strict=True)))


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    there = [gradient for gradient in gradients if gradient is not None]
    if not there:
        return None
    total = there[0]
    for gradient in there[1:]:
        total = total + gradient
    return total


def _in_threads(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Results of the calls, in order; each call runs in a thread, with one intra-op thread and the caller's
    autocast."""
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu")
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(call: Callable[[], Any]) -> Any:
        with (
            torch.inference_mode(inference),
            torch.set_grad_enabled(grad),
            torch.autocast("cpu", dtype, enabled=autocast, cache_enabled=False),  # the cache is shared by all threads
        ):
            return call()

    return list(_pool(len(calls)).map(run, calls))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    number = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="piece", initializer=torch.set_num_threads, initargs=(1,))
    # All threads start here, and not later: each one's setting changes the default of new threads and that of MKL.
    together = threading.Barrier(threads)
    list(pool.map(lambda _: together.wait(), range(threads)))
    torch.set_num_threads(number)
    return pool
