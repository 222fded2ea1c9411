"""Reading burned-in text with rapidocr (extra `privacy`): its models lie in its wheel, nothing is fetched."""

from __future__ import annotations

import functools
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.images.pixels import Box

_ENLARGE_BELOW_PX = 800  # pictures with a shorter side under this are read at twice their size: small fonts else melt
_LARGEST_PX = 2000  # rapidocr's own limit for the longer side


@dataclass(frozen=True)
class TextBox:
    """A line of text that was read.

    Attributes:
        box: x, y, width, height in pixels of the picture.
        text: as read.
        confidence: 0–1, of the recogniser.
    """

    box: Box
    text: str
    confidence: float


def available() -> bool:
    """Whether rapidocr and its runtime are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("rapidocr", "onnxruntime"))


class TextReader:
    """Finds and reads lines of text, on one thread; the models are loaded at the first picture."""

    def __init__(self, min_confidence: float = 0.5) -> None:
        self.min_confidence = min_confidence

    def read_text(self, pixels: NDArray[np.uint8]) -> list[TextBox]:
        """Every line of text of a picture, bright on dark or dark on bright.

        Args:
            pixels: (H, W, 3) uint8 RGB.

        Raises:
            ModuleNotFoundError: rapidocr is not installed (see `available`).
        """
        height, width = pixels.shape[:2]
        scale = 2.0 if min(height, width) < _ENLARGE_BELOW_PX else 1.0
        scale = min(scale, _LARGEST_PX / max(height, width))
        shown: NDArray[Any] = np.ascontiguousarray(pixels[:, :, ::-1])
        if scale != 1:
            how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
            shown = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=how)
        found = _engine()(shown)
        if found.boxes is None:
            return []
        boxes = []
        for corners, text, confidence in zip(found.boxes, found.txts, found.scores, strict=True):
            if confidence < self.min_confidence or not text.strip():
                continue
            left, top = np.floor(np.min(corners, axis=0) / scale).astype(int).clip(0)
            right, bottom = np.ceil(np.max(corners, axis=0) / scale).astype(int)
            box = (int(left), int(top), int(min(right, width) - left), int(min(bottom, height) - top))
            boxes.append(TextBox(box, text, float(confidence)))
        return boxes


@functools.cache
def _engine() -> Any:
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.text_score": 0.0,  # the caller says how sure the reading must be
            # by default small pictures are enlarged to 736 pixels: as many lines found as at twice their size, for 1.6
            # × the time
            "Det.limit_type": "min",
            "Det.limit_side_len": 480,
            "Global.use_cls": False,  # turns lines that stand on their head; burned-in text does not
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
