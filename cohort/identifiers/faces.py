"""Frontal faces in colour pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.images.pixels import Box

_FACE_SIDE_PX = 240  # faces are looked for at this shorter side …

_SMALLEST_FACE_PX = 40  # … from this size on


def faces(pixels: NDArray[np.uint8]) -> list[Box] | None:
    """Frontal faces (local binary patterns cascade, Liao et al. 2007, as trained by OpenCV and shipped by
    scikit-image).

    It costs about 0.1 s a picture, and misses faces that are turned, covered or cut: no find is no proof.

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        Boxes; None where no detector is installed, and nothing was looked for.
    """
    cascade = _face_cascade()
    if cascade is None:
        return None
    scale = min(1.0, _FACE_SIDE_PX / min(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    if min(small.shape[:2]) < _SMALLEST_FACE_PX:
        return []
    largest = min(small.shape[:2])
    found = cascade.detect_multi_scale(
        img=np.ascontiguousarray(small),
        scale_factor=1.2,
        step_ratio=1,
        min_size=(_SMALLEST_FACE_PX, _SMALLEST_FACE_PX),
        max_size=(largest, largest),
    )
    return [tuple(round(f[k] / scale) for k in ("c", "r", "width", "height")) for f in found]


@cache
def _face_cascade() -> Any:
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError:
        return None
    path = Path(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
    return Cascade(str(path)) if path.is_file() else None
