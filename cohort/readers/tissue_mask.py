"""Where there is tissue on a whole slide: stained, neither glass nor pen nor shadow, told from a thumbnail."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_LEAST_SATURATION = 15  # of 255: glass that is a little yellow must not become tissue where Otsu finds nothing better
_DARKEST = 40  # of 255: the slide's rim, folds and black ink
_PEN_MARGIN = 20  # levels by which green exceeds both others: no stain in use is green


def tissue_mask(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of stained tissue.

    Stain shows as saturation, glass is gray to white: the saturation of HSV, median filtered, is cut by Otsu's
    threshold (Otsu 1979, doi:10.1109/TSMC.1979.4310076; on the saturation as in Lu et al. 2021,
    doi:10.1038/s41551-020-00682-w, CLAM, section "WSI processing"), but never below a least saturation. What is very
    dark, green, or a blue far stronger than haematoxylin's, is ink or shadow (the colours that HistoQC looks for:
    Janowczyk et al. 2019, doi:10.1200/CCI.18.00157).

    Args:
        thumbnail: (H, W, 3) uint8 sRGB, at about 8 µm per pixel.

    Returns:
        (H, W) bool.
    """
    hue, saturation, value = cv2.split(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2HSV))
    saturation = cv2.medianBlur(saturation, 5) if min(saturation.shape) >= 5 else saturation
    red, green, blue = (channel.astype(np.int16) for channel in cv2.split(thumbnail))
    green_pen = (green - np.maximum(red, blue)) > _PEN_MARGIN
    blue_pen = (hue >= 95) & (hue <= 125) & (saturation > 150) & (blue > red + 60)  # OpenCV's hue: degrees / 2
    marked = green_pen | blue_pen | (value < _DARKEST)
    # A pen is more saturated than any stain, and would lift the threshold above the tissue.
    sample = saturation[~marked]
    if not sample.size:
        return np.zeros(saturation.shape, bool)
    threshold, _ = cv2.threshold(sample.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray((saturation > max(threshold, _LEAST_SATURATION)) & ~marked)
