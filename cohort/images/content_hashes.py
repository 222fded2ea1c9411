"""Two names for the same pixels: one that any change breaks, and one that survives re-encoding and resizing."""

from __future__ import annotations

import hashlib
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.images.pixels import halved

_BANDS = 32
_PHASH_SIDE_PX = 32


def pixel_hash(pixels: NDArray[np.uint8], width: int, height: int) -> str:
    """32 hex digits (128 bits) that are the same for the same decoded pixels, whatever file held them.

    BLAKE2b over the sizes and the CRC-32 of each of 32 equal bands of the pixels: a quarter of the time of BLAKE2b over
    the pixels themselves (benchmarks/quality_detection.py), which takes as long as decoding them. A CRC-32 always sees
    a change of up to 32 neighbouring bits, and misses any other with probability 2⁻³² for *each* band that differs.
    That is safe against chance, not against somebody who sets out to forge a collision; `sha256` of the file is there
    for that.

    Args:
        pixels: (H, W, 3) uint8 RGB as they were decoded, perhaps at a smaller DCT scale.
        width, height: of the original: so that a scaled decoding never equals a small picture.
    """
    data = np.ascontiguousarray(pixels).data.cast("B")
    sizes = np.array([width, height, *pixels.shape], dtype="<u8").tobytes()
    band = max(1, -(-len(data) // _BANDS))
    checks = [zlib.crc32(data[start : start + band]) for start in range(0, len(data), band)]
    return hashlib.blake2b(sizes + np.array(checks, dtype="<u4").tobytes(), digest_size=16).hexdigest()


def perceptual_hash(pixels: NDArray[np.uint8]) -> str:
    """16 hex digits (64 bits) that differ in few bits between pictures that look alike.

    The DCT hash of Zauner (Implementation and benchmarking of perceptual image hash functions, 2010, §3.2.1): grey,
    32 × 32 by area averaging, DCT, the 8 × 8 lowest frequencies without the constant row and column, each above their
    median or not, row by row. A flat picture gives zeros.

    Args:
        pixels: (H, W, 3) uint8 RGB; the prepared copy will do.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if min(grey.shape) >= 4 * _PHASH_SIDE_PX:  # halving first is the same to rounding, and a third of the time
        grey = halved(np.asarray(grey, dtype=np.uint8))
    tiny = cv2.resize(grey, (_PHASH_SIDE_PX, _PHASH_SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = np.asarray(cv2.dct(tiny - tiny.mean()))[1:9, 1:9]
    low = np.where(np.abs(low) < 0.01, 0, low)  # what symmetry makes zero must not be decided by the last digit
    middle = np.sort(low, axis=None)[31:33].mean()  # the median
    return np.packbits((low > middle).ravel()).tobytes().hex()


def hamming(one: str, other: str) -> int:
    """In how many bits two hashes of the same kind differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()
