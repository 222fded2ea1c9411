"""The values of a TIFF page → 8-bit sRGB, by its photometric interpretation (TIFF 6.0, sections 3 to 6, 16, 20 to
23)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pellucid.cohort.readers.colour import eight_bits, over_black, stretched, to_srgb
from pellucid.cohort.readers.picture import together

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INK, _YCBCR, _LAB, _ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
PHOTOMETRICS = {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _INK, _YCBCR, _LAB, _ICC_LAB}
_CHANNELS = {_RGB: 3, _YCBCR: 3, _LAB: 3, _ICC_LAB: 3, _INK: 4}
_JPEG = {6, 7}


def show_page(page: tifffile.TiffPage, values: NDArray[Any], bits: int) -> tuple[NDArray[np.uint8], str]:
    """A page as (H, W, 3) uint8 sRGB and what was done.

    Args:
        page: whose tags say what the values mean.
        values: as tifffile decodes them, of any type.
        bits: in use, of unsigned integers.
    """
    if page.axes == "SYX" and values.ndim == 3:  # planar configuration 2
        values = np.moveaxis(values, 0, -1)
    profile = page.tags.valueof(34675)
    profile = bytes(profile) if isinstance(profile, (bytes, tuple)) else None
    photometric = int(page.photometric)
    # JPEG in TIFF comes out of the decoder as RGB, unless it says RGB itself.
    if photometric == _YCBCR and page.compression in _JPEG:
        photometric = _RGB
    if photometric == _PALETTE:
        pixels, how = to_srgb(_colour_map(page)[values], profile)
        return pixels, together("palette", how)
    values, alpha = _split(values, page, _CHANNELS.get(photometric, 1))
    shown, how = _to_bytes(values, bits)
    if bits < int(page.bitspersample) and not how:
        how = f"{bits} of {page.bitspersample} bits in use"
    if photometric == _WHITE_IS_ZERO:
        shown, how = 255 - shown, together(how, "inverted")
    elif photometric == _YCBCR:
        shown = _from_ycbcr(shown)
    elif photometric in {_LAB, _ICC_LAB}:
        shown, profile = _from_lab(shown, signed=photometric == _LAB), None
    pixels, colour = to_srgb(shown, profile)
    if alpha is not None:
        pixels = over_black(pixels, _to_bytes(alpha, int(page.bitspersample))[0])
    return pixels, together(how, colour)


def _split(values: NDArray[Any], page: tifffile.TiffPage, wanted: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The colour channels, and the unassociated opacity (an associated one is already multiplied in: over black)."""
    if values.ndim == 2:
        return values, None
    colour = values[:, :, :wanted] if wanted > 1 else values[:, :, 0]
    extra = [int(e) for e in page.extrasamples]
    if values.shape[2] > wanted and extra[:1] == [2]:
        return colour, values[:, :, wanted]
    return colour, None


def _to_bytes(values: NDArray[Any], bits: int) -> tuple[NDArray[np.uint8], str]:
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255), ""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return eight_bits(values, bits), ""
    if values.dtype.kind == "f" and values.size and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
        return np.rint(np.nan_to_num(values.astype(np.float32)) * 255).astype(np.uint8), "from 0…1"
    shown, (low, high) = stretched(values)
    return shown, f"stretched from {low:g} to {high:g}"


def _colour_map(page: tifffile.TiffPage) -> NDArray[np.uint8]:
    """(n, 3) uint8. The standard asks for 16 bits per entry; some writers fill only the low byte."""
    table = np.asarray(page.colormap)
    return eight_bits(table.T, 16 if table.max() > 255 else 8)


def _from_ycbcr(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range ITU-R BT.601, the default of TIFF 6.0 section 21."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(values[:, :, [0, 2, 1]]), cv2.COLOR_YCrCb2RGB), dtype=np.uint8)


def _from_lab(values: NDArray[np.uint8], *, signed: bool) -> NDArray[np.uint8]:
    """8-bit CIELAB under D50, L* 0–100 in 0–255; a* and b* as signed bytes (section 23), or offset by 128 (the
    ICC's)."""
    stored = np.ascontiguousarray(values if signed else values ^ np.array([0, 128, 128], np.uint8))
    image = Image.frombuffer("LAB", (values.shape[1], values.shape[0]), stored, "raw", "LAB", 0, 1)
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return np.asarray(ImageCms.applyTransform(image, transform), dtype=np.uint8)
