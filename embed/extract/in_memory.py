"""Embed arrays or image files in memory, without writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.config import validate
from pellucid.cohort.errors import UserError
from pellucid.cohort.images import Pixels, stretch
from pellucid.cohort.intake import square_apart
from pellucid.cohort.readers import UnreadableImage
from pellucid.embed.backbones.backbone import Backbone, load_backbone
from pellucid.embed.extract.embed_config import EmbedConfig
from pellucid.embed.extract.workers import in_threads


def embed_array(
    images: NDArray[np.uint8] | Sequence[Path | str],
    backbone: str | Backbone,
    *,
    device: str = "auto",
    **options: Any,
) -> NDArray[np.float32]:
    """Vectors of images in memory or of image files; nothing is written.

    Args:
        images: (n, h, w, 3) uint8 RGB, or paths (from a file with several pictures the middle one is taken).
        backbone: a name that `load_backbone` accepts, or a loaded backbone.
        device: auto, cpu, cuda or cuda:N.
        options: keys of the `embed:` section, for example pooling="mean" or batch_size=32.

    Returns:
        (n, dim) float32, in the order given.

    Raises:
        UserError: files cannot be read (the message lists them), or the array has another shape or dtype.
    """
    config = validate(EmbedConfig, options, "embed_array")
    encoder = backbone
    if isinstance(encoder, str):
        encoder = load_backbone(encoder, device, config.readout(), config.precision)
    if isinstance(images, np.ndarray) and (images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8):
        raise UserError(
            f"embed_array: expected (n, height, width, 3) uint8 RGB, got {images.shape} {images.dtype}: scale floats "
            "to 0 … 255, repeat grey values three times"
        )
    size = config.batch_size_for(encoder)
    failed: list[str] = []

    def square(image: Any) -> Pixels:
        if isinstance(image, np.ndarray):
            return stretch(image, encoder.size_px)
        try:
            return square_apart(Path(image), encoder.size_px)
        except UnreadableImage as reason:
            failed.append(f"{image}: {reason}")
        except OSError as error:
            failed.append(f"{image}: cannot be opened ({error.strerror})")
        return np.zeros((encoder.size_px, encoder.size_px, 3), np.uint8)  # placeholder: the call will raise

    def batch(start: int) -> Pixels:
        return np.stack([square(image) for image in images[start : start + size]])

    vectors = in_threads(encoder, range(0, len(images), size), batch)
    if failed:
        raise UserError(
            f"embed_array: {len(failed)} of {len(images)} files could not be read:\n  " + "\n  ".join(sorted(failed))
        )
    return np.concatenate(vectors) if vectors else np.empty((0, encoder.dim), np.float32)
