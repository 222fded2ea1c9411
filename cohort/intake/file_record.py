"""Everything that is ever taken from one original file, in the order in which its bytes allow it."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.identifiers.faces import faces
from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.content_hashes import perceptual_hash, pixel_hash
from pellucid.cohort.images.pixels import encode, shrink
from pellucid.cohort.measures.quality import measure
from pellucid.cohort.readers import (
    NOTHING_SHOWN,
    NoPicture,
    Picture,
    ReadOptions,
    UnreadableImage,
    decoding_reason,
    read_pictures,
)
from pellucid.cohort.study import ScanConfig

_TEXT_SIDE_PX = 480  # burned-in text is looked for at this scale: at the prepared one small characters melt
_LONGEST_SIDE_PX = 65_000  # of a JPEG, which the prepared copy is
_MAPPED_BYTES = 64 << 20  # larger files are mapped: a whole slide is never in memory

Row = dict[str, Any]


def read_file(root: Path, file: str, config: ScanConfig) -> Iterator[tuple[Row, bytes | None]]:
    """One row for the manifest for each picture of the file, with the prepared copy's bytes (None where unreadable).

    Whatever is wrong with the file becomes a row; nothing is raised but what is a fault of this program.

    Args:
        root: folder that `file` is relative to.
        file: posix path; the `image_id` of its only picture, or what its pictures' ids begin with.
        config: how to read and prepare.
    """
    row: Row = {
        "image_id": file,
        "file": file,
        "frame": "",
        "status": "unreadable",
        "reason": "",
        "sha256": "",
        "n_bytes": 0,
    }
    options = ReadOptions.from_scan_config(config, min_side_px=max(config.size_px, _TEXT_SIDE_PX))
    frame = ""
    try:
        data = bytes_of(root / file)
        row |= {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
        any_picture = False
        for frame, picture in _pictures(root / file, data, options):
            any_picture = True
            named = row | {"image_id": f"{file}#{frame}" if frame else file, "frame": frame}
            if isinstance(picture, UnreadableImage):
                yield named | {"reason": str(picture)}, None
            elif max(picture.width, picture.height, *picture.pixels.shape[:2]) > _LONGEST_SIDE_PX:
                size = f"{picture.width} × {picture.height}"
                yield named | {"reason": f"a picture of {size} pixels is too long to be prepared"}, None
            else:
                small = shrink(picture.pixels, config.size_px)
                yield named | _measured(picture, small, config), encode(small, config.jpeg_quality)
        if not any_picture:
            yield row | {"reason": NOTHING_SHOWN}, None
    except NoPicture as reason:
        yield row | {"status": "no_picture", "reason": str(reason)}, None
    except (UnreadableImage, OSError, MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        yield row | {"reason": decoding_reason(error)}, None
    except Exception as error:
        error.add_note(f"while reading {file}")
        raise


def _pictures(path: Path, data: bytes, options: ReadOptions) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """`read_pictures`, with any exception of a decoder as an UnreadableImage."""
    try:
        yield from read_pictures(path, data, options)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(decoding_reason(error)) from error


def bytes_of(path: Path) -> bytes:
    """A file's content; a large one mapped, which reads alike."""
    if path.stat().st_size <= _MAPPED_BYTES:
        return path.read_bytes()
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)  # type: ignore[return-value] # sliced and hashed alike


def _measured(picture: Picture, small: NDArray[np.uint8], config: ScanConfig) -> Row:
    middle = shrink(picture.pixels, _TEXT_SIDE_PX)
    found, how = _text(middle, config.text)
    marks = ["burned_in_text"] if found else []
    if config.faces and (middle[..., :1] != middle).any() and faces(middle):  # gray pictures are no photographs
        marks.append("face")
    shrunk = "" if small.shape == picture.pixels.shape else f"area to {small.shape[1]} × {small.shape[0]}"
    return {
        "status": "ok",
        "pixel_hash": pixel_hash(picture.pixels, picture.width, picture.height),
        "perceptual_hash": perceptual_hash(small),
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "bits": picture.bits,
        "prepared": ", ".join(filter(None, [picture.how, shrunk, f"JPEG {config.jpeg_quality}"])),
        "text_like": bool(found),
        "text_read": how,
        "findings": " ".join([*picture.findings, *marks]),
        **{f"header_{name}": value for name, value in picture.header.items()},
        **measure(small, picture.jpeg_quality),
    }


def _text(pixels: NDArray[np.uint8], how: str) -> tuple[bool, str]:
    """Is there burned-in text, and what does it say (empty where it is found by its form alone)?"""
    if how == "lines":
        return bool(text_lines(pixels)), ""
    boxes = _reader().read_text(pixels)
    return bool(boxes), " ".join(box.text for box in boxes)


@cache
def _reader() -> Any:
    from pellucid.cohort.identifiers.ocr import TextReader

    return TextReader()
