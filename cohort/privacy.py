"""Burned-in text: a cheap detector of lines of drawn characters, for the one pass; it finds marks, it does not read."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def text_lines(pixels: NDArray[np.uint8], min_characters: int = 4) -> list[Box]:
    """Boxes of line-like rows of drawn characters.

    Drawn text differs from tissue in three ways that need no reading: its strokes are thin and bright against what
    surrounds them (white top-hat), colourless, and the characters of a line share their upper and lower edge to the
    pixel. It misses text that is large, coloured, dark on light, or fewer than `min_characters` in a row.

    Args:
        pixels: (H, W, 3) uint8 RGB, at a scale at which characters are 6 to 40 pixels high.
    """
    red, green, blue = cv2.split(pixels)  # NumPy reduces a last axis of three 20 times more slowly
    gray = cv2.max(cv2.max(red, green), blue)
    colourless = gray - cv2.min(cv2.min(red, green), blue) < 40
    strokes = cv2.morphologyEx(gray, cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    drawn = ((strokes > 70) & (gray > 130) & colourless).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(drawn, connectivity=8)
    x, y, w, h, area = stats[1:].T
    filled = area / (w * h)
    fits = (h >= 5) & (h <= 40) & (w >= 1) & (w <= 1.6 * h) & (filled > 0.2) & (filled < 0.95)
    boxes = sorted(zip(*(v[fits].tolist() for v in (x, y, w, h)), strict=True))
    lines: list[list[Box]] = []
    for box in boxes:  # from left to right, each joins the line whose last character it continues
        for line in lines:
            last = line[-1]
            gap = box[0] - (last[0] + last[2])
            level = abs(box[1] - last[1]) <= 1 and abs(box[1] + box[3] - last[1] - last[3]) <= 1
            if level and -1 <= gap <= 1.8 * last[3]:
                line.append(box)
                break
        else:
            lines.append([box])
    found = []
    for line in lines:
        if len(line) >= min_characters:
            left, top = min(b[0] for b in line), min(b[1] for b in line)
            right, bottom = max(b[0] + b[2] for b in line), max(b[1] + b[3] for b in line)
            found.append((left, top, right - left, bottom - top))
    return found
