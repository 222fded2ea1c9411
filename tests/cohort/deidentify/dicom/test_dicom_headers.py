"""Texts, codes, numbers and bytes that a cleaned DICOM header may keep."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit

from pellucid.cohort.deidentify.dicom.defined_terms import is_defined, meaning_of
from pellucid.cohort.deidentify.dicom.dicom_files import clean_dicom
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.identifiers.patient_identifiers import Identifiers


def original(**values: object) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", "OT"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Müller^Li=王^小东", "MRN0012345", "19610203"
    ds.Rows = ds.Columns = 40
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8).tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def written(ds: Dataset) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()


def cleaned(data: bytes | Dataset, known: Identifiers | None = None) -> Dataset:
    key = Linkage(Path("none"), "s", "i", bytes(32), {"MRN0012345": "PABC"})
    data = data if isinstance(data, bytes) else written(data)
    options = DicomOptions()
    result = clean_dicom(data, lambda v, n=(): [], key, "MRN0012345", options, max_megapixels=1, stem="s", known=known)
    return pydicom.dcmread(io.BytesIO(result.data))


@pytest.mark.parametrize(
    "text",
    ["Müller", "Mueller", "MULLER 2", "v3Mueller", "LiMüller", "Li 2", "小东", "Иванов", "03.02.1961", "19610203",
     "0012345", "Kovacs"],
)  # fmt: skip
@pytest.mark.parametrize("keyword", ["SoftwareVersions", "ConvolutionKernel", "FilterType", "ProcessingFunction"])
def test_free_text_goes(keyword: str, text: str) -> None:
    assert keyword not in cleaned(original(**{keyword: text}))


def test_what_the_table_says_of_the_patient_is_compared_too() -> None:
    known = Identifiers.of(["MRN0012345", "Kovacs, Réka"])
    assert cleaned(original(ManufacturerModelName="Kovacs 5")).ManufacturerModelName == "Kovacs 5"
    assert "ManufacturerModelName" not in cleaned(original(ManufacturerModelName="Reka 5"), known)


def test_known_texts_stay() -> None:
    texts = {"Manufacturer": "SIEMENS", "ManufacturerModelName": "Skyra", "SoftwareVersions": "syngo MR E11",
             "ConvolutionKernel": "B31f", "BodyPartExamined": "CHEST", "StackID": "1"}  # fmt: skip
    after = cleaned(original(**texts))
    assert {name: after[name].value for name in texts} == texts


def test_a_stack_is_named_by_a_number_or_by_the_key() -> None:
    after = cleaned(original(StackID="Mueller"))
    assert after.StackID.startswith("S")
    assert "ueller" not in after.StackID
    assert after.StackID == cleaned(original(StackID="Mueller")).StackID


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def test_the_meaning_of_a_code_comes_from_the_table_of_codes() -> None:
    after = cleaned(original(AnatomicRegionSequence=code("76752008", "SCT", "breast of Li Müller")))
    item = after.AnatomicRegionSequence[0]
    assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == ("76752008", "SCT", "Breast")
    for unknown in (code("19610203", "SCT", "Breast"), code("MUELLER", "DCM", "Breast"), code("T-1", "99HOSP", "x")):
        assert "AnatomicRegionSequence" not in cleaned(original(AnatomicRegionSequence=unknown))
    assert meaning_of("SRT", "T-04000") == meaning_of("SCT", "76752008")


@pytest.mark.parametrize("term", ["MUELLER", "LI", "M U E L", "ANNA", "KOVACS REKA"])
def test_a_name_is_no_defined_term(term: str) -> None:
    assert not is_defined(term)
    assert "BodyPartExamined" not in cleaned(original(BodyPartExamined=term))


@pytest.mark.parametrize(("vr", "value"), [("OB", b"Li Mueller!!"), ("LO", "Mueller"), ("ST", "x")])
def test_a_number_written_as_something_else_goes(vr: str, value: object) -> None:
    ds = original()
    ds.add(DataElement(0x00180060, vr, value))  # KVP
    assert "KVP" not in cleaned(ds)
    assert cleaned(original(KVP=120)).KVP == 120


def test_a_uid_below_the_root_of_the_standard_that_is_not_in_its_list_is_replaced() -> None:
    after = cleaned(original(SOPClassUID="1.2.840.10008.19610203"))
    assert after.SOPClassUID.startswith("2.25.")


def test_a_palette_is_cut_to_its_length() -> None:
    ds = original(PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(ds, f"{colour}PaletteColorLookupTableData", bytes(range(256)) + b"Li Mueller!!")
    after = cleaned(ds)
    assert after.RedPaletteColorLookupTableData == bytes(range(256))


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_those_stored_are_cleared(signed: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**11, (40, 40)).astype("<u2")
    ds = original(BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=signed)
    ds.PixelData = (values | 0x3000).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    after = cleaned(ds)
    np.testing.assert_array_equal(np.frombuffer(after.PixelData, "<u2").reshape(40, 40), values)


def test_bits_above_those_stored_are_cleared_in_a_compressed_stream() -> None:
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 2**12, (40, 40)).astype(np.uint16)
    letters = values.copy()
    letters[10:20, 5:30] |= 1 << 12
    out = io.BytesIO()
    Image.fromarray(letters).save(out, "JPEG2000", no_jp2=True, irreversible=False)
    ds = original(BitsAllocated=16, BitsStored=12, HighBit=11)
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    stream = out.getvalue()
    ds.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    ds["PixelData"].VR = "OB"
    after = cleaned(ds)
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    np.testing.assert_array_equal(np.frombuffer(after.PixelData, "<u2").reshape(40, 40), values)


@pytest.mark.parametrize("planted", [b"", b"Li Mueller 1961"])
def test_what_lies_behind_the_last_pixel_of_a_jpeg_goes(planted: bytes) -> None:
    from PIL import Image

    gray = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "JPEG", quality=95)
    stream = out.getvalue()[:-2] + planted + b"\xff\xd9"
    ds = original()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    ds["PixelData"].VR = "OB"
    after = cleaned(ds)
    assert b"Mueller" not in after.PixelData
    if planted:
        assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    else:
        assert len(list(generate_frames(after.PixelData, number_of_frames=1))) == 1
