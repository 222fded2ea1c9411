"""Lookup tables and colour profiles of a DICOM header, cut to the length that their descriptors state."""

from __future__ import annotations

from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from pellucid.cohort.deidentify.streams.icc_profiles import rebuilt_profile

_PALETTES = tuple(f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue"))
_DESCRIPTORS = {f"{name}Data": f"{name}Descriptor" for name in _PALETTES} | {"LUTData": "LUTDescriptor"}
_SEGMENTED = frozenset(f"Segmented{name}Data" for name in _PALETTES)

TABLES = frozenset({*_DESCRIPTORS, *_SEGMENTED, "ICCProfile"})


def table_value(element: DataElement, source: Dataset) -> Any:
    """The value of a table without what follows its last entry; empty for bytes that are no table.

    Args:
        element: of `TABLES`, or another with bytes as its value.
        source: the dataset or item that holds its descriptor.

    Raises:
        UnreadableImage: a colour profile that cannot be rebuilt.
    """
    value = element.value
    if element.keyword == "ICCProfile":
        return rebuilt_profile(bytes(value or b""))
    if element.keyword in _SEGMENTED:
        return value
    descriptor = source.get(_DESCRIPTORS.get(element.keyword, ""))
    if not descriptor:
        return b"" if isinstance(value, bytes) else None
    entries = int(descriptor[0]) or 2**16
    if not isinstance(value, bytes):
        return list(value)[:entries] if hasattr(value, "__len__") else value
    length = 2 * entries if len(value) >= 2 * entries else entries
    cut = value[:length]
    return cut + b"\0" * (len(cut) % 2)
