"""Pixels and Box types; shrink, halve, stretch, encode as JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def shrink(pixels: Pixels, short_side_px: int) -> Pixels:
    """(H, W, 3) reduced by area averaging until its shorter side is `short_side_px`; never enlarged.

    By means of 2 × 2 as long as that leaves enough, then by one mean of 2 × 2 of a linear enlargement to twice the size
    asked for. That is OpenCV's INTER_AREA to 47 dB and better, in less than half of its time, which at scales that are
    no whole number was the dearest step of the pass (benchmarks/LOG.md).
    """
    height, width = pixels.shape[:2]
    scale = short_side_px / min(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    while pixels.shape[0] >= 2 * size[1] and pixels.shape[1] >= 2 * size[0]:
        pixels = halved(pixels)
    if pixels.shape[:2] == size[::-1]:
        return pixels
    doubled = cv2.resize(pixels, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR)
    return halved(np.asarray(doubled, dtype=np.uint8))


def halved(picture: Pixels) -> Pixels:
    """Means of 2 × 2; of an odd number of rows or columns the last is left out."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    even = np.ascontiguousarray(picture[: 2 * height, : 2 * width])
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode(pixels: Pixels, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB as JPEG without chroma subsampling: colour is a finding in these images."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="444"))


def as_prepared(pixels: Pixels, size_px: int, quality: int, min_side_px: int = 0) -> Pixels:
    """(H, W, 3) as a prepared copy of these pixels would be decoded (`PreparedImages.decode`)."""
    data = encode(shrink(pixels, size_px), quality)
    return np.asarray(
        simplejpeg.decode_jpeg(data, "RGB", min_height=min_side_px, min_width=min_side_px, min_factor=1), dtype=np.uint8
    )


def stretch(pixels: Pixels, size_px: int) -> Pixels:
    """(H, W, 3) → (size_px, size_px, 3); area averaging when both sides shrink, cubic otherwise."""
    height, width = pixels.shape[:2]
    if (height, width) == (size_px, size_px):
        return pixels
    how = cv2.INTER_AREA if min(height, width) >= size_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (size_px, size_px), interpolation=how), dtype=np.uint8)


Box = tuple[int, int, int, int]  # x, y, width, height in pixels
