"""TIFF of every kind that tifffile decodes: its pages are frames, its pyramid levels and thumbnails are not."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags

from pellucid.cohort.readers.compressed_stream import jpeg_quality
from pellucid.cohort.readers.exif import GPS, clean, exif_findings, exif_header, orientation_of
from pellucid.cohort.readers.picture import (
    Picture,
    Source,
    UnreadableImage,
    chosen_frames,
    refuse_bomb,
    together,
    upright,
)
from pellucid.cohort.readers.tiff_display import PHOTOMETRICS, show_page

_MOST_SAMPLES = 8  # of a pixel
_SAMPLED = 16  # pages of a file that are looked at for the number of bits in use
_DNG_VERSION = 50706
_EXIF_IDS = {tag.name: int(tag) for tag in ExifTags.Base}
_IMAGEJ_INFO = 50839  # ImageJ keeps a DICOM file's whole header here
_PROGRAM_NOTES = ('{"shape":', "ImageJ=")  # what tifffile and ImageJ write into ImageDescription about themselves
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the manifest says what was wrong with a file


def read_tiff(source: Source) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """The pages of a TIFF file, or the tiles of a whole slide; see `pellucid.cohort.readers.read_pictures`."""
    file = _File(source)
    if file.is_slide():
        from pellucid.cohort.readers.whole_slide import read_slide

        yield from read_slide(source, "TIFF", _quality(file.frames[0], source.data))
        return
    n_frames = len(file.images)
    for number in chosen_frames(n_frames, source.options.frames):
        try:
            yield str(number) if n_frames > 1 else "", file.picture(number)
        except UnreadableImage as reason:
            if n_frames == 1:
                raise
            yield str(number), reason


class _File:
    def __init__(self, source: Source) -> None:
        self.source = source
        try:
            self.tiff = tifffile.TiffFile(io.BytesIO(source.data))
            pages = [page for page in self.tiff.pages if isinstance(page, tifffile.TiffPage)]
            self.frames = [page for page, keep in zip(pages, _are_frames(pages), strict=True) if keep]
            self.planes = self._imagej_planes()
        except MemoryError:
            raise
        except Exception:
            raise UnreadableImage("a damaged TIFF: the header cannot be read") from None
        if any(_DNG_VERSION in page.tags for page in pages) or source.data[8:10] == b"CR":
            raise UnreadableImage("a raw file of a camera, which is not read")
        if not self.frames:
            only_small = "a TIFF that holds only thumbnails (a raw file of a camera?)"
            raise UnreadableImage(only_small if pages else "a damaged TIFF: there is no page in it")
        if self.planes:
            self.frames = self.frames[:1] * self.planes
        self.channels = [1] * self.planes or [_channels(page) for page in self.frames]
        self.bits: int | None = None
        # Page and sample of each image; None: all samples of the page are its colours.
        self.images = [(page, sample if n > 1 else None) for page, n in enumerate(self.channels) for sample in range(n)]
        self.last: tuple[int, NDArray[Any]] | None = None

    def is_slide(self) -> bool:
        """A vendor's slide, or a tiled pyramid that is too large, or too finely resolved, for a plain picture."""
        from pellucid.cohort.readers.whole_slide import is_slide_tiff

        return is_slide_tiff(self.tiff, self.source.path)

    def picture(self, number: int) -> Picture:
        """One page.

        Raises:
            UnreadableImage: of this page.
        """
        index, sample = self.images[number]
        page = self.frames[index]
        try:
            self._refuse(page)
            values = self._values_again(index)
            if self.bits is None:
                self.bits = self._bits_in_use(page, values)
            exif = _exif(page)
            if sample is not None:
                values = values[sample] if page.axes == "SYX" else values[..., sample]
            pixels, shown = show_page(page, values, self.bits)
            quality = _quality(page, self.source.data)
        except (MemoryError, UnreadableImage):
            raise
        except Exception as error:
            where = f"page {index} " if len(self.frames) > 1 else "the pixels "
            raise UnreadableImage(f"a damaged TIFF: {where}cannot be decoded ({type(error).__name__})") from None
        orientation = orientation_of(exif)
        width, height = page.imagewidth, page.imagelength
        if 5 <= orientation <= 8:
            width, height = height, width
        which = f"page {index + 1} of {len(self.frames)}" if len(self.frames) > 1 else ""
        if sample is not None:
            which = together(which, f"channel {sample + 1} of {self.channels[index]}")
        return Picture(
            upright(pixels, orientation),
            width,
            height,
            "tiff",
            page.bitspersample,
            exif_header(exif),
            _findings(exif),
            quality,
            together(which, shown),
        )

    def _imagej_planes(self) -> int:
        """How many planes ImageJ wrote behind a single page, as it does above 4 GB; 0 for an ordinary file."""
        page = self.frames[0] if len(self.frames) == 1 else None
        if page is None or not self.tiff.is_imagej or page.compression != 1 or not self.tiff.imagej_metadata:
            return 0
        planes = int(self.tiff.imagej_metadata.get("images", 1))
        there = (len(self.source.data) - page.dataoffsets[0]) // max(1, page.nbytes)
        return min(planes, there) if planes > 1 else 0

    def _values_again(self, index: int) -> NDArray[Any]:
        """A page's values; the channels of a page follow each other, and it is decoded once for all."""
        if self.last is None or self.last[0] != index:
            self.last = (index, self._values(index))
        return self.last[1]

    def _values(self, number: int) -> NDArray[Any]:
        page = self.frames[number]
        if self.planes:
            start = page.dataoffsets[0] + number * page.nbytes
            kind = np.dtype(page.dtype).newbyteorder(self.tiff.byteorder)
            flat = np.frombuffer(self.source.data, dtype=kind, count=page.size, offset=start)
            return flat.reshape(page.shape).astype(page.dtype)
        return np.asarray(page.asarray(maxworkers=1))

    def _refuse(self, page: tifffile.TiffPage) -> None:
        limit = self.source.options.max_megapixels
        refuse_bomb(page.imagewidth, page.imagelength, limit)
        if page.is_tiled:  # each tile is decoded whole, however little of it the picture needs
            refuse_bomb(page.tilewidth, page.tilelength, limit)
        if page.samplesperpixel > _MOST_SAMPLES or page.imagedepth > 1 or page.dtype is None:
            raise UnreadableImage(
                f"a TIFF of {page.samplesperpixel} channels and depth {page.imagedepth}, which is not read as a picture"
            )
        if page.photometric not in PHOTOMETRICS:
            name = getattr(page.photometric, "name", page.photometric)
            raise UnreadableImage(f"a TIFF with colours of the kind {name}, which is not read")
        ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > len(self.source.data) or not page.dataoffsets:
            raise UnreadableImage("a damaged TIFF: the file is cut short")

    def _bits_in_use(self, page: tifffile.TiffPage, values: NDArray[Any]) -> int:
        """Of 16-bit integers: the bits of the highest value in the file, so that its pages stay comparable."""
        if values.dtype != np.uint16 or page.bitspersample < 16:
            return int(page.bitspersample)
        highest = int(values.max(initial=0))
        step = max(1, -(-len(self.frames) // _SAMPLED))
        for number in range(0, len(self.frames), step):
            other = self.frames[number]
            if highest.bit_length() == 16:
                break
            if other.dtype == np.uint16:
                self._refuse(other)
                highest = max(highest, int(self._values(number).max(initial=0)))
        return max(8, highest.bit_length())


def _channels(page: tifffile.TiffPage) -> int:
    """How many images a page holds: each sample of a gray page is a channel, but for an opacity (TIFF 6.0,
    ExtraSamples)."""
    if page.photometric not in {0, 1} or not 1 < page.samplesperpixel <= _MOST_SAMPLES:
        return 1
    opacity = page.samplesperpixel == 2 and page.extrasamples[:1] and int(page.extrasamples[0]) in {1, 2}
    return 1 if opacity else int(page.samplesperpixel)


def _are_frames(pages: list[tifffile.TiffPage]) -> Iterator[bool]:
    """Whether each page is a picture of its own: not a mask, nor a smaller copy of the one before it."""
    largest: tifffile.TiffPage | None = None
    for page in pages:
        if page.subfiletype & 0b101:  # TIFF 6.0, NewSubfileType: reduced resolution, transparency mask
            yield False
            continue
        if largest is not None and page.is_tiled and largest.is_tiled and _is_level(page, largest):
            yield False
            continue
        largest = page
        yield True


def _is_level(page: tifffile.TiffPage, full: tifffile.TiffPage) -> bool:
    """A tiled page that is 1/2, 1/4, 1/8 … of the full one: a pyramid whose writer did not say so."""
    ratio = full.imagewidth / max(1, page.imagewidth)
    power = 2 ** max(1, round(np.log2(max(ratio, 1))))
    return ratio > 1.5 and all(
        abs(whole / power - part) <= 1.5
        for whole, part in ((full.imagewidth, page.imagewidth), (full.imagelength, page.imagelength))
    )


def _exif(page: tifffile.TiffPage) -> dict[int, Any]:
    """The tags of a page and its EXIF block by number, as Pillow gives those of a photograph."""
    exif: dict[int, Any] = {}
    for tag in page.tags:
        try:
            value = tag.value
        except Exception:  # one value that cannot be parsed is no reason to lose the others
            continue
        if tag.code == int(ExifTags.IFD.Exif) and isinstance(value, dict):
            exif |= {_EXIF_IDS[name]: v for name, v in value.items() if name in _EXIF_IDS}
        elif tag.code == GPS:
            exif[GPS] = bool(value)
        else:
            exif[int(tag.code)] = value
    return exif


def _findings(exif: dict[int, Any]) -> tuple[str, ...]:
    description = int(ExifTags.Base.ImageDescription)
    if clean(exif.get(description)).startswith(_PROGRAM_NOTES):
        exif = {tag: value for tag, value in exif.items() if tag != description}
    found = exif_findings(exif)
    return found if "exif_comment" in found or not exif.get(_IMAGEJ_INFO) else (*found, "exif_comment")


def _quality(page: tifffile.TiffPage, data: bytes) -> float | None:
    if page.compression not in {6, 7}:
        return None
    tables = page.tags.valueof(347)  # JPEGTables
    if isinstance(tables, bytes) and (quality := jpeg_quality(tables)) is not None:
        return quality
    start = page.dataoffsets[0]
    return jpeg_quality(memoryview(data)[start : start + page.databytecounts[0]])
