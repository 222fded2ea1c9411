"""Compile a backbone for one batch shape: worthwhile on a GPU with many images; a failure is not an error."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch

from pellucid.embed.backbones.backbone import Backbone

COMPILED_FROM = 50_000  # images: compilation takes most of a minute


def compiled(encoder: Backbone, batch_size: int) -> Backbone:
    """The backbone with its network compiled for batches of `batch_size`; unchanged, with a message, if that fails.

    Patch tokens are still computed by the uncompiled network.
    """
    if encoder.reader is None:
        return encoder
    faster = replace(encoder, reader=_Compiled(encoder.reader))
    try:
        faster(np.zeros((batch_size, encoder.size_px, encoder.size_px, 3), np.uint8))
    except Exception as error:  # no compiler on this machine, or a network that it does not support
        what = (str(error).strip().splitlines() or [""])[0]
        print(
            f"embedding: the backbone could not be compiled ({type(error).__name__}: {what}); continuing without "
            "compilation",
            file=sys.stderr,
            flush=True,
        )
        return encoder
    return faster


class _Compiled:
    """Has the interface of `FeatureReader`: a call for vectors, `with_places` for vectors and patch vectors."""

    def __init__(self, reader: torch.nn.Module) -> None:
        self._compiled = torch.compile(reader, dynamic=False)
        self.with_places = reader.with_places

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._compiled(pixels)  # type: ignore[no-any-return]
