"""The header of a cleaned DICOM file: what stays of the original, and what PS3.15 Annex E asks it to state."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pellucid.cohort.deidentify.dicom import dicom_attributes
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.text_masking import plain_text

PUBLIC_SCHEMES = frozenset({"DCM", "SCT", "SRT", "SNM3", "UCUM", "FMA", "RADLEX", "LN", "NDC", "MA", "UBERON"})
_DICOM_ROOT = "1.2.840.10008."  # UIDs that the standard itself gives out name kinds of things, not things
# Not DS and IS: a number that decides how the picture looks may well be the number that somebody has as an id.
_TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_IMAGE_TYPES = frozenset({"ImageType", "FrameType"})
_PER_FRAME = "PerFrameFunctionalGroupsSequence"
_OLDEST_SHOWN = 90
_CODES = {  # CID 7050
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113107": "Retain Longitudinal Temporal Information With Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
}


@dataclass(frozen=True)
class DicomOptions:
    """Which of the standard's options are used."""

    dates: bool = True  # kept, shifted per patient; False: removed
    retain_patient: bool = True  # sex, age (at most 90), size, weight
    retain_device: bool = False  # serial number, station and detector as they are; False: a keyed name for each


def identifiers_in(dataset: Dataset) -> set[str]:
    """Words of names and ids in the file itself: a kept text that holds one of them goes after all."""
    found: set[str] = set()
    for element in dataset.iterall():
        by_name = element.VR == "PN" or element.keyword in {
            "PatientID", "OtherPatientIDs", "AccessionNumber", "IssuerOfPatientID", "PatientTelephoneNumbers",
            "PatientAddress", "InstitutionName", "MedicalRecordLocator", "AdmissionID", "StudyID",
        }  # fmt: skip
        if by_name and element.value:
            found |= words_of(str(element.value))
    return found


def words_of(identifier: str) -> set[str]:
    """An identifier, its words, and itself without what divides them; short ones stand anywhere by chance."""
    whole = plain_text(identifier)
    return {word for word in (whole, *whole.split(), whole.replace(" ", "")) if len(word) >= 4}


def kept_header(
    source: Dataset, linkage: Linkage, patient: str, options: DicomOptions, identifiers: set[str]
) -> Dataset:
    """A new dataset with the attributes that stay; sequences are walked with the same list."""
    stay, uids = dicom_attributes.tags(dicom_attributes.KEPT), dicom_attributes.tags(dicom_attributes.UIDS)
    dates, device = (
        dicom_attributes.tags(dicom_attributes.DATES),
        dicom_attributes.tags(dicom_attributes.DEVICE_IDENTITY),
    )
    person = dicom_attributes.tags(dicom_attributes.PATIENT) if options.retain_patient else frozenset()
    empty = dicom_attributes.tags(dicom_attributes.EMPTY)
    out = Dataset()
    for tag in source.keys():  # noqa: SIM118 - a dataset iterates over elements, and converts each
        number = int(tag)
        if number not in stay | uids | dates | device | person | empty:
            continue
        element = source[tag]
        if number in empty:
            out.add(DataElement(tag, element.VR, ""))
        elif number in uids or element.VR == "UI":
            out.add(DataElement(tag, "UI", _each(element.value, lambda uid: _uid(str(uid), linkage))))
        elif number in dates:
            moved = _each(element.value, lambda day: _shifted(str(day), linkage, patient)) if options.dates else ""
            out.add(DataElement(tag, "DA", moved))
        elif number in device and not options.retain_device:
            hidden = _each(element.value, lambda text: linkage.name("device", str(text), "D") if str(text) else "")
            out.add(DataElement(tag, element.VR, hidden))
        elif element.VR == "SQ":
            items = [
                kept_header(item, linkage, patient, options, identifiers) for item in element.value if _public(item)
            ]
            if any(len(item) for item in items):
                numbered = element.keyword == _PER_FRAME  # the item's place is the frame's number
                out.add(DataElement(tag, "SQ", DicomSequence([item for item in items if len(item) or numbered])))
        elif element.keyword in _IMAGE_TYPES:
            out.add(DataElement(tag, "CS", _each(element.value, _defined_type)))
        elif element.keyword == "PatientAge":
            out.add(DataElement(tag, "AS", _each(element.value, lambda age: _capped(str(age)))))
        elif element.VR not in _TEXT_VRS or not _tells(element.value, identifiers):
            out.add(DataElement(tag, element.VR, element.value))
    return out


def _each(value: Any, change: Any) -> Any:
    if value is None or value == "":
        return ""
    return [change(v) for v in value] if isinstance(value, pydicom.multival.MultiValue) else change(value)


def _defined_type(term: str) -> str:
    known = str(term).strip().upper()
    return known if known.replace(" ", "_") in dicom_attributes.IMAGE_TYPES else "OTHER"


def _uid(uid: str, linkage: Linkage) -> str:
    return uid if not uid or uid.startswith(_DICOM_ROOT) else linkage.uid(uid)


def _shifted(day: str, linkage: Linkage, patient: str) -> str:
    digits = day.replace(".", "").strip()  # ACR-NEMA wrote 1999.12.31
    try:
        moved = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) + timedelta(linkage.shift_days(patient))
    except (ValueError, OverflowError):
        return ""
    return moved.strftime("%Y%m%d") if len(digits) == 8 else ""


def _capped(age: str) -> str:
    match = re.fullmatch(r"(\d{3})([DWMY])", age.strip())
    if match is None:
        return ""
    return "090Y" if match[2] == "Y" and int(match[1]) > _OLDEST_SHOWN - 1 else match[0]


def _public(item: Dataset) -> bool:
    """A coded word from a scheme of a hospital's own may say anything."""
    return "CodeValue" not in item or str(item.get("CodingSchemeDesignator", "")).strip() in PUBLIC_SCHEMES


def _tells(value: Any, identifiers: set[str]) -> bool:
    values: Sequence[Any] = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    words = {word for v in values for word in (plain_text(str(v)), *plain_text(str(v)).split())}
    return not words.isdisjoint(identifiers)


def state_cleaning(dataset: Dataset, linkage: Linkage, patient: str, options: DicomOptions) -> None:
    """The attributes that PS3.15 E.1.1 asks for."""
    research_id = linkage.patients[patient]
    dataset.PatientID, dataset.PatientName = research_id, research_id
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Pellucid: attributes kept by list, UIDs and dates by key"
    used = ["113100"] + ["113107"] * options.dates
    used += ["113108"] * options.retain_patient + ["113109"] * options.retain_device
    dataset.DeidentificationMethodCodeSequence = DicomSequence([_code(value) for value in used])
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if options.dates else "REMOVED"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            setattr(dataset, keyword, linkage.uid(f"{keyword} of {patient}"))
    dataset.SpecificCharacterSet = "ISO_IR 192"


def certified(data: bytes) -> bytes:
    """A cleaned file with the statements that a person has seen its pixels: BurnedInAnnotation NO and code 113101."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data))
        codes = list(dataset.DeidentificationMethodCodeSequence)
        if all(item.CodeValue != "113101" for item in codes):
            codes.insert(1, _code("113101"))
        dataset.DeidentificationMethodCodeSequence = DicomSequence(codes)
        dataset.BurnedInAnnotation = "NO"
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _code(value: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", _CODES[value]
    return code
