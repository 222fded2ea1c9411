"""One way to read any clinical image: bytes in, pictures or a reason why not out. docs/reading.md has the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pellucid.cohort.readers.picture import (
    NOTHING_SHOWN,
    NoPicture,
    Picture,
    ReadOptions,
    Source,
    UnreadableImage,
    decoding_reason,
    flat_rgb,
)
from pellucid.cohort.readers.sniff import IMAGE_SUFFIXES, UNREAD_SUFFIXES, sniff, unread_image, what_else

__all__ = [
    "IMAGE_SUFFIXES",
    "NOTHING_SHOWN",
    "UNREAD_SUFFIXES",
    "NoPicture",
    "Picture",
    "ReadOptions",
    "UnreadableImage",
    "decoding_reason",
    "flat_rgb",
    "read_image",
    "read_pictures",
    "sniff",
    "unread_image",
]


def read_pictures(path: Path, data: bytes, options: ReadOptions) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """Every picture of a file, one at a time; what the file is called plays no part.

    Args:
        path: where the file lies: whole slides are read from there, everything else from `data`.
        data: the whole file.
        options: which frames, which tiles, and the limits.

    Yields:
        A label and the picture. The label is empty where the file holds one picture; else it is the number of the frame
        or page, counted from 0, or `x{left}-y{top}` of a slide's tile in pixels of its highest resolution. A frame that
        cannot be decoded stands there as the reason, and the others follow.

    Raises:
        UnreadableImage: on the first step, where the whole file has no picture to give, with a reason fit for the
            manifest; its subclass NoPicture where the file is sound but not a picture.
    """
    yield from _read(Source(data, path, options))


def read_image(data: bytes, *, min_side_px: int = 0, max_megapixels: float = 200) -> Picture:
    """Decode one image from its bytes; the middle one of a file of several frames or pages.

    Args:
        data: the whole file.
        min_side_px: JPEGs may be decoded at a smaller DCT scale, as long as both sides keep this many pixels (0: full).
        max_megapixels: a header that promises more is taken for a decompression bomb and nothing is decoded.

    Raises:
        UnreadableImage: with a reason fit for the manifest; whole slides too, which only `read_pictures` reads.
    """
    options = ReadOptions(min_side_px=min_side_px, max_megapixels=max_megapixels, frames="middle")
    _, picture = next(_read(Source(data, None, options)))
    if isinstance(picture, UnreadableImage):
        raise picture
    return picture


def _read(source: Source) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    kind = sniff(source.data)
    if not source.data:
        raise UnreadableImage("the file is empty")
    if kind == "dicom":
        from pellucid.cohort.readers.dicom import read_dicom

        return read_dicom(source)
    if kind == "tiff":
        from pellucid.cohort.readers.tiff import read_tiff

        return read_tiff(source)
    if kind is not None:
        from pellucid.cohort.readers.raster import read_raster

        return read_raster(source, kind)
    other = what_else(source.data)
    if other is not None:
        raise UnreadableImage(f"{other}: JPEG, PNG, WebP, BMP, GIF, AVIF, TIFF, DICOM and whole slides are read")
    raise UnreadableImage("the content is not an image of a kind that can be read, whatever the file is called")
