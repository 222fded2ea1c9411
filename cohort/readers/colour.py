"""Stored channel values → 8-bit sRGB: bit depth, ICC profiles, CMYK, transparency."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pellucid.cohort.readers.picture import flat_rgb

_SAME = 2  # a profile that moves no colour further than this many of 255 levels is sRGB, whatever it calls itself


def bits_in_use(highest: int) -> int:
    """The bits that hold a value: 12-bit data in a 16-bit file would come out nearly black otherwise."""
    return max(8, int(highest).bit_length())


def eight_bits(values: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Unsigned integers of `bits` bits as uint8: the high byte of more than 8, stretched to 0–255 from less."""
    if bits > 8:
        values = np.right_shift(np.asarray(values, dtype=np.int64), bits - 8)
    elif bits < 8:
        values = np.asarray(values, dtype=np.int64) * 255 // (2**bits - 1)
    return np.asarray(values).clip(0, 255).astype(np.uint8)


def stretched(
    values: NDArray[np.generic], use: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """From the 0.5th to the 99.5th percentile of the finite values to 0–255, for values without a display range.

    Args:
        values: of any shape and numeric type.
        use: which of them count for the percentiles; None: all.

    Returns:
        uint8 of the same shape (what is not finite is black), and the two percentiles.
    """
    real = np.asarray(values, dtype=np.float64 if values.dtype.itemsize > 2 else np.float32)
    finite = np.isfinite(real)
    counted = real[finite if use is None else finite & use]
    if not counted.size:
        return np.zeros(values.shape, np.uint8), (0.0, 0.0)
    low, high = (float(v) for v in np.percentile(counted, (0.5, 99.5)))
    if high <= low:  # all but a few values are one value: what differs from it is what there is to see
        low, high = float(counted.min()), float(counted.max())
    scaled = (np.where(finite, real, low) - low) / (high - low if high > low else 1.0) * 255
    return np.asarray(scaled.clip(0, 255).round(), dtype=np.uint8), (low, high)


def to_srgb(pixels: NDArray[np.uint8], profile: bytes | None) -> tuple[NDArray[np.uint8], str]:
    """Device values to sRGB through the ICC profile that came with them, by perceptual intent.

    Args:
        pixels: (H, W) gray, (H, W, 3) RGB or (H, W, 4) CMYK (255 is full ink), uint8.
        profile: the ICC profile; None, or one that is broken or of another kind of colour, changes nothing (CMYK is
            then converted by the plain formula R = 255 - min(255, C + K)).

    Returns:
        (H, W, 3) uint8, and what was done, for `Picture.how`.
    """
    mode = {2: "L", 3: "RGB", 4: "CMYK"}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
    how = ""
    if profile:
        try:
            transform, input_mode = _transform(profile, mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, SyntaxError):
            how = "broken ICC profile ignored"
        else:
            if transform is not None:
                source = flat_rgb(pixels) if input_mode == "RGB" else pixels
                return _through(transform, source, input_mode), "ICC profile to sRGB"
    if mode == "CMYK":
        pixels = np.asarray(_image(pixels, mode).convert("RGB"))
    return flat_rgb(pixels), how


def over_black(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) with (H, W) opacity laid over black: what is transparent is black, not the colour hidden below."""
    if (alpha == 255).all():
        return pixels
    return np.asarray((pixels.astype(np.uint16) * alpha[:, :, None] + 127) // 255, dtype=np.uint8)


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The transform to sRGB and the mode it takes; None where it would change nothing, or fits no such picture."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    needs = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}.get(space)
    if needs is None or (needs != mode and (needs, mode) != ("RGB", "L")):
        return None, mode
    built = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), needs, "RGB")
    if needs == "CMYK":
        return built, needs
    levels = np.arange(256, dtype=np.uint8)
    if mode == "L":
        probe = levels[None] if needs == "L" else flat_rgb(levels[None])
    else:
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(9, 81, 3)
    moved = np.abs(_through(built, probe, needs).astype(int) - flat_rgb(probe)).max()
    return (built if moved > _SAME else None), needs


def _through(transform: ImageCms.ImageCmsTransform, pixels: NDArray[np.uint8], mode: str) -> NDArray[np.uint8]:
    shown = ImageCms.applyTransform(_image(pixels, mode), transform)
    if shown is None:
        raise ValueError("no picture came back")
    return np.asarray(shown)


def _image(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    height, width = pixels.shape[:2]
    return Image.frombuffer(mode, (width, height), np.ascontiguousarray(pixels), "raw", mode, 0, 1)
