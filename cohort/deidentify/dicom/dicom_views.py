"""RGB views of a DICOM file's frames, in which text is searched and which a reviewer sees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import convert_color_space

from pellucid.cohort.deidentify.raster_files import stretched_views
from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.readers.dicom_display import Display

_SAMPLED_FRAMES = 5
_COVERED = 0.8  # of a line's area: the same line on another frame

View = NDArray[np.uint8]


def number_of_frames(dataset: Dataset) -> int:
    """Frames of a file; 1 where it does not say."""
    return int(dataset.get("NumberOfFrames") or 1)


def frames_of(raw: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Decoded values with the frames as first axis."""
    return raw if number_of_frames(dataset) > 1 else raw[None]


def search_views(raw: NDArray[Any], photometric: str, dataset: Dataset) -> list[View]:
    """Views in which text is searched.

    They are five frames, every other frame with a line of drawn characters where the frames before have none, and the
    brightest and darkest value of each pixel over all frames. Each is converted to what a display shows (palette,
    colour space, window) before frames are compared; gray frames are also stretched over all their values, because
    text may lie outside the window.

    Args:
        raw: decoded values of all frames.
        photometric: what they are after decoding.
        dataset: the header.

    Raises:
        UnreadableImage: the palette or colour space cannot be applied.
    """
    frames = frames_of(raw, dataset)
    sampled = {int(i) for i in np.linspace(0, len(frames) - 1, _SAMPLED_FRAMES)}
    shown = _display(photometric, dataset)
    bright = dark = shown(frames[0], 0)
    seen: list[Box] = []
    views: list[View] = []
    for number in [*sorted(sampled), *(i for i in range(len(frames)) if i not in sampled)]:
        view = shown(frames[number], number)
        bright, dark = np.maximum(bright, view), np.minimum(dark, view)
        lines = [box for box in _drawn(view) if not _covered(box, seen)] if len(frames) > _SAMPLED_FRAMES else []
        if number in sampled or lines:
            views.append(view)
        seen += lines
        if number in sampled and _gray(photometric):
            views += _stretched(frames[number], photometric)
    if len(frames) > 1:
        views += [bright, dark]
        if _gray(photometric):
            views += [v for f in (frames.max(axis=0), frames.min(axis=0)) for v in _stretched(f, photometric)]
    return _distinct(views)


def sheet_views(raw: NDArray[Any], photometric: str, dataset: Dataset) -> tuple[View, ...]:
    """What a reviewer sees of a file: its frame, or the brightest and darkest value of each pixel over all frames.

    Raises:
        UnreadableImage: the palette or colour space cannot be applied.
    """
    frames = frames_of(raw, dataset)
    shown = _display(photometric, dataset)
    bright = dark = shown(frames[0], 0)
    for number in range(1, len(frames)):
        view = shown(frames[number], number)
        bright, dark = np.maximum(bright, view), np.minimum(dark, view)
    views = [bright, dark] if len(frames) > 1 else [bright]
    if _gray(photometric):
        ends = (frames.max(axis=0), frames.min(axis=0)) if len(frames) > 1 else (frames[0],)
        views += [_stretched(f, photometric)[0] for f in ends]
    return tuple(_distinct(views))


def first_view(raw: NDArray[Any], photometric: str, dataset: Dataset) -> View:
    """The first frame as displayed."""
    return _display(photometric, dataset)(frames_of(raw, dataset)[0], 0)


def _gray(photometric: str) -> bool:
    return photometric.startswith("MONOCHROME")


def _display(photometric: str, dataset: Dataset) -> Callable[[NDArray[Any], int], View]:
    """The function that shows one frame of stored values."""
    try:
        display = Display(dataset)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(f"a DICOM file whose colours cannot be displayed ({type(error).__name__})") from None

    def show(frame: NDArray[Any], number: int) -> View:
        values = convert_color_space(frame, "YBR_FULL", "RGB") if _is_ybr(frame, photometric) else frame
        try:
            return np.ascontiguousarray(display.show(values, number)[0])
        except Exception as error:
            raise UnreadableImage(f"a DICOM file whose colours cannot be displayed ({type(error).__name__})") from None

    return show


def _is_ybr(frame: NDArray[Any], photometric: str) -> bool:
    return photometric.startswith("YBR") and frame.ndim == 3 and frame.dtype == np.uint8


def _stretched(values: NDArray[Any], photometric: str) -> list[View]:
    if values.ndim != 2:
        return []
    return [255 - v for v in stretched_views(values)] if photometric == "MONOCHROME1" else stretched_views(values)


def _drawn(view: View) -> list[Box]:
    """Lines of characters, bright on dark or dark on bright."""
    return text_lines(view) + text_lines(255 - view)


def _covered(box: Box, others: Iterable[Box]) -> bool:
    x, y, w, h = box
    for left, top, width, height in others:
        common_w = min(x + w, left + width) - max(x, left)
        common_h = min(y + h, top + height) - max(y, top)
        if common_w > 0 and common_h > 0 and common_w * common_h >= _COVERED * w * h:
            return True
    return False


def _distinct(views: Sequence[View]) -> list[View]:
    """Views without copies: text is read once in each."""
    found: dict[bytes, View] = {}
    for view in views:
        found.setdefault(hashlib.sha256(view.tobytes()).digest(), view)
    return list(found.values())
