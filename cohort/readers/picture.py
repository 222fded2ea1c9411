"""What reading gives: pixels and what the header said, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


class UnreadableImage(Exception):
    """This file has no picture to give; the message becomes the `reason` in the manifest."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; may be a smaller DCT scale of the original.
        width, height: of the original, upright, in pixels.
        format: jpeg, png, webp, bmp or dicom.
        bits: stored bits per channel.
        header: what the header says of how the image came to be (never shown, only joined and counted).
        findings: kinds of identifying content in the header, for example `exif_gps`.
        jpeg_quality: the IJG quality (1–100) that the quantisation tables speak of; None where nothing was lost to JPEG.
        how: what was done on the way from the stored pixels to these, for example `DCT scale 1/2`; empty for nothing.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    bits: int
    header: dict[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    jpeg_quality: float | None = None
    how: str = ""


@dataclass(frozen=True)
class ReadOptions:
    """How files are turned into pictures; the meaning of each stands in `cohort.study.ScanConfig`."""

    min_side_px: int = 0  # a JPEG may be decoded at a smaller DCT scale that keeps this many pixels on both sides; 0: full
    max_megapixels: float = 200
    frames: str = "all"  # of a file that holds several pictures: all, middle, or every N
    tile_px: int = 256  # whole slides are cut into tiles of this many pixels …
    tile_um_per_px: float = 0.5  # … at this resolution
    min_tissue: float = 0.5  # share of a tile that must be tissue


def flat_rgb(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 1|3) uint8 as contiguous (H, W, 3): gray is repeated."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def refuse_bomb(width: int, height: int, max_megapixels: float) -> None:
    """Refuse before decoding what would not fit in memory."""
    if width <= 0 or height <= 0:
        raise UnreadableImage("the header gives an image without pixels")
    if width * height > max_megapixels * 1e6:
        raise UnreadableImage(
            f"the header promises {width} × {height} pixels, more than the {max_megapixels:g} megapixels allowed "
            "(scan.max_megapixels): taken for a decompression bomb"
        )
