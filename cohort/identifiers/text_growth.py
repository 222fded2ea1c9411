"""Whole lines of burned-in text without reading: what the detector finds, grown to all ink beside it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.pixels import Box

_SCALES = (1.0, 0.5)  # of the image: characters of other sizes than the detector's
_FAINTEST = 30  # of ink above its surroundings
_SHARE = 0.5  # of the contrast of the strongest ink of the line: what counts as the same ink
_GAP = 1.6  # to the next word, in heights of the line
_ABOVE = 0.5  # to an accent or a descender, in heights of the line
_SMALLEST = 0.25  # of a mark's longer side, in heights of the line: speckle is smaller
_TALLEST = 2.0  # of a mark, in heights of the line


def whole_lines(pixels: NDArray[np.uint8]) -> list[Box]:
    """Boxes around lines of drawn characters, bright or dark, in small and large type, of any colour.

    The detector (`text_lines`) finds where a line is; the line is then grown to every mark of similar ink that follows
    within a word's distance on the same line, with its accents and descenders. It finds more than the detector, and
    masks more beside the text.

    Args:
        pixels: (H, W, 3) uint8 RGB.
    """
    found: set[Box] = set()
    for view in (pixels, 255 - pixels):
        gray = np.repeat(view.max(axis=2)[:, :, None], 3, axis=2)  # coloured letters count as well
        seeds = {box for image in (view, gray) for box in _at_scales(image)}
        for seed in seeds:
            found.add(_grown(gray[:, :, 0], seed))
    return sorted(found)


def _at_scales(view: NDArray[np.uint8]) -> list[Box]:
    height, width = view.shape[:2]
    boxes = []
    for scale in _SCALES:
        sized = cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale != 1 else view
        for box in text_lines(np.ascontiguousarray(sized)):
            x, y, w, h = (round(v / scale) for v in box)
            boxes.append((x, y, min(w, width - x), min(h, height - y)))
    return boxes


def _grown(gray: NDArray[np.uint8], seed: Box) -> Box:
    """The box around a line and all similar marks that can be reached from it."""
    x, y, w, h = seed
    side = 2 * max(4, h // 2) + 1
    ink = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((side, side), np.uint8))
    inside = ink[y : y + h, x : x + w]
    strokes = inside[inside > _FAINTEST]
    if not strokes.size:
        return seed
    drawn = (ink > max(_FAINTEST, _SHARE * float(np.percentile(strokes, 90)))).astype(np.uint8)
    _, _, marks, _ = cv2.connectedComponentsWithStats(drawn, connectivity=8)
    longer = marks[:, 2:4].max(axis=1)
    usable = (longer >= _SMALLEST * h) & (marks[:, 3] <= _TALLEST * h)
    usable &= (marks[:, 1] >= y - _ABOVE * h) & (marks[:, 1] + marks[:, 3] <= y + (1 + _ABOVE) * h)
    usable[0] = False  # the background
    left, top, right, bottom = x, y, x + w, y + h
    while True:
        near = (marks[:, 0] <= right + _GAP * h) & (marks[:, 0] + marks[:, 2] >= left - _GAP * h)
        new = marks[usable & near]
        usable &= ~near
        if not len(new):
            return int(left), int(top), int(right - left), int(bottom - top)
        left, top = min(left, new[:, 0].min()), min(top, new[:, 1].min())
        right, bottom = max(right, (new[:, 0] + new[:, 2]).max()), max(bottom, (new[:, 1] + new[:, 3]).max())
