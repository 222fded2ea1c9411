"""One JPEG, PNG, WebP, BMP or TIFF → the same picture without metadata and without burned-in text."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pellucid.cohort.deidentify.streams.coded_tails import unused_tail
from pellucid.cohort.deidentify.streams.icc_profiles import rebuilt_profile
from pellucid.cohort.deidentify.streams.jpeg_segments import scan_ends, strip_jpeg, with_profile
from pellucid.cohort.deidentify.streams.jpeg_tables import needed_tables
from pellucid.cohort.deidentify.streams.png_streams import strip_png, webp_metadata
from pellucid.cohort.deidentify.text_masking import fill
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.readers.whole_slide import is_slide_tiff

FindBoxes = Callable[[Sequence[NDArray[np.uint8]], Iterable[str]], list[Box]]
_AS_PNG = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}  # modes that PNG holds without loss
_MOST_SCANS = 16  # of a JPEG, each of which is decoded once more
_SUFFIX = {"jpeg": ".jpg", "png": ".png", "bmp": ".bmp"}
_COPIED = frozenset({"jpeg", "png", "bmp"})


@dataclass(frozen=True)
class Cleaned:
    """A file as it may leave the house.

    Attributes:
        data: its bytes.
        suffix: its ending.
        boxes: what was masked.
        removed: kinds of metadata that were there and are gone.
        preview: (H, W, 3) uint8 RGB of the new file, or of its first frame.
        sheet: what the review sheet shows of it, (H, W, 3) uint8 RGB each: all that its frames and pages show.
    """

    data: bytes
    suffix: str
    boxes: tuple[Box, ...]
    removed: tuple[str, ...]
    preview: NDArray[np.uint8]
    sheet: tuple[NDArray[np.uint8], ...]


def clean_raster(data: bytes, kind: str, find: FindBoxes, *, max_megapixels: float) -> Cleaned:
    """Strip and mask one raster file; the pixels outside the masked boxes stay exactly as they are.

    If nothing is masked, the coded pixels of a JPEG are copied, the rows of a PNG without a palette are compressed
    again, and those of a BMP are written again. Otherwise the decoded picture, turned upright, is stored as PNG (TIFF
    where PNG has no such pixels), with a palette of the colours that are used.

    Args:
        data: the file.
        kind: jpeg, png, webp, bmp or gif, by content.
        find: boxes to mask, given RGB views of the picture.
        max_megapixels: larger is not decoded.

    Raises:
        UnreadableImage: it cannot be decoded, or not be stripped without a change of its pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _opened(data, kind, max_megapixels)
        icc = rebuilt_profile(image.info.get("icc_profile") or b"")
        orientation = _orientation(image)
        upright = ImageOps.exif_transpose(image) if orientation != 1 else image
        boxes = find(_views(upright), ())
        dropped: set[str] = set()
        try:
            stripped = _stripped(image, data, kind, orientation, dropped, icc) if kind in _COPIED else b""
            if kind == "webp":
                dropped |= webp_metadata(data)
            elif "comment" in image.info:
                dropped.add("comment")
        except (ValueError, KeyError, IndexError, struct.error) as error:
            raise UnreadableImage(f"a {kind.upper()} whose structure is damaged ({error})") from None
        hidden = kind == "jpeg" and not boxes and (not stripped or _hidden_tail(stripped, image))
        dropped |= {"after_the_end"} if hidden else set()
        if boxes or hidden or not _may_copy(kind, image, data):
            if kind == "png" and data[24] == 16 and image.mode not in {"I;16", "I"}:
                raise UnreadableImage("a PNG of 16 bits per colour with text to mask: convert it to TIFF first")
            pixels = np.array(upright)
            fill(pixels, boxes)
            stripped, suffix = _stored(pixels, upright, icc)
            expected = pixels
        else:
            suffix, expected = _SUFFIX[kind], np.asarray(upright)
        again = _opened(stripped, "tiff" if suffix == ".tif" else suffix[1:].replace("jpg", "jpeg"), max_megapixels)
        shown = ImageOps.exif_transpose(again)
        same = shown.mode == upright.mode and np.array_equal(np.asarray(shown), expected)
        if not same or not _same_colours(shown, upright, expected):
            raise UnreadableImage("its metadata cannot be removed without a change of its pixels")
        views = _views(shown)
        return Cleaned(stripped, suffix, tuple(boxes), tuple(sorted(dropped)), views[0], tuple(views))


def _opened(data: bytes, kind: str, max_megapixels: float) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[kind.upper()])
        if image.width * image.height > max_megapixels * 1e6:
            raise UnreadableImage("a picture larger than scan.max_megapixels")
        if kind != "jpeg" and getattr(image, "n_frames", 1) > 1:
            raise UnreadableImage(f"a {kind.upper()} of several pictures")
        image.load()
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(f"a damaged {kind.upper()} ({type(error).__name__})") from None
    return image


def _orientation(image: Image.Image) -> int:
    try:
        found = int(image.getexif().get(ExifTags.Base.Orientation, 1) or 1)
    except Exception:  # a broken EXIF block is dropped like a good one
        return 1
    return found if 1 <= found <= 8 else 1


def _may_copy(kind: str, image: Image.Image, data: bytes) -> bool:
    """Whether coded pixels may be copied: no palette, no spare bits at the ends of rows, no coder with room in it."""
    if kind == "png":
        return image.mode != "P" and data[24] >= 8
    return kind == "jpeg" or (kind == "bmp" and image.mode in {"1", "L", "RGB"})


def _same_colours(shown: Image.Image, upright: Image.Image, pixels: NDArray[Any]) -> bool:
    """Whether two images with palettes have the same colours for all values of the pixels."""
    if shown.mode != "P":
        return True
    used = np.unique(pixels)
    return np.array_equal(_palette(shown)[used], _palette(upright)[used])


def _palette(image: Image.Image) -> NDArray[np.uint8]:
    """(256, 4) uint8 RGBA of an image with a palette."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    ramp.putpalette(image.getpalette("RGBA") or [], "RGBA")
    if "transparency" in image.info:
        ramp.info["transparency"] = image.info["transparency"]
    return np.asarray(ramp.convert("RGBA"), dtype=np.uint8).reshape(256, 4)


def _hidden_tail(stream: bytes, image: Image.Image) -> bool:
    """Whether coded data of a clean JPEG may hold more than its pixels."""
    ends, pixels = scan_ends(stream), np.asarray(image)
    if ends is None or len(ends) > _MOST_SCANS:
        return True

    def same(changed: bytes) -> bool:
        try:
            return np.array_equal(np.asarray(Image.open(io.BytesIO(changed), formats=["JPEG"])), pixels)
        except Exception:
            return False

    return unused_tail(stream, ends, same)


def _stripped(image: Image.Image, data: bytes, kind: str, orientation: int, dropped: set[str], profile: bytes) -> bytes:
    """The file without its metadata; empty for a JPEG whose tables may hold something else."""
    if kind == "jpeg":
        needed = needed_tables(strip_jpeg(data, orientation, dropped))
        return with_profile(needed, profile) if needed else b""
    if kind == "png":
        return strip_png(data, orientation, dropped, profile)
    out = io.BytesIO()  # BMP: few metadata, but room for anything between and behind the pixels
    image.save(out, "BMP")
    if len(out.getvalue()) < len(data):
        dropped.add("after_the_end")
    return out.getvalue()


def _views(image: Image.Image) -> list[NDArray[np.uint8]]:
    """RGB views in which text may be seen: as shown, and, with transparency, also what lies under it."""
    if image.mode.startswith(("I", "F")):
        return stretched_views(np.asarray(image))
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        return [np.asarray(flat.convert("RGB")), np.ascontiguousarray(np.asarray(rgba)[:, :, :3])]
    return [np.asarray(image.convert("RGB"))]


def stretched_views(values: NDArray[Any]) -> list[NDArray[np.uint8]]:
    """(H, W) numbers as RGB views: bytes as they are, others from least to greatest and from 1st to 99th percentile."""
    if values.dtype == np.uint8:
        return [np.repeat(values[:, :, None], 3, axis=2)]
    found = []
    wide = values.astype(np.float32)
    for low, high in ((wide.min(), wide.max()), np.percentile(wide, (1, 99))):
        gray = ((wide - low) / max(float(high) - float(low), 1e-6) * 255).clip(0, 255).astype(np.uint8)
        found.append(np.repeat(gray[:, :, None], 3, axis=2))
    return found


def _stored(pixels: NDArray[Any], like: Image.Image, icc: bytes | None) -> tuple[bytes, str]:
    """Pixels of one of Pillow's modes as a lossless file."""
    image = Image.fromarray(pixels)
    if like.mode == "P":
        used = np.unique(pixels)
        colours = np.zeros((int(used.max()) + 1, 4), np.uint8)  # an entry that no pixel uses may hold anything
        colours[used] = _palette(like)[used]
        image.putpalette(colours[:, :3].tobytes(), "RGB")
        if (colours[used, 3] < 255).any():
            image.info["transparency"] = colours[:, 3].tobytes()
    elif image.mode != like.mode:
        image = Image.frombytes(like.mode, like.size, pixels.tobytes())
    extra: dict[str, Any] = {"icc_profile": icc} if icc else {}
    out = io.BytesIO()
    if like.mode in _AS_PNG:
        transparent = image.info if like.mode == "P" else like.info
        if "transparency" in transparent:
            extra["transparency"] = transparent["transparency"]
        image.save(out, "PNG", **extra)
        return out.getvalue(), ".png"
    image.save(out, "TIFF", compression="tiff_adobe_deflate", **extra)
    return out.getvalue(), ".tif"


def clean_tiff(data: bytes, find: FindBoxes, *, max_megapixels: float) -> Cleaned:
    """Rewrite a TIFF with its pixels and what describes their layout; no other tag survives.

    Pages of reduced resolution and sub-images go. A box found on one page is masked on all pages of that size.

    Raises:
        UnreadableImage: it cannot be decoded, or is a whole slide.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            if is_slide_tiff(tiff, cautious=True):
                raise UnreadableImage(SLIDE)
            pages = [page for page in tiff.pages if not page.is_reduced]  # type: ignore[union-attr]
            for page in pages:
                if page.imagewidth * page.imagelength > max_megapixels * 1e6:  # type: ignore[union-attr]
                    raise UnreadableImage("a picture larger than scan.max_megapixels")
            arrays = [np.array(page.asarray()) for page in pages]
            described = [_layout(page, array) for page, array in zip(pages, arrays, strict=True)]
            dropped = {"tags"} if any(_speaks(page) for page in pages) else set()
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(f"a damaged TIFF ({type(error).__name__})") from None
    if not arrays:
        raise UnreadableImage("a TIFF without a picture")
    boxes: set[Box] = set()
    for shape in {a.shape[:2] for a in arrays}:
        same = [i for i, a in enumerate(arrays) if a.shape[:2] == shape]
        found = find([view for i in same for view in _tiff_views(arrays[i], described[i])], ())
        for i in same:
            fill(arrays[i], found)
            if "colormap" in described[i]:  # an entry that no pixel uses may hold anything
                unused = np.setdiff1d(np.arange(described[i]["colormap"].shape[1]), arrays[i])
                described[i]["colormap"][:, unused] = 0
        boxes.update(found)
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=sum(a.nbytes for a in arrays) > 2**31) as writer:
        for array, layout in zip(arrays, described, strict=True):
            writer.write(array, compression="zlib", metadata=None, software=False, **layout)
    with tifffile.TiffFile(io.BytesIO(out.getvalue())) as again:
        same_pixels = all(np.array_equal(p.asarray(), a) for p, a in zip(again.pages, arrays, strict=True))
    if not same_pixels:
        raise UnreadableImage("its metadata cannot be removed without a change of its pixels")
    views = [_tiff_views(array, layout)[0] for array, layout in zip(arrays, described, strict=True)]
    sheet = []
    for shape in dict.fromkeys(view.shape for view in views):
        same_size = [view for view in views if view.shape == shape]
        sheet += [np.maximum.reduce(same_size)] + ([np.minimum.reduce(same_size)] if len(same_size) > 1 else [])
    return Cleaned(out.getvalue(), ".tif", tuple(sorted(boxes)), tuple(sorted(dropped)), views[0], tuple(sheet))


SLIDE = (
    "a whole slide: its label and overview pictures often name the patient, and are not masked by this version; "
    "export the slide without them with the scanner's own software"
)


def _layout(page: Any, array: NDArray[Any]) -> dict[str, Any]:
    photometric = page.photometric.name.lower()
    if photometric == "ycbcr":  # tifffile has decoded it
        photometric = "rgb"
    layout: dict[str, Any] = {"photometric": photometric}
    if photometric == "palette":
        layout["colormap"] = np.array(page.colormap)
    if array.ndim == 3 and page.planarconfig is not None:
        layout["planarconfig"] = "contig"
        if page.planarconfig.name == "SEPARATE" and array.shape[0] == page.samplesperpixel:
            layout["planarconfig"] = "separate"
    if page.extrasamples:
        layout["extrasamples"] = [sample.name.lower() for sample in page.extrasamples]
    if page.iccprofile:
        layout["iccprofile"] = rebuilt_profile(page.iccprofile)
    if array.dtype == np.uint8 and page.bitspersample == 1:
        layout["bitspersample"] = 1
    orientation = page.tags.get(274)
    if orientation is not None and 1 < int(orientation.value) <= 8:
        layout["extratags"] = [(274, "H", 1, int(orientation.value), True)]
    return layout


def _speaks(page: Any) -> bool:
    """Whether a page has tags beyond those of its layout (TIFF 6.0 section 8, without the descriptive ones)."""
    layout = {254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 290, 291,
              296, 297, 317, 318, 319, 320, 322, 323, 324, 325, 338, 339, 347, 530, 531, 532, 34675}  # fmt: skip
    return any(tag.code not in layout for tag in page.tags)


def _tiff_views(array: NDArray[Any], layout: dict[str, Any]) -> list[NDArray[np.uint8]]:
    if layout.get("planarconfig") == "separate":
        array = np.moveaxis(array, 0, -1)
    if layout["photometric"] == "palette":
        array = np.asarray(layout["colormap"] >> 8, dtype=np.uint8)[:, array].transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] >= 3 and array.dtype == np.uint8:
        return [np.ascontiguousarray(array[:, :, :3])]
    if array.ndim == 3:
        return [view for channel in range(array.shape[2]) for view in stretched_views(array[:, :, channel])]
    return stretched_views(array)
