"""Lookup tables of DICOM: entries that no pixel uses are emptied, and the image is displayed as before."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from pellucid.cohort.deidentify.dicom.colour_tables import clear_unused_entries

NAME = np.frombuffer(b"NovakJan19480814", "<u2")
COLOURS = ("Red", "Green", "Blue")


def palette(first: int = 0, dtype: str = "<u2") -> Dataset:
    ds = Dataset()
    bits = 16 if dtype == "<u2" else 8
    for shade, colour in enumerate(COLOURS):
        table = (np.arange(256) * (200 - 30 * shade) % 2**bits).astype(dtype)
        table[200 : 200 + len(NAME)] = NAME if bits == 16 else NAME.view(np.uint8)[: len(NAME)]
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, first, bits])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return ds


@pytest.mark.parametrize(("first", "dtype"), [(0, "<u2"), (10, "<u2"), (0, "u1")])
def test_unused_colours_are_emptied(first: int, dtype: str) -> None:
    ds = palette(first, dtype)
    raw = (np.arange(100).reshape(10, 10) + first).astype(np.uint8)
    before = apply_color_lut(raw, ds)
    clear_unused_entries(ds, raw, "PALETTE COLOR")
    np.testing.assert_array_equal(apply_color_lut(raw, ds), before)
    for colour in COLOURS:
        table = np.frombuffer(ds[f"{colour}PaletteColorLookupTableData"].value, dtype)
        assert not table[100:].any()


def test_segmented_palettes_are_expanded() -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    segments = np.array([0, 1, 0, 1, 127, 20000, 1, 128, 65535], "<u2")  # a value, and two linear segments
    for colour in COLOURS:
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(ds, f"Segmented{colour}PaletteColorLookupTableData", segments.tobytes())
    raw = np.arange(150, dtype=np.uint8).reshape(10, 15)
    before = apply_color_lut(raw, ds)
    del ds.file_meta  # as a cleaned header
    clear_unused_entries(ds, raw, "PALETTE COLOR")
    assert "SegmentedRedPaletteColorLookupTableData" not in ds
    np.testing.assert_array_equal(apply_color_lut(raw, ds), before)
    assert not np.frombuffer(ds["RedPaletteColorLookupTableData"].value, "<u2")[150:].any()


def test_palettes_of_another_image_go() -> None:
    ds = palette()
    clear_unused_entries(ds, np.zeros((2, 2), np.uint8), "MONOCHROME2")
    assert not list(ds)


def test_unused_entries_of_gray_tables_repeat_the_one_before() -> None:
    ds, item = Dataset(), Dataset()
    table = (np.arange(256) * 16).astype("<u2")
    table[200 : 200 + len(NAME)] = NAME
    item.LUTDescriptor, item.LUTData = [256, -10, 12], table.tobytes()
    ds.VOILUTSequence = Sequence([item])
    ds.RescaleSlope, ds.RescaleIntercept = 1, -10
    clear_unused_entries(ds, np.arange(100, dtype=np.int16), "MONOCHROME2")
    now = np.frombuffer(ds.VOILUTSequence[0]["LUTData"].value, "<u2")
    np.testing.assert_array_equal(now[:100], table[:100])
    assert set(now[101:]) == {table[100]}
