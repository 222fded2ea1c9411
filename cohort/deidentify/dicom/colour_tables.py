"""Lookup tables and colour profiles of a DICOM header: cut to their length, without entries that no pixel uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import ExplicitVRLittleEndian

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


def clear_unused_entries(dataset: Dataset, raw: NDArray[Any], photometric: str) -> None:
    """Empty all entries of lookup tables that no pixel uses: what is written there is not seen on any display.

    Unused colours become 0, unused entries of gray tables the value of the used entry before them. Segmented palettes
    are expanded. Palettes of an image that is not PALETTE COLOR go.

    Args:
        dataset: the cleaned header; changed in place.
        raw: stored values of all frames.
        photometric: of the stored values.
    """
    values = np.unique(raw)
    if photometric == "PALETTE COLOR":
        _clear_palette(dataset, values)
    else:
        for name in _PALETTES:
            for keyword in (f"{name}Descriptor", f"{name}Data", f"Segmented{name}Data"):
                if keyword in dataset:
                    del dataset[keyword]
    for item in dataset.get("ModalityLUTSequence") or ():
        values = _clear_gray(item, values)
    if not dataset.get("ModalityLUTSequence"):
        slope, intercept = (
            float(dataset.get(name, other)) for name, other in (("RescaleSlope", 1), ("RescaleIntercept", 0))
        )
        values = np.unique(np.floor(values * slope + intercept).astype(np.int64))
        values = np.unique(np.concatenate([values, values + 1]))  # however a display rounds
    for item in dataset.get("VOILUTSequence") or ():
        _clear_gray(item, values)


def _clear_palette(dataset: Dataset, values: NDArray[Any]) -> None:
    entries, first, _ = (int(v) for v in dataset[f"{_PALETTES[0]}Descriptor"].value)
    entries = entries or 2**16
    used = np.unique(np.clip(values.astype(np.int64) - first, 0, entries - 1))
    if any(keyword in dataset for keyword in _SEGMENTED):
        dataset.file_meta = FileMetaDataset()  # as it will be written
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        colours = apply_color_lut(np.arange(entries, dtype=np.int32) + first, dataset)
        for at, name in enumerate(_PALETTES):
            plain = np.ascontiguousarray(colours[:, at]).tobytes()
            setattr(dataset, f"{name}Data", plain + b"\0" * (len(plain) % 2))
            setattr(dataset, f"{name}Descriptor", [entries % 2**16, first, 8 * colours.dtype.itemsize])
            if f"Segmented{name}Data" in dataset:
                del dataset[f"Segmented{name}Data"]
    for name in _PALETTES:
        table = bytes(dataset[f"{name}Data"].value)
        words = np.frombuffer(table, "<u2" if len(table) >= 2 * entries else np.uint8)
        kept = np.zeros_like(words)
        kept[used] = words[used]
        dataset[f"{name}Data"].value = kept.tobytes()


def _clear_gray(item: Dataset, values: NDArray[Any]) -> NDArray[Any]:
    """One item of a modality or VOI table; what comes out of it for the values that go in."""
    if "LUTData" not in item or "LUTDescriptor" not in item:
        return values
    entries, first = int(item.LUTDescriptor[0]) or 2**16, int(item.LUTDescriptor[1])
    value = item["LUTData"].value
    table = np.frombuffer(value, "<u2") if isinstance(value, bytes) else np.array(value, dtype=np.int64).reshape(-1)
    entries = min(entries, len(table))
    used = np.unique(np.clip(values.astype(np.int64) - first, 0, entries - 1))
    place = np.maximum(np.searchsorted(used, np.arange(entries), side="right") - 1, 0)
    kept = table[used][place]
    item["LUTData"].value = kept.tobytes() if isinstance(value, bytes) else [int(v) for v in kept]
    return np.unique(kept.astype(np.int64))
