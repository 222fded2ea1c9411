"""Views of a cine: text on any frame is in one of them, whatever the photometric interpretation."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pellucid.cohort.deidentify.dicom.dicom_files import clean_dicom, dicom_sheet
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.text_masking import TextFinder
from pellucid.cohort.identifiers.text_detector import text_lines

KINDS = ["MONOCHROME2", "MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL", "MONOCHROME2 12 bits"]
FRAMES, HEIGHT, WIDTH = 9, 120, 200


def cine(kind: str, *, on_frame: int | None = 3, level: int = 235) -> bytes:
    """A cine of dim tissue with a name on one frame."""
    smooth = np.linspace(20, 90, WIDTH)[None, None] + np.arange(FRAMES)[:, None, None]
    gray = np.ascontiguousarray(np.broadcast_to(smooth, (FRAMES, HEIGHT, WIDTH)).astype(np.uint8))
    if on_frame is not None:
        cv2.putText(gray[on_frame], "NOVAK JAN 1948", (15, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.6, level, 1)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.3.4", "US"
    ds.PatientName, ds.PatientID = "Novak^Jan", "P1"
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.PixelRepresentation = HEIGHT, WIDTH, FRAMES, 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.SamplesPerPixel, ds.PhotometricInterpretation = 7, 1, kind.removesuffix(" 12 bits")
    pixels = gray
    if kind == "MONOCHROME1":
        pixels = 255 - gray
    elif kind == "PALETTE COLOR":  # an index has nothing to do with its brightness: the brightest index is black
        ramp = np.arange(256, dtype=np.uint8)[::-1]
        for colour in ("Red", "Green", "Blue"):
            setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
            setattr(ds, f"{colour}PaletteColorLookupTableData", ramp.tobytes())
        pixels = 255 - gray
    elif kind in {"RGB", "YBR_FULL"}:
        pixels = np.repeat(gray[..., None], 3, axis=3)
        if kind == "YBR_FULL":
            pixels[..., 1:] = 128
        ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    elif kind.endswith("12 bits"):
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        pixels = gray.astype("<u2") * 16
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB" if pixels.dtype == np.uint8 else "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def cleaned(data: bytes, tmp_path: Path) -> tuple[bytes, tuple[tuple[int, int, int, int], ...], tuple[np.ndarray, ...]]:
    key = Linkage(tmp_path / "none", "s", "i", bytes(32), {"P1": "PABC"})
    finder = TextFinder("lines", "all")
    result = clean_dicom(
        data, lambda views, names=(): finder.boxes(views, names), key, "P1", DicomOptions(), max_megapixels=1
    )
    return result.data, result.boxes, result.sheet


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_on_one_frame_is_masked_on_all(kind: str, tmp_path: Path) -> None:
    data, boxes, _ = cleaned(cine(kind), tmp_path)
    assert boxes
    assert all(not text_lines(view) for view in dicom_sheet(data))
    assert cleaned(cine(kind, on_frame=None), tmp_path)[1] == ()


@pytest.mark.parametrize("kind", KINDS)
def test_the_review_sheet_shows_what_is_on_any_frame(kind: str) -> None:
    bright, dark, *_ = dicom_sheet(cine(kind))
    assert text_lines(bright)
    assert bright.shape == dark.shape == (HEIGHT, WIDTH, 3)


def test_a_line_that_bright_tissue_hides_in_the_maximum_is_found_on_its_frame(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(cine("MONOCHROME2")))
    pixels = dataset.pixel_array.copy()
    pixels[6] = 250  # the brightest value of every pixel is that of this frame
    dataset.PixelData = pixels.tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    assert cleaned(out.getvalue(), tmp_path)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_states_that_its_pixels_are_clean_before_a_person_has_seen_them(kind: str, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(cleaned(cine(kind), tmp_path)[0]))
    assert "BurnedInAnnotation" not in dataset
    assert [c.CodeValue for c in dataset.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
