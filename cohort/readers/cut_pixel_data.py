"""Compressed pixel data without an end (PS3.5 A.4): the frames of a DICOM file that are whole although it was cut."""

from __future__ import annotations

import io
from typing import Any

import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from pellucid.cohort.readers.compressed_stream import is_whole

_PIXEL_DATA, _ITEM = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0"
_UNDEFINED = b"\xff\xff\xff\xff"


def reparsed(data: bytes) -> tuple[Any, list[bytes] | None]:
    """A file that was parsed without pixels: pydicom drops the whole dataset if the last element has no end.

    Args:
        data: the whole file.

    Returns:
        The dataset, with those of its frames that are whole, and these as compressed streams; None where the file ends
        before compressed pixel data begin.
    """
    stream = io.BytesIO(data)
    dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    at = stream.tell()
    if data[at : at + 4] != _PIXEL_DATA or data[at + 8 : at + 12] != _UNDEFINED:
        return dataset, None
    rle = dataset.file_meta.get("TransferSyntaxUID") == RLELossless
    items = _items(data, at + 12)
    n_frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    frames = [stream for stream, ended in _frames(items, n_frames, rle) if (ended if rle else is_whole(stream))]
    if frames:
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in dataset:
                del dataset[name]
    return dataset, frames


def _items(data: bytes, at: int) -> list[tuple[int, bytes, bool]]:
    """Offset, content and completeness of each item; the first is the offset table."""
    items = []
    while data[at : at + 4] == _ITEM and at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + length]
        items.append((at, content, len(content) == length))
        at += 8 + length
    return items


def _frames(items: list[tuple[int, bytes, bool]], n_frames: int, rle: bool) -> list[tuple[bytes, bool]]:
    """Stream and completeness of each frame up to the first that is not whole."""
    if len(items) < 2:
        return []
    (_, table, _), first = items[0], items[1][0]
    offsets = {first + int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table) // 4 * 4, 4)}
    frames: list[tuple[bytes, bool]] = []
    for number, (at, content, ended) in enumerate(items[1:]):
        if len(offsets) > 1:
            begins = at in offsets
        elif n_frames == 1:
            begins = number == 0
        else:  # a frame may have several fragments: the next begins where a stream is whole
            begins = number == 0 or rle or is_whole(frames[-1][0])
        if begins:
            frames.append((content, ended))
        else:
            frames[-1] = (frames[-1][0] + content, ended)
    return frames[:n_frames]
