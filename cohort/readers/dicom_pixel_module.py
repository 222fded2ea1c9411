"""The Image Pixel Module (PS3.3 C.7.6.3): missing attributes, and the bits of a sample that hold its value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.readers.compressed_stream import stream_precision
from pellucid.cohort.readers.picture import UnreadableImage

_THREE_SAMPLES = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "HSV"}


def complete_pixel_module(dataset: Any, stream: bytes | None) -> bool:
    """Add the missing attributes that follow from the others; nothing is guessed that would change the image.

    Args:
        dataset: with pixels, changed in place.
        stream: the first frame as it is compressed; None for native pixels.

    Returns:
        Whether it is unknown if the values have a sign: PixelRepresentation is missing.

    Raises:
        UnreadableImage: an attribute is missing and does not follow from the others; it is named.
    """
    for name in ("Rows", "Columns"):
        if not _integer(dataset, name):
            raise _missing(name)
    if any(name in dataset for name in ("FloatPixelData", "DoubleFloatPixelData")):
        dataset.SamplesPerPixel = _integer(dataset, "SamplesPerPixel") or 1
        dataset.PhotometricInterpretation = dataset.get("PhotometricInterpretation") or "MONOCHROME2"
        dataset.BitsAllocated = 32 if "FloatPixelData" in dataset else 64
        return False
    _complete_colour(dataset, stream)
    _complete_bits(dataset, stream)
    sign_unknown = _integer(dataset, "PixelRepresentation") is None
    if sign_unknown:
        dataset.PixelRepresentation = 0
    return sign_unknown


def _complete_colour(dataset: Any, stream: bytes | None) -> None:
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    samples = _integer(dataset, "SamplesPerPixel")
    if not photometric and samples == 3:
        photometric = dataset.PhotometricInterpretation = "RGB" if stream is None else "YBR_FULL"
        if stream is not None and stream[:2] != b"\xff\xd8":
            raise _missing("PhotometricInterpretation")
    if not photometric and "RedPaletteColorLookupTableDescriptor" in dataset:
        photometric = dataset.PhotometricInterpretation = "PALETTE COLOR"
    if not photometric:  # MONOCHROME1 and MONOCHROME2 are each other's negative
        raise _missing("PhotometricInterpretation")
    if not samples:
        samples = dataset.SamplesPerPixel = 3 if photometric in _THREE_SAMPLES else 1
    if samples > 1 and _integer(dataset, "PlanarConfiguration") is None:
        if stream is None:
            raise _missing("PlanarConfiguration")
        dataset.PlanarConfiguration = 0  # a stream has its own order of samples


def _complete_bits(dataset: Any, stream: bytes | None) -> None:
    precision = None if stream is None else stream_precision(stream)
    allocated, stored, high = (_integer(dataset, name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if not allocated:
        if precision is None:
            raise _missing("BitsAllocated")
        allocated = dataset.BitsAllocated = 8 if precision <= 8 else 16
    if allocated not in {1, 8, 16, 32, 64}:
        raise UnreadableImage(f"a DICOM file with BitsAllocated {allocated}: only 1, 8, 16 and 32 are read")
    if not stored:
        stored = high + 1 if high else precision or (allocated if allocated <= 8 else None)
        if stored is None:
            raise _missing("BitsStored")
        dataset.BitsStored = stored
    if high is None:
        high = dataset.HighBit = stored - 1
    if stored > allocated:
        raise UnreadableImage(
            f"a DICOM file whose header contradicts itself: BitsStored {stored}, BitsAllocated {allocated}"
        )
    if not stored - 1 <= high < allocated:
        raise UnreadableImage(
            f"a DICOM file whose header contradicts itself: HighBit {high}, BitsStored {stored}, "
            f"BitsAllocated {allocated}"
        )


def stored_values(
    values: NDArray[Any], dataset: Any, precision: int | None, sign_unknown: bool = False
) -> tuple[NDArray[Any], str]:
    """The value of each sample without the bits that do not belong to it (overlays and letters, for example).

    Args:
        values: integers as decoded; the value may lie anywhere in them, between other bits.
        dataset: with BitsStored, HighBit and PixelRepresentation.
        precision: bits of the compressed stream's samples; None for native pixels.
        sign_unknown: PixelRepresentation is missing.

    Returns:
        The values, with their sign extended to the whole type, and a note for `Picture.how` if bits were removed.

    Raises:
        UnreadableImage: the header contradicts the pixels.
    """
    if values.dtype.kind not in "iu":
        return values, ""
    stored, high, width = int(dataset.BitsStored), int(dataset.HighBit), 8 * values.dtype.itemsize
    if precision is not None and precision <= stored:  # the encoder removed them
        high = stored - 1
    if high < width and stored < width:
        values, note = _moved(values, stored, high, width)
    else:
        note = ""
    # Signed and unsigned values are the same as long as the highest bit is not in use.
    if sign_unknown and stored > 8 and values.ndim == 2 and values.size and int(values.max()) >> (stored - 1):
        raise _missing("PixelRepresentation")
    return values, note


def low_bits(values: NDArray[Any], stored: int) -> NDArray[Any]:
    """Integers with nothing above their lowest `stored` bits; the sign of signed ones extends to the whole type."""
    unused = 8 * values.dtype.itemsize - stored
    return values if unused <= 0 else np.right_shift(np.left_shift(values, unused), unused)


def _moved(values: NDArray[Any], stored: int, high: int, width: int) -> tuple[NDArray[Any], str]:
    shift = high - (stored - 1)
    value = np.right_shift(np.left_shift(values, width - 1 - high), width - stored)
    if shift == 0:
        return value, "" if np.array_equal(value, values) else f"bits above BitsStored {stored} removed"
    low = low_bits(values, stored)
    if np.array_equal(low, values) and np.bitwise_and(values, (1 << shift) - 1).any():
        raise UnreadableImage(
            f"a DICOM file whose header contradicts its pixels: HighBit {high} with BitsStored {stored}, but the "
            f"values are in the {stored} lowest bits"
        )
    return value, f"moved by {shift} bits (HighBit {high})"


def _integer(dataset: Any, name: str) -> int | None:
    value = dataset.get(name)
    try:
        return None if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        raise UnreadableImage(f"a DICOM file whose attribute {name} is not a single number") from None


def _missing(name: str) -> UnreadableImage:
    return UnreadableImage(f"a DICOM file without the attribute {name}, which its image cannot be read without")
