"""The cheap comparison of two small gray images: correlation of their fine structure at the best shift."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Structure = NDArray[np.float32]
_SHIFT_PX = 3


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How far two gray images (64, 64) show the same fine structure, −1 to 1; higher is more alike.

    What ultrasound images of one scanner, or slices of one region, have in common is coarse: where it is dark, where
    the field ends. So each image is freed of its coarse structure and its local contrast (difference of a Gaussian
    blur of 1 and of 4 pixels, over the local standard deviation) before the normalised cross-correlation is taken, at
    the best shift of up to 3 pixels, so that a cropped border costs little. Standardised anatomy shares outlines as
    well, so this selects pairs and does not decide (`pellucid.cohort.duplicates.local_agreement`).
    """
    return shifted_correlation(fine_structure(first), fine_structure(second))[0]


def fine_structure(gray: NDArray[np.uint8], fine_px: float = 1, coarse_px: float = 4, local_px: float = 6) -> Structure:
    """A gray image (h, w) without its coarse structure and its local contrast, (h, w) float32.

    Args:
        fine_px, coarse_px: standard deviations of the two Gaussian blurs whose difference is the band-pass.
        local_px: standard deviation of the Gaussian window of the local contrast.
    """
    values = gray.astype(np.float32)
    band = cv2.GaussianBlur(values, (0, 0), fine_px) - cv2.GaussianBlur(values, (0, 0), coarse_px)
    contrast = np.sqrt(cv2.GaussianBlur(band * band, (0, 0), local_px))
    return np.asarray(band / (contrast + 2.0), dtype=np.float32)  # 2 gray levels: noise in empty borders stays small


def shifted_correlation(first: Structure, second: Structure) -> tuple[float, tuple[float, float]]:
    """Normalised cross-correlation of two fine structures at the best shift of up to 3 pixels, and this shift (x, y).

    The shift leads from the first to the second.
    """
    inner = second[_SHIFT_PX:-_SHIFT_PX, _SHIFT_PX:-_SHIFT_PX]
    if first.std() == 0 or inner.std() == 0:  # OpenCV calls a flat template a perfect match
        return 0.0, (0.0, 0.0)
    surface = cv2.matchTemplate(first, inner, cv2.TM_CCOEFF_NORMED)
    _, best, _, (x, y) = cv2.minMaxLoc(surface)
    return float(best), (float(_SHIFT_PX - x), float(_SHIFT_PX - y))
