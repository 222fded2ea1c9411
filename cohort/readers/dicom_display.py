"""Stored DICOM values → what a display would show: modality, VOI and palette tables of DICOM PS3.3 C.7.6.3 and C.11."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut

from pellucid.cohort.readers.colour import eight_bits, stretched, to_srgb
from pellucid.cohort.readers.dicom_header import decimal
from pellucid.cohort.readers.picture import UnreadableImage, together

_GRAY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}  # all decoded to RGB


class Display:
    """The display of one file's frames."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.bits = int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 8)
        self.photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
        if self.photometric not in _GRAY | _COLOUR | {"PALETTE COLOR"}:
            raise UnreadableImage(f"a DICOM file with colours of the kind {self.photometric}, which is not read")
        self.palette = palette(dataset) if self.photometric == "PALETTE COLOR" else None
        self.icc = _icc_profile(dataset)

    def show(self, values: NDArray[Any], number: int) -> tuple[NDArray[np.uint8], str]:
        """A frame as (H, W, 3) uint8 sRGB and what was done.

        Args:
            values: (H, W) stored values, or (H, W, 3) RGB.
            number: of the frame, from 0, for the functional groups.
        """
        if self.palette is not None:
            first, table = self.palette
            index = np.clip(values.astype(np.int64) - first, 0, len(table) - 1)
            pixels, colour = to_srgb(table[index], self.icc)
            return pixels, together("palette", colour)
        if values.ndim == 3:
            return to_srgb(eight_bits(values, self.bits), self.icc)
        shown, how = self._gray(values, number)
        return to_srgb(shown, None)[0], how

    def _gray(self, values: NDArray[Any], number: int) -> tuple[NDArray[np.uint8], str]:
        modality = _with_any(self.dataset, number, "PixelValueTransformationSequence", "RescaleSlope")
        voi = _with_any(self.dataset, number, "FrameVOILUTSequence", "WindowCenter")
        padding = self._padding(values)
        rescale = modality_function(modality, self.dataset)
        window, how = voi_function(voi, self.dataset)
        if window is not None:
            shown = _by_value(values, lambda v: np.rint(window(rescale(v)) * 255).clip(0, 255).astype(np.uint8))
        elif self.bits <= 8 and values.dtype.kind in "ub" and rescale is _unchanged:
            shown = eight_bits(values, self.bits)
        else:
            shown, (low, high) = stretched(rescale(values), None if padding is None else ~padding)
            how = together(how, f"stretched from {low:g} to {high:g}")
        # MONOCHROME1 and INVERSE say the same in the DX family (PS3.3 C.8.11.3.1.2), so they do not cancel.
        if self.photometric == "MONOCHROME1" or self.dataset.get("PresentationLUTShape") == "INVERSE":
            shown = 255 - shown
            how = together(how, "inverted")
        if padding is not None:
            shown = np.where(padding, np.uint8(0), shown)
        return shown, how

    def _padding(self, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Where stored values are padding, not measurement (PS3.3 C.7.5.1.1.2)."""
        value = self.dataset.get("PixelPaddingValue")
        if not isinstance(value, int) or values.dtype.kind not in "iu":
            return None
        limit = self.dataset.get("PixelPaddingRangeLimit")
        ends = [_as_stored(v, values) for v in (value, limit if isinstance(limit, int) else value)]
        padded = np.asarray((values >= min(ends)) & (values <= max(ends)))
        return padded if padded.any() and not padded.all() else None


Function = Callable[[NDArray[Any]], NDArray[Any]]


def _unchanged(values: NDArray[Any]) -> NDArray[Any]:
    return values


def modality_function(source: Any, dataset: Any) -> Function:
    """Stored values → modality values (PS3.3 C.11.1): the table if there is one, else slope and intercept."""
    if source.get("ModalityLUTSequence"):
        first, table, _ = lookup_table(source.ModalityLUTSequence[0], dataset)
        return lambda values: table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)]
    slope, intercept = decimal(source, "RescaleSlope"), decimal(source, "RescaleIntercept") or 0.0
    if slope in {None, 0.0, 1.0} and intercept == 0:  # a slope of 0 is a field left empty: it would erase the picture
        return _unchanged
    return lambda values: values.astype(np.float64) * (slope or 1.0) + intercept


def voi_function(source: Any, dataset: Any) -> tuple[Function | None, str]:
    """Modality values → 0…1 for the display (PS3.3 C.11.2): the first VOI table, else the first window, else None."""
    if source.get("VOILUTSequence"):
        first, table, bits = lookup_table(source.VOILUTSequence[0], dataset)
        top = max(float(2**bits - 1), float(table.max()))
        return lambda v: table[np.clip(np.rint(v).astype(np.int64) - first, 0, len(table) - 1)] / top, "VOI LUT"
    try:
        centre, width = decimal(source, "WindowCenter"), decimal(source, "WindowWidth")
    except UnreadableImage:  # the image can be shown without it
        return None, "window ignored: not a number"
    if centre is None or width is None or width <= 0:
        return None, ""
    kind = str(source.get("VOILUTFunction") or "LINEAR").strip().upper()
    how = f"window {centre:g}/{width:g}" + (f" {kind}" if kind != "LINEAR" else "")
    if kind == "SIGMOID":  # C.11.2.1.3.1
        return lambda v: 1 / (1 + np.exp(np.clip(-4 * (v - centre) / width, -700, 700))), how
    if kind == "LINEAR_EXACT" or width < 1:  # C.11.2.1.3.2; LINEAR is not defined for widths below 1
        return lambda v: ((v - centre) / width + 0.5).clip(0, 1), how
    # C.11.2.1.2.1; a width of 1 is a threshold
    return lambda v: ((v - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5).clip(0, 1), how


def lookup_table(item: Any, dataset: Any) -> tuple[int, NDArray[np.int64], int]:
    """A modality or VOI table: the value that its first entry stands for, its entries, and their bits.

    pydicom's own functions index in the type of the entries, so that a table of 8-bit entries wraps around at 256.
    """
    n_entries, first, bits = (int(v) for v in item.LUTDescriptor)
    n_entries = n_entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        entries = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if _little(dataset) else ">u2").astype(np.int64)
        if len(data) <= n_entries + 1:  # one byte each
            entries = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64))
    entries = entries[:n_entries]
    if not entries.size:
        raise ValueError("an empty table")
    return first, entries & 0xFFFF, bits


def palette(dataset: Any) -> tuple[int, NDArray[np.uint8]]:
    """The colour table (PS3.3 C.7.6.3.1.5, C.7.9.2): the value its first entry stands for, and (n, 3) uint8 RGB."""
    n_entries, first, _ = (int(v) for v in dataset.RedPaletteColorLookupTableDescriptor)
    n_entries = n_entries or 2**16
    if "RedPaletteColorLookupTableData" in dataset:
        channels = []
        for colour in ("Red", "Green", "Blue"):
            data = bytes(dataset[f"{colour}PaletteColorLookupTableData"].value)
            two_bytes = len(data) >= 2 * n_entries
            kind = ("<u2" if _little(dataset) else ">u2") if two_bytes else "u1"
            channels.append(np.frombuffer(data, dtype=kind, count=n_entries))
        table = np.stack(channels, axis=1).astype(np.int64)
    else:
        table = apply_color_lut(np.arange(n_entries, dtype=np.int32) + first, dataset)[:, :3].astype(np.int64)
    # Entries described as 16 bits of which only the low byte is in use are 8-bit entries (a note in C.7.6.3.1.5).
    return first, eight_bits(table, 16 if table.max() > 255 else 8)


def _by_value(values: NDArray[Any], function: Function) -> NDArray[Any]:
    """The function of every element; once per value rather than once per pixel where that is less."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        low, high = int(values.min()), int(values.max())
        if high - low + 1 < values.size:
            table = function(np.arange(low, high + 1, dtype=np.int64))
            return np.asarray(table[values.astype(np.int32) - low])
    return function(values)


def _with_any(dataset: Any, number: int, sequence: str, wanted: str) -> Any:
    """The functional group of this frame, else the one shared by all, else the dataset itself (PS3.3 C.7.6.16)."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups)
        group = items[index].get(sequence) if items and index < len(items) else None
        if group and wanted in group[0]:
            return group[0]
    return dataset


def _as_stored(value: int, values: NDArray[Any]) -> int:
    """A padding value written as unsigned although the pixels are signed, or the other way round."""
    bits = int(values.dtype.itemsize) * 8
    wrapped = value % (1 << bits)
    return wrapped - (1 << bits) if values.dtype.kind == "i" and wrapped >= 1 << (bits - 1) else wrapped


def _little(dataset: Any) -> bool:
    return bool(dataset.original_encoding[1] is not False)


def _icc_profile(dataset: Any) -> bytes | None:
    paths = dataset.get("OpticalPathSequence")
    profile = dataset.get("ICCProfile") or (paths[0].get("ICCProfile") if paths else None)
    return bytes(profile) if profile else None
