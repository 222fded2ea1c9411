"""Burned-in text found by its shape."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.images.pixels import Box

_COLOURLESS = 39  # largest difference between the channels of drawn text

_CONTRASTS = (70, 90)  # above the surroundings: for faint fonts, and for bright ones before bright tissue

_BRIGHTER = 60  # by how much ink is brighter in itself than its contrast

_SURROUNDINGS = np.ones((9, 9), np.uint8)


def text_lines(pixels: NDArray[np.uint8], min_characters: int = 3) -> list[Box]:
    """Boxes of line-like rows of drawn characters.

    Drawn text differs from tissue in three ways that need no reading: its strokes are thin and bright against what
    surrounds them (white top-hat), colourless, and the characters of a line share their upper and lower edge to the
    pixel. It misses text that is large, coloured, dark on light, or fewer than `min_characters` in a row;
    docs/privacy.md says how much of what OCR reads it finds.

    Args:
        pixels: (H, W, 3) uint8 RGB, at a scale at which characters are 6 to 40 pixels high.
        min_characters: fewest characters that make a line.
    """
    red, green, blue = cv2.split(pixels)  # NumPy reduces a last axis of three 20 times more slowly
    gray = cv2.max(cv2.max(red, green), blue)
    coloured = cv2.subtract(gray, cv2.min(cv2.min(red, green), blue))
    ink = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, _SURROUNDINGS)
    cv2.min(ink, cv2.subtract(gray, (_BRIGHTER,)), dst=ink)  # type: ignore[call-overload] # a number for all pixels
    cv2.bitwise_and(ink, cv2.threshold(coloured, _COLOURLESS, 255, cv2.THRESH_BINARY_INV)[1], dst=ink)
    found: list[Box] = []
    for contrast in _CONTRASTS:
        drawn = cv2.threshold(ink, contrast, 1, cv2.THRESH_BINARY)[1]
        for line in _rows_of(_characters(drawn)):
            if len(line) >= min_characters and sum(3 * w > h for _, _, w, h in line) > 1:  # not the ticks of a ruler
                box = _around(line)
                parts = [other for other in found if _overlap(box, other)]  # found before, whole or in part
                found = [other for other in found if other not in parts] + [_around([box, *parts])]
    return found


def _around(boxes: list[Box]) -> Box:
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return left, top, right - left, bottom - top


def _characters(drawn: NDArray[Any]) -> list[Box]:
    """Boxes of connected marks that have the size and density of a character, from left to right."""
    contours, _ = cv2.findContours(
        drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )  # 9 × faster than component statistics
    boxes = []
    for contour in contours:
        if len(contour) > 1:  # one point is one pixel, of which speckle makes many
            x, y, w, h = cv2.boundingRect(contour)
            if 5 <= h <= 40 and w <= 1.6 * h:
                filled = cv2.countNonZero(drawn[y : y + h, x : x + w]) / (w * h)
                if 0.2 < filled < 0.95 or 3 * w <= h:  # an I is all stroke
                    boxes.append((x, y, w, h))
    return sorted(boxes)


def _rows_of(boxes: list[Box]) -> list[list[Box]]:
    """Each character joins the line whose last character it continues."""
    lines: list[list[Box]] = []
    for box in boxes:
        for line in lines:
            last = line[-1]
            gap = box[0] - (last[0] + last[2])
            level = abs(box[1] - last[1]) <= 1 and abs(box[1] + box[3] - last[1] - last[3]) <= 1
            if level and -1 <= gap <= 1.8 * last[3]:
                line.append(box)
                break
        else:
            lines.append([box])
    return lines


def _overlap(box: Box, other: Box) -> bool:
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return width > 0 and 2 * height > min(box[3], other[3])
