"""Whether a cleaned DICOM file is displayed as the original was: a header without one number may turn a picture
white."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom

from pellucid.cohort.images.pixels import Box
from pellucid.cohort.readers import UnreadableImage, read_pictures
from pellucid.cohort.readers.picture import Picture, ReadOptions

_FRAMES_COMPARED = 8


def refuse_other_display(
    before: bytes, after: bytes, boxes: Sequence[Box], masked: Callable[[], bytes], *, max_megapixels: float
) -> None:
    """Compare what a scan would show of both files, in up to nine of their frames.

    Args:
        before: the original file.
        after: the new one.
        boxes: what was masked: differences inside are meant.
        masked: gives the original with its masked pixels. A display that is stretched from the least to the greatest
            value depends on what was masked, and is compared with that of this file.
        max_megapixels: a larger frame is not decoded.

    Raises:
        UnreadableImage: they differ outside the boxes, or one of them cannot be shown.
    """
    now = _shown(after, max_megapixels)
    if boxes and any("stretched" in picture.how for picture in now.values()):
        before = masked()
    then = _shown(before, max_megapixels)
    if then.keys() != now.keys():
        raise UnreadableImage("the cleaned file would not show the same frames")
    for number, picture in then.items():
        outside = np.ones(picture.pixels.shape[:2], bool)
        for x, y, w, h in boxes:
            outside[y : y + h, x : x + w] = False
        other = now[number].pixels
        if other.shape != picture.pixels.shape or not np.array_equal(other[outside], picture.pixels[outside]):
            raise UnreadableImage("it would be displayed otherwise without what its header must lose")


def _shown(data: bytes, max_megapixels: float) -> dict[str, Picture]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True).get("NumberOfFrames") or 1
    step = max(1, int(count) // _FRAMES_COMPARED)
    options = ReadOptions(max_megapixels=max_megapixels, frames=f"every {step}")
    found = {}
    for number, picture in read_pictures(Path(), data, options):
        if isinstance(picture, UnreadableImage):
            raise picture
        found[number] = picture
    return found
