"""JPEG, PNG, WebP, BMP, GIF, AVIF and HEIC: scaled DCT decoding where it serves, Pillow for everything else."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pellucid.cohort.readers.colour import bits_in_use, eight_bits, over_black, to_srgb
from pellucid.cohort.readers.compressed_stream import jpeg_quality, unusual_jpeg
from pellucid.cohort.readers.exif import clean, exif_findings, exif_header, exif_of, orientation_of
from pellucid.cohort.readers.picture import (
    Picture,
    ReadOptions,
    Source,
    UnreadableImage,
    chosen_frames,
    refuse_bomb,
    together,
    upright,
)
from pellucid.cohort.readers.png_chunks import CleanPng, clean_png
from pellucid.cohort.readers.sniff import HEIC_NEEDS

_PILLOW_LIMIT = threading.Lock()  # it is a global of Pillow's
_NOT_A_COMMENT = {"software", "version"}  # text that programs write about themselves


def read_raster(source: Source, kind: str) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """The picture of a file, or the frames of an animated GIF; see `pellucid.cohort.readers.read_pictures`."""
    if kind == "heic":
        _register_heic()
    png = clean_png(source.data) if kind == "png" else None
    if png is not None:
        source = replace(source, data=png.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that breaks a standard; the picture is what counts
        try:
            image = _open(source.data, kind)
        except MemoryError:
            raise
        except Exception:
            raise UnreadableImage(_header_reason(source.data, kind)) from None
        refuse_bomb(*image.size, source.options.max_megapixels)
        n_frames = _n_frames(image) if kind in {"gif", "png", "webp", "avif"} else 1
    if kind != "gif" or n_frames == 1:
        picture = _picture(image, source, kind, f"first of {n_frames} frames" if n_frames > 1 else "", png)
        yield "", picture
        return
    for number in chosen_frames(n_frames, source.options.frames):
        try:
            image.seek(number)
            yield str(number), _picture(image, source, kind, f"frame {number + 1} of {n_frames}")
        except UnreadableImage as reason:
            yield str(number), reason
        except MemoryError:
            raise
        except Exception as error:  # a later frame may lie about anything, its size too
            yield str(number), _damaged(kind, error)


def _picture(image: Image.Image, source: Source, kind: str, how: str, png: CleanPng | None = None) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = exif_of(image)
        # libheif and libavif turn the image themselves.
        orientation = 1 if kind == "heic" else orientation_of(exif)
        profile = (png.profile if png else None) or image.info.get("icc_profile") or None
        try:
            pixels, scale, colour = _decode(image, source.data, kind, source.options, profile)
        except (UnreadableImage, MemoryError):
            raise
        except Exception as error:
            raise _damaged(kind, error) from None
    width, height = image.size[::-1] if 5 <= orientation <= 8 else image.size
    found = _findings(image, exif)
    damaged = ""
    if png is not None:
        damaged = f"damaged {', '.join(png.damaged)} ignored" if png.damaged else ""
        if png.texts and "exif_comment" not in found:
            found += ("exif_comment",)
    return Picture(
        upright(pixels, orientation),
        width,
        height,
        kind,
        _bits(image, source.data, kind),
        exif_header(exif),
        found,
        jpeg_quality(source.data) if kind == "jpeg" else None,
        together(how, damaged, scale, colour),
    )


def _damaged(kind: str, error: Exception) -> UnreadableImage:
    cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
    reason = "the file is cut short" if cut else f"the pixels cannot be decoded ({type(error).__name__})"
    return UnreadableImage(f"a damaged {kind.upper()}: {reason}")


def _open(data: bytes, kind: str) -> Image.Image:
    """Read the header without Pillow's own size limit: the user's follows, before anything is decoded."""
    with _PILLOW_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=["HEIF" if kind == "heic" else kind.upper()])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _header_reason(data: bytes, kind: str) -> str:
    """Why Pillow does not open a file: it is damaged, or of a sort that its decoder does not have."""
    if kind == "jpeg" and (sort := unusual_jpeg(data)):
        return f"{sort}, which is not read"
    return f"a damaged {kind.upper()}: the header cannot be read"


def _register_heic() -> None:
    try:
        import_module("pillow_heif").register_heif_opener()  # by name: it is no dependency, and need not be there
    except ImportError:
        raise UnreadableImage(HEIC_NEEDS) from None


def _n_frames(image: Image.Image) -> int:
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # cut short somewhere: the first frame may still be whole
        return 1


def _decode(
    image: Image.Image, data: bytes, kind: str, options: ReadOptions, profile: bytes | None
) -> tuple[NDArray[np.uint8], str, str]:
    """(H, W, 3) sRGB, the DCT scale if any, and what was done to the colours."""
    if kind == "jpeg" and image.mode in {"RGB", "L"}:
        try:
            space = "GRAY" if image.mode == "L" else "RGB"
            side = min(options.min_side_px, *image.size)
            raw = simplejpeg.decode_jpeg(data, space, min_height=side, min_width=side)
        except ValueError:
            pass  # strict about oddities that Pillow reads; if it is truly damaged, Pillow says how
        else:
            ratio = round(image.width / raw.shape[1])
            pixels, colour = to_srgb(raw[:, :, 0] if space == "GRAY" else raw, profile)
            return pixels, f"DCT scale 1/{ratio}" if ratio > 1 else "", colour
    if kind == "png" and _bits(image, data, kind) == 16:
        pixels, colour = _deep_png(data, profile)
        return pixels, "", colour
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        pixels, colour = to_srgb(rgba[:, :, :3], profile)
        if not rgba[:, :, 3].any():
            if kind == "bmp":  # programs leave the fourth byte empty, whatever the masks of the header name it
                return pixels, "", together(colour, "empty alpha ignored")
            colour = together(colour, "wholly transparent")
        return over_black(pixels, rgba[:, :, 3]), "", colour
    if image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels, colour = to_srgb(np.asarray(image), profile)
    return pixels, "", colour


def _deep_png(data: bytes, profile: bytes | None) -> tuple[NDArray[np.uint8], str]:
    """16 bits per channel, of which Pillow would keep 8 and not say how many are in use."""
    import imagecodecs

    values = np.asarray(imagecodecs.png_decode(data))
    alpha = values[:, :, -1] if values.ndim == 3 and values.shape[2] in {2, 4} else None
    if alpha is not None:
        values = values[:, :, :-1]
    bits = bits_in_use(values.max())
    shown = eight_bits(values, bits)
    pixels, colour = to_srgb(shown[:, :, 0] if shown.ndim == 3 and shown.shape[2] == 1 else shown, profile)
    how = together(f"{bits} of 16 bits in use" if bits < 16 else "", colour)
    return (pixels if alpha is None else over_black(pixels, eight_bits(alpha, 16))), how


def _bits(image: Image.Image, data: bytes, kind: str) -> int:
    if kind == "png" and len(data) > 24:
        return int(data[24])  # IHDR: bits per channel, or per index of a palette
    return 1 if image.mode == "1" else 8


def _findings(image: Image.Image, exif: dict[int, Any]) -> tuple[str, ...]:
    """Those of EXIF, and exif_comment for a JPEG or GIF comment, PNG text, or an XMP packet."""
    found = exif_findings(exif)
    texts = [v for k, v in image.info.items() if isinstance(v, str) and str(k).lower() not in _NOT_A_COMMENT]
    blocks = [image.info.get("comment"), image.info.get("xmp"), *texts]
    if "exif_comment" not in found and any(clean(block) for block in blocks):
        found += ("exif_comment",)
    return found
