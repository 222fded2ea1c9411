"""A backbone compiled for one shape of batch: worth its start-up on a GPU with many images, never a reason to stop."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch

from pellucid.embed.backbones.backbone import Backbone

COMPILED_FROM = 50_000  # pictures: compiling takes a good part of a minute


def compiled(encoder: Backbone, batch_size: int) -> Backbone:
    """The same backbone with its network compiled for batches of `batch_size`; as it was, and said, where that fails.

    Patch tokens are computed by the network as it was.
    """
    if encoder.reader is None:
        return encoder
    faster = replace(encoder, reader=_Compiled(encoder.reader))
    try:
        faster(np.zeros((batch_size, encoder.size_px, encoder.size_px, 3), np.uint8))
    except Exception as error:  # no compiler on this machine, or a network that it does not understand
        what = (str(error).strip().splitlines() or [""])[0]
        print(
            f"embedding: not compiled ({type(error).__name__}: {what}); it goes on without", file=sys.stderr, flush=True
        )
        return encoder
    return faster


class _Compiled:
    """What `Backbone.reader` has to be: called for vectors, `both` for vectors and tokens."""

    def __init__(self, reader: torch.nn.Module) -> None:
        self._compiled = torch.compile(reader, dynamic=False)
        self.both = reader.both

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._compiled(pixels)  # type: ignore[no-any-return]
