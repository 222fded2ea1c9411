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
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from pellucid.cohort.deidentify.dicom import dicom_attributes
from pellucid.cohort.deidentify.dicom.colour_tables import TABLES, table_value
from pellucid.cohort.deidentify.dicom.defined_terms import is_defined, meaning_of
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.technical_texts import is_version, may_stay
from pellucid.cohort.identifiers.findings import attribute_kind, tags_in
from pellucid.cohort.identifiers.patient_identifiers import Identifiers

_TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NAMING = frozenset(
    {"dicom_name", "dicom_id", "dicom_address", "dicom_physician", "dicom_operator", "dicom_institution"}
)
_CODED = frozenset({"CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"})
_MAKE = frozenset({"Manufacturer", "ManufacturerModelName"})
# A number that decides how the image looks may well be the number that somebody has as an id.
_DISPLAY_NUMBERS = frozenset({0x0028})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_LONG_NUMBER = 6
_LONGEST_NUMBER = 8  # bytes
_IMAGE_TYPES = frozenset({"ImageType", "FrameType"})
_PER_FRAME = "PerFrameFunctionalGroupsSequence"
_OLDEST_SHOWN = 90
OPTION_CODES = {  # CID 7050
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113107": "Retain Longitudinal Temporal Information With Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
}

# What `kept_header` does with an attribute that stays, by keyword, value representation or kind, for the conformance
# statement.
RULES = {
    "SQ": "its items by this list; a coded item only with a code of the standard's tables and their meaning",
    "UI": "keyed UID; UIDs of the standard stay",
    "table": "cut to its length; entries that no pixel uses are emptied",
    "ICCProfile": "rebuilt from its numbers, without texts",
    "number": "kept if it follows its value representation",
    "DS": "kept if it is a number and, outside group 0028, no id or date of the patient of six or more digits",
    "IS": "kept if it is a number and, outside group 0028, no id or date of the patient of six or more digits",
    "CS": "kept if all its words are defined terms",
    "LO": "kept if all words are known or short codes, without an identifier of the patient",
    "SH": "kept if all words are known or short codes, without an identifier of the patient",
    "StackID": "a number of up to three digits is kept, another becomes a keyed name",
    "ImageType": "defined terms are kept, others become OTHER",
    "FrameType": "defined terms are kept, others become OTHER",
    "Manufacturer": "a known maker, or Latin letters without an identifier of the patient",
    "ManufacturerModelName": "a known maker, or Latin letters without an identifier of the patient",
    "CodeValue": "only a code of the standard's tables",
    "CodingSchemeDesignator": "only a code of the standard's tables",
    "CodingSchemeVersion": "removed",
    "CodeMeaning": "the meaning from the standard's tables",
    "PatientIdentityRemoved": "always YES",
}


@dataclass(frozen=True)
class DicomOptions:
    """Which of the standard's options are used."""

    dates: bool = True  # kept, shifted per patient; False: removed
    retain_patient: bool = True  # sex, age (at most 90), size, weight
    retain_device: bool = False  # serial number, station and detector as they are; False: a keyed name for each


def identifiers_in(dataset: Dataset) -> Identifiers:
    """What names people in the file: names, ids, addresses, dates, at any depth."""
    texts: list[str] = []
    days: list[str] = []

    def walk(part: Dataset) -> None:
        for tag in tags_in(part):
            kind = attribute_kind(int(tag))[0]
            try:
                element = part[tag]
            except Exception:  # a value that cannot be parsed is not kept either
                continue
            if element.VR == "SQ":
                for item in element.value or ():
                    walk(item)
            elif element.VR in {"DA", "DT"}:
                days.extend(str(value)[:10] for value in _values(element.value))
            elif element.VR == "PN" or (kind in _NAMING and element.VR in _TEXT_VRS):
                texts.extend(str(value) for value in _values(element.value))

    walk(dataset)
    return Identifiers.of(texts, days)


def header_identifiers(data: bytes) -> Identifiers:
    """The identifiers in the header of a DICOM file; none where it cannot be parsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return identifiers_in(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True))
        except Exception:  # no header: a damaged file, or one of another kind
            return Identifiers.of([])


def kept_header(source: Dataset, linkage: Linkage, patient: str, options: DicomOptions, names: Identifiers) -> Dataset:
    """A new dataset with the attributes that stay; sequences are walked with the same list.

    An attribute whose value representation is not that of the dictionary, or whose value does not follow it, goes:
    bytes where a number belongs may be anything.

    Raises:
        UnreadableImage: a colour profile that cannot be rebuilt.
    """
    stay, uids = dicom_attributes.tags(dicom_attributes.KEPT), dicom_attributes.tags(dicom_attributes.UIDS)
    dates = dicom_attributes.tags(dicom_attributes.DATES)
    device = dicom_attributes.tags(dicom_attributes.DEVICE_IDENTITY)
    person = dicom_attributes.tags(dicom_attributes.PATIENT) if options.retain_patient else frozenset()
    empty = dicom_attributes.tags(dicom_attributes.EMPTY)
    out = Dataset()
    for tag in tags_in(source):
        number = int(tag)
        if number not in stay | uids | dates | device | person | empty:
            continue
        if number in empty:
            out.add(DataElement(tag, dictionary_VR(tag), ""))
            continue
        try:
            element = source[tag]
        except Exception:  # a value that cannot be parsed may be anything
            continue
        if element.VR not in {dictionary_VR(tag), *dictionary_VR(tag).split(" or ")}:
            continue
        if element.VR == "UI":
            out.add(DataElement(tag, "UI", _each(element.value, lambda uid: _uid(str(uid), linkage))))
        elif number in dates:
            moved = _each(element.value, lambda day: _shifted(str(day), linkage, patient)) if options.dates else ""
            out.add(DataElement(tag, "DA", moved))
        elif number in device and not options.retain_device:
            hidden = _each(element.value, lambda text: linkage.name("device", str(text), "D") if str(text) else "")
            out.add(DataElement(tag, element.VR, hidden))
        elif element.VR == "SQ":
            items = [_item(item, linkage, patient, options, names) for item in element.value or ()]
            if any(len(item) for item in items):
                numbered = element.keyword == _PER_FRAME  # the item's place is the frame's number
                out.add(DataElement(tag, "SQ", DicomSequence([item for item in items if len(item) or numbered])))
        elif element.keyword == "StackID" and not re.fullmatch(r"\d{1,3}", str(element.value or "0")):
            out.add(DataElement(tag, element.VR, linkage.name("stack", str(element.value), "S")))
        elif element.keyword in _IMAGE_TYPES:
            out.add(DataElement(tag, "CS", _each(element.value, _defined_type)))
        elif element.keyword == "PatientAge":
            out.add(DataElement(tag, "AS", _each(element.value, lambda age: _capped(str(age)))))
        elif element.VR in _BYTES or element.keyword in TABLES:
            out.add(DataElement(tag, element.VR, table_value(element, source)))
        elif all(_proper(value, element, names) for value in _values(element.value)):
            out.add(DataElement(tag, element.VR, element.value))
    return out


def _item(item: Dataset, linkage: Linkage, patient: str, options: DicomOptions, names: Identifiers) -> Dataset:
    """An item of a sequence; a coded one only with a code of the standard's tables, and with the meaning from there."""
    if "CodeValue" not in item and "CodeMeaning" not in item:
        return kept_header(item, linkage, patient, options, names)
    scheme, code = str(item.get("CodingSchemeDesignator", "")).strip(), str(item.get("CodeValue", "")).strip()
    meaning = meaning_of(scheme, code)
    if not meaning:
        return Dataset()
    kept = kept_header(item, linkage, patient, options, names)
    kept.CodeValue, kept.CodingSchemeDesignator, kept.CodeMeaning = code, scheme, meaning[:64]
    return kept


def _proper(value: Any, element: DataElement, names: Identifiers) -> bool:
    """Whether one value follows its value representation and names nobody."""
    if element.VR in {"DS", "IS"}:
        text = str(getattr(value, "original_string", value)).strip()
        display = element.tag.group in _DISPLAY_NUMBERS
        return bool(_NUMBER.fullmatch(text)) and (display or not _is_number_of(text, names))
    if element.VR in _TEXT_VRS:
        text = str(value).strip()
        if element.VR == "CS":
            return is_defined(text)
        if element.keyword in _CODED:
            return False  # written from the table of codes
        if element.keyword in _MAKE or element.tag in dicom_attributes.tags(dicom_attributes.DEVICE_IDENTITY):
            return may_stay(text, names)
        return is_version(text, names)
    return isinstance(value, (int, float)) or (isinstance(value, bytes) and len(value) <= _LONGEST_NUMBER)


def _is_number_of(text: str, names: Identifiers) -> bool:
    """Whether a number of six or more digits is an id or a date of the patient."""
    digits = re.sub(r"\D", "", text).rstrip("0") or "0"
    known = {word.rstrip("0") for word in names.parts | names.days if word.isdigit()}
    return len(digits) >= _LONG_NUMBER and digits in known


def _values(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return ()
    return value if isinstance(value, (pydicom.multival.MultiValue, list, tuple)) else (value,)


def _each(value: Any, change: Any) -> Any:
    if value is None or value == "":
        return ""
    return [change(v) for v in value] if isinstance(value, pydicom.multival.MultiValue) else change(value)


def _defined_type(term: str) -> str:
    known = str(term).strip().upper()
    return known if known.replace(" ", "_") in dicom_attributes.IMAGE_TYPES else "OTHER"


def _uid(uid: str, linkage: Linkage) -> str:
    """A UID of the standard's own list, or a keyed one; below the standard's root anybody can write anything."""
    return uid if not uid or uid in UID_dictionary else linkage.uid(uid)


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
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", OPTION_CODES[value]
    return code
