"""Copy batches from CPU memory to the training device, one in advance, while the previous step runs."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import torch
from torch import Tensor


def prefetch_to_device(batches: Iterator[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    """The batches, in order, on `device`. On CUDA a separate stream copies the next batch from pinned memory.

    On a CPU the batches are unchanged.
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
        coming.record_stream(torch.cuda.current_stream(device))  # its memory is not reused while the step reads it
        waiting = coming
    if waiting is not None:
        yield waiting
