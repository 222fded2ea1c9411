"""Batches from CPU memory to the training device, one ahead: a copy that runs beside the step before it."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch
from torch import Tensor


def prefetch_to_device(batches: Iterator[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    """The batches, in order, on `device`; on CUDA from pinned memory in a stream of its own, the next while one is used.

    On a CPU they are passed on as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: Tensor | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = batch.to(device, non_blocking=True)
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream(device).wait_stream(stream)
        coming.record_stream(torch.cuda.current_stream(device))  # its memory is not given away while the step reads it
        waiting = coming
    if waiting is not None:
        yield waiting
