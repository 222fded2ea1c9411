"""Findings: what names a patient in headers, in file names and in the pixels, and what only seems to."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pellucid.cohort.identifiers import ocr
from pellucid.cohort.identifiers.faces import faces
from pellucid.cohort.identifiers.findings import IDENTITY, attribute_kind, dicom_findings, name_findings
from pellucid.cohort.identifiers.text_detector import text_lines


def dataset(**values: object) -> Dataset:
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"PatientName": "Meier^Erika"}, "dicom_name"),
        ({"PatientID": "4711"}, "dicom_id"),
        ({"AccessionNumber": "A1"}, "dicom_id"),
        ({"PatientBirthDate": "19610203"}, "dicom_birth_date"),
        ({"StudyDate": "20200203"}, "dicom_date"),
        ({"PatientAddress": "Hauptstrasse 1"}, "dicom_address"),
        ({"ReferringPhysicianName": "Schmidt^Dr"}, "dicom_physician"),
        ({"OperatorsName": "Huber"}, "dicom_operator"),
        ({"InstitutionName": "Klinik"}, "dicom_institution"),
        ({"StationName": "US1"}, "dicom_device"),
        ({"DeviceSerialNumber": "1"}, "dicom_device"),
        ({"ImageComments": "patient moved"}, "dicom_comment"),
        ({"StudyDescription": "Thorax"}, "dicom_comment"),
        ({"PatientSex": "F"}, "dicom_characteristic"),
        ({"StudyInstanceUID": "1.2.3"}, "dicom_uid"),
        ({"BurnedInAnnotation": "YES"}, "dicom_burned_in_flag"),
    ],
)
def test_each_kind_of_attribute_is_known(values: dict[str, object], kind: str) -> None:
    assert dicom_findings(dataset(**values)) == (kind,)
    item = dataset(**values)
    if kind != "dicom_burned_in_flag":  # a flag of the file, not of an item
        assert kind in dicom_findings(dataset(ModifiedAttributesSequence=Sequence([item])))


def test_what_says_nothing_is_no_finding() -> None:
    ds = dataset(
        PatientName="Anonymous", PatientID="", PatientBirthDate="", StudyInstanceUID="1.2.840.10008.1.2",
        Manufacturer="ACME", ManufacturerModelName="Echo 5", Modality="US", KVP=120, BurnedInAnnotation="NO",
        Rows=10, Columns=10, PixelSpacing=[1, 1], ConvolutionKernel="B31f",
    )  # fmt: skip
    assert dicom_findings(ds) == ()


@pytest.mark.parametrize(
    "name",
    ["Nakamura^Hiroshi", "Navarro^Maria", "Naumann^Eva", "Testa^Paolo", "Casey^Tom", "Nonell^Xavi", "Smith^Anna",
     "Na^Hong", "Case^Tom", "De^Anon", "Patientia", "Subjectovic^Ana", "Researcher^Ann", "Phantomas", "Anonby^Ole",
     "Anon Smith", "山田^太郎", "No^An"],
)  # fmt: skip
def test_a_name_that_begins_like_a_placeholder_names_a_person(name: str) -> None:
    ds = dataset(SpecificCharacterSet="ISO_IR 192", PatientName=name)
    assert dicom_findings(ds) == ("dicom_name",)


@pytest.mark.parametrize(
    "number", ["NA00012", "NA-00012", "case12345", "TEST4711", "Patient 1234567", "17", "anon00123"]
)
def test_an_id_that_begins_like_a_placeholder_is_an_id(number: str) -> None:
    assert dicom_findings(dataset(PatientID=number)) == ("dicom_id",)


@pytest.mark.parametrize(
    "text",
    ["Anonymous", "ANONYMIZED", "anonymisiert", "Anon", "Anonymous^Patient", "N/A", "na", "NONE", "Test^Patient", "xxx",
     "no name", "NoName", "de-identified", "DeID", "REMOVED", "unknown", "Phantom 1", "Subject_012", "^^", "-"],
)  # fmt: skip
def test_placeholders_are_no_person(text: str) -> None:
    assert dicom_findings(dataset(PatientName=text, PatientID=text)) == ()


def test_private_and_overlay_groups_are_found() -> None:
    ds = Dataset()
    ds.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "anything")
    ds.add_new(0x60003000, "OW", b"\1\0")
    assert dicom_findings(ds) == ("dicom_overlay", "dicom_private_tags")


def test_a_file_that_says_it_is_de_identified_is_believed_within_reason() -> None:
    ds = dataset(PatientIdentityRemoved="YES", PatientName="TCGA-17-Z034", PatientID="TCGA-17-Z034",
                 StudyDate="19830708", InstitutionName="removed", StudyInstanceUID="1.2.3")  # fmt: skip
    assert dicom_findings(ds) == ()
    assert {"dicom_date", "dicom_uid", "dicom_name"} <= set(dicom_findings(ds, believe=False))
    ds.PatientName, ds.PatientBirthDate = "Meier^Erika", "19610203"
    assert dicom_findings(ds) == ("dicom_birth_date", "dicom_name")
    assert {"dicom_birth_date", "dicom_name"} < IDENTITY


def test_every_attribute_that_an_archive_fills_in_is_of_a_kind() -> None:
    """Each keyword below stands in PS3.15 Table E.1-1."""
    keywords = (
        "ReferringPhysicianTelephoneNumbers",
        "OtherPatientIDs",
        "OtherPatientNames",
        "PatientMotherBirthName",
        "MilitaryRank",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "PerformingPhysicianName",
        "NameOfPhysiciansReadingStudy",
        "AdmittingDiagnosesDescription",
        "DerivationDescription",
        "ProtocolName",
        "GantryID",
        "CassetteID",
        "PlateID",
        "DetectorID",
        "RequestedProcedureID",
        "ScheduledProcedureStepID",
        "PerformedProcedureStepDescription",
        "CurrentPatientLocation",
        "ResponsiblePerson",
        "EthnicGroup",
        "Occupation",
        "AdditionalPatientHistory",
        "ContrastBolusAgent",
        "CountryOfResidence",
        "RegionOfResidence",
        "PatientReligiousPreference",
        "SeriesDescription",
        "RequestingPhysician",
        "RequestingService",
        "ReasonForStudy",
        "VisitComments",
        "PersonAddress",
        "VerifyingOrganization",
        "ClinicalTrialSubjectID",
        "ClinicalTrialSponsorName",
        "TextComments",
        "FrameComments",
        "StudyComments",
        "ResultsComments",
        "CameraOwnerName",
        "GPSLatitude",
        "UniqueDeviceIdentifier",
        "XRaySourceID",
        "TreatmentMachineName",
        "RTPlanLabel",
    )
    tags = {word: pydicom.datadict.tag_for_keyword(word) for word in keywords}
    assert [word for word, tag in tags.items() if tag is None or not attribute_kind(tag)[0]] == []


def test_names_ids_and_dates_in_paths() -> None:
    paths = [
        "PAT_1006/img_1.jpg",  # an id of the table
        "a/Meier_Erika_01.jpg",  # a name of the table
        "a/meier-2.jpg",  # the surname of its own patient
        "a/other-2.jpg",
        "x/us_20190504.png",
        "x/us_04.05.2019.png",
        "x/2019-05-04/1.png",
        "x/1.2.840.113619.20190504.7.8.dcm",  # a UID, not a date
        "x/img_99123456789.png",  # a long number, not a date
        "7/view_7.png",  # a short id counts as a whole name only
        "x/view_7.png",
        "xPAT_10061.jpg",  # another number
    ]
    patients = ["PAT_1006", "b", "c", None, None, None, None, None, None, "7", "7", "PAT_1006"]
    names = [None, "Meier^Erika", "Meier^Erika", "Huber^Max", *[None] * 8]
    found = name_findings(paths, patients, names)
    assert found == [
        ("name_patient_id",),
        ("name_person",),
        ("name_person",),
        (),
        ("name_date",),
        ("name_date",),
        ("name_date",),
        (),
        (),
        ("name_patient_id",),
        (),
        (),
    ]


def test_a_surname_of_another_patient_alone_is_no_finding() -> None:
    assert name_findings(["a/berger_1.png"], ["1"], [None]) == [()]
    assert name_findings(["a/berger_1.png", "b.png"], ["1", "2"], [None, "Berger^Max"]) == [(), ()]
    assert name_findings(["a/max_berger_1.png", "b.png"], ["1", "2"], [None, "Berger^Max"])[0] == ("name_person",)


# --- pixels


def speckled(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.random((480, 640)).astype(np.float32), (0, 0), 12)
    tissue = (smooth - smooth.min()) / np.ptp(smooth) * 120 * rng.rayleigh(0.7, smooth.shape)
    return np.repeat(tissue.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def test_drawn_lines_are_found_and_tissue_is_not() -> None:
    for seed in range(5):
        picture = speckled(seed)
        assert text_lines(picture) == []
        cv2.putText(picture, "MAMA DIR", (40, 100), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1)
        picture[280:310, 390:470] //= 4  # a margin
        cv2.putText(picture, "HIP", (400, 300), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (200, 200, 200), 1)
        found = text_lines(picture)
        assert any(y <= 95 <= y + h and x < 60 for x, y, w, h in found)
        assert any(y <= 295 <= y + h and 390 < x < 460 for x, y, w, h in found)  # three letters
        assert len(found) == len(set(found)) == 2


def test_the_ticks_of_a_ruler_are_no_text() -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    for x in range(20, 380, 10):
        picture[280:290, x : x + 2] = 220
    assert text_lines(picture) == []


def test_the_scanners_of_busbra_are_found_by_their_text(shared_data: object) -> None:
    """Of pictures in which OCR reads a word, the share found by form alone was 1.00, 0.81, 0.94 and 1.00 by scanner."""
    manifest = pd.read_csv(f"{shared_data}/busbra/manifest.csv")
    rows = manifest[manifest["device_model"] == "GE Logiq 5"].head(40)
    found = [bool(text_lines(cv2.imread(f"{shared_data}/busbra/{name}"))) for name in rows["image"]]
    assert np.mean(found) > 0.85


@pytest.mark.long
@pytest.mark.skipif(not ocr.available(), reason="needs rapidocr")
@pytest.mark.parametrize(("name", "word"), [("bus_0039-l", "ESQUERDA"), ("bus_0143-l", "DIREITA")])
def test_ocr_reads_the_breast_side_on_a_real_scan(shared_data: object, name: str, word: str) -> None:
    picture = cv2.imread(f"{shared_data}/busbra/images/{name}.jpg")[:, :, ::-1]
    read = ocr.TextReader().read_text(np.ascontiguousarray(picture))
    (line,) = [box for box in read if "MAMA" in box.text.upper()]
    assert word in line.text.upper()
    x, y, w, h = line.box
    assert 0 <= x < x + w <= picture.shape[1]
    assert 0 <= y < y + h <= picture.shape[0]


@pytest.mark.skipif(not ocr.available(), reason="needs rapidocr")
@pytest.mark.parametrize("dark", [False, True])
def test_ocr_reads_small_text_of_both_polarities_where_it_stands(dark: bool) -> None:
    picture = np.full((200, 300, 3), 210 if dark else 25, np.uint8)
    cv2.putText(picture, "MEIER 4711", (60, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20,) * 3 if dark else (230,) * 3, 1)
    (found,) = ocr.TextReader().read_text(picture)
    assert found.text.replace(" ", "") == "MEIER4711"
    x, y, w, h = found.box
    ink = np.argwhere((picture[:, :, 0] > 128) != dark)
    assert x <= ink[:, 1].min() + 3
    assert x + w >= ink[:, 1].max() - 3
    assert y <= ink[:, 0].min() + 3
    assert y + h >= ink[:, 0].max() - 3


def test_a_face_is_seen_and_tissue_is_none() -> None:
    from skimage.data import astronaut

    found = faces(astronaut())
    assert found is not None
    assert len(found) == 1
    x, y, w, h = found[0]
    assert 150 < x + w / 2 < 290
    assert 60 < y + h / 2 < 200
    assert faces(speckled()) == []


def test_a_path_with_two_characters_for_an_umlaut_names_the_patient() -> None:
    paths = [unicodedata.normalize(form, "Jäger, Anna/Bild 1.jpg") for form in ("NFC", "NFD")]
    assert name_findings(paths, ["J\u00e4ger, Anna"] * 2) == [("name_patient_id",)] * 2
