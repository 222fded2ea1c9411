"""Pictures without their burned-in text: what is drawn into an image may tell the device, and is no finding."""

from __future__ import annotations

import cv2
import numpy as np

from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.pixels import Pixels, shrink

_SIDE_PX = 480  # lines are looked for at this shorter side, as the scan does
_AROUND = 0.25  # of a line's height: marks beside the found characters
_RADIUS_PX = 3


def without_text(pixels: Pixels) -> Pixels:
    """(H, W, 3) uint8 RGB with its lines of drawn characters painted over from what surrounds them (Telea 2004).

    Lines are found by their form, without reading (`pellucid.cohort.identifiers.text_detector.text_lines`), which
    misses some. What is painted is smooth; where it lies may still be seen.
    """
    middle = np.ascontiguousarray(shrink(pixels, _SIDE_PX))
    boxes = text_lines(middle)
    if not boxes:
        return pixels
    scale = pixels.shape[0] / middle.shape[0]
    mask = np.zeros(pixels.shape[:2], dtype=np.uint8)
    for x, y, width, height in boxes:
        pad = round(scale * max(2.0, _AROUND * height))
        left, top = max(0, round(scale * x) - pad), max(0, round(scale * y) - pad)
        mask[top : round(scale * (y + height)) + pad, left : round(scale * (x + width)) + pad] = 255
    return np.asarray(cv2.inpaint(np.ascontiguousarray(pixels), mask, _RADIUS_PX, cv2.INPAINT_TELEA), dtype=np.uint8)
