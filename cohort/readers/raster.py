"""JPEG, PNG, WebP and BMP: scaled DCT decoding where it serves, Pillow for everything else."""

from __future__ import annotations

import io
import threading
import warnings
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image

from cohort.readers.picture import Picture, UnreadableImage, flat_rgb, refuse_bomb

_PILLOW_LIMIT = threading.Lock()  # it is a global of Pillow's
_ORIENTATION = ExifTags.Base.Orientation
_HEADER = {"manufacturer": ExifTags.Base.Make, "model": ExifTags.Base.Model, "software": ExifTags.Base.Software}
_IDENTITY = (ExifTags.Base.Artist, ExifTags.Base.Copyright, ExifTags.Base.ImageDescription, 0xA430, 0xA431)


def read_raster(data: bytes, kind: str, *, min_side_px: int, max_megapixels: float) -> Picture:
    """See `cohort.readers.read_image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that breaks a standard; the picture is what counts
        try:
            image = _open(data, kind)
        except Exception:
            raise UnreadableImage(f"a damaged {kind.upper()}: the header cannot be read") from None
        refuse_bomb(*image.size, max_megapixels)
        exif = _exif(image)
        orientation = int(exif.get(_ORIENTATION, 1) or 1)
        bits = 16 if image.mode.startswith("I") else 1 if image.mode == "1" else 8
        try:
            pixels = _decode(image, data, kind, min_side_px)
        except UnreadableImage:
            raise
        except Exception as error:
            cut = "truncated" in str(error).lower()
            reason = "the file is cut short" if cut else f"the pixels cannot be decoded ({type(error).__name__})"
            raise UnreadableImage(f"a damaged {kind.upper()}: {reason}") from None
    pixels = _upright(pixels, orientation)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    header = {name: str(exif[tag]).strip("\0 ") for name, tag in _HEADER.items() if tag in exif}
    return Picture(pixels, width, height, kind, bits, header, _findings(image, exif))


def _open(data: bytes, kind: str) -> Image.Image:
    """Read the header without Pillow's own size limit: the user's follows, before anything is decoded."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=[kind.upper()])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode(image: Image.Image, data: bytes, kind: str, min_side_px: int) -> NDArray[np.uint8]:
    if kind == "jpeg" and image.mode in {"RGB", "L"}:
        try:
            space = "GRAY" if image.mode == "L" else "RGB"
            side = min(min_side_px, *image.size)
            return flat_rgb(simplejpeg.decode_jpeg(data, space, min_height=side, min_width=side))
        except ValueError:
            pass  # strict about oddities that Pillow reads; if it is truly damaged, Pillow says how
    if image.mode.startswith("I"):
        return flat_rgb(_sixteen_bits(np.asarray(image)))
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return flat_rgb(np.asarray(image.convert("RGB")))


def _sixteen_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale by the bits really used: 12-bit data in a 16-bit file would come out nearly black otherwise."""
    bits = max(8, int(values.max()).bit_length())
    return (values.astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)


def _exif(image: Image.Image) -> dict[int, Any]:
    try:
        exif = image.getexif()
        merged = dict(exif)
        merged.update(exif.get_ifd(ExifTags.IFD.Exif))
        if exif.get_ifd(ExifTags.IFD.GPSInfo):
            merged[ExifTags.IFD.GPSInfo] = True
        return merged
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return {}


def _findings(image: Image.Image, exif: dict[int, Any]) -> tuple[str, ...]:
    found = []
    if ExifTags.IFD.GPSInfo in exif:
        found.append("exif_gps")
    if any(str(exif.get(tag, "")).strip("\0 ") for tag in _IDENTITY):
        found.append("exif_identity")
    if image.info.get("comment") or any(
        isinstance(v, str) and str(k).lower() != "software" for k, v in image.info.items()
    ):
        found.append("comment")
    return tuple(found)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """EXIF orientation 1–8 undone."""
    if orientation in {2, 4, 5, 7}:
        pixels = pixels[:, ::-1] if orientation in {2, 5} else pixels[::-1]
        if orientation == 7:
            return np.ascontiguousarray(np.rot90(pixels, 1))
    turns = {3: 2, 5: 1, 6: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, turns))
