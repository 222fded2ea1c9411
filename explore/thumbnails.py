"""Prepared images as thumbnails of one size, for grids in the report and the explorer."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from pellucid.cohort.images import Pixels, PreparedImages, encode


def letterbox(pixels: Pixels, size_px: int) -> Pixels:
    """(H, W, 3) → (size_px, size_px, 3): the whole image, neither cropped nor stretched, on a dark background."""
    height, width = pixels.shape[:2]
    scale = size_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(pixels, size, interpolation=how)
    ground = np.full((size_px, size_px, 3), 17, dtype=np.uint8)
    top, left = (size_px - size[1]) // 2, (size_px - size[0]) // 2
    ground[top : top + size[1], left : left + size[0]] = small
    return ground


def obscure(pixels: Pixels) -> Pixels:
    """(H, W, 3) → the same size in at most 10 × 10 squares of one colour: no letter or face can be recognised."""
    height, width = pixels.shape[:2]
    few = cv2.resize(pixels, (min(10, width), min(10, height)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def thumbnails(scan_folder: Path, image_ids: Iterable[str], size_px: int = 120, quality: int = 82) -> dict[str, bytes]:
    """image_id → JPEG of size_px × size_px, for each image named."""
    wanted = list(dict.fromkeys(image_ids))
    if not wanted:
        return {}
    prepared = PreparedImages.open(scan_folder, wanted)
    return {
        image_id: encode(letterbox(prepared.decode(i, size_px), size_px), quality) for i, image_id in enumerate(wanted)
    }


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds its bytes."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
