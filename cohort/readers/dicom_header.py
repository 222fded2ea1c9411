"""What a DICOM header says of how an image came to be, under the names that EXIF has too."""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom.datadict import tag_for_keyword

from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.readers.exif import clean, iso_date
from pellucid.cohort.readers.picture import UnreadableImage

_KEYWORDS = {
    "manufacturer": ("Manufacturer",),
    "model": ("ManufacturerModelName",),
    "station": ("StationName",),
    "serial": ("DeviceSerialNumber",),
    "software": ("SoftwareVersions",),
    "operator": ("OperatorsName",),
    "institution": ("InstitutionName",),
    "modality": ("Modality",),
    "body_part": ("BodyPartExamined",),
    "view": ("ViewPosition",),
    "laterality": ("ImageLaterality", "Laterality"),
    "protocol": ("ProtocolName",),
    "kernel": ("ConvolutionKernel",),
    "patient_id": ("PatientID",),
}
_NUMBERS = {"kvp": ("KVP", 1.0), "slice_thickness": ("SliceThickness", 1.0), "exposure_time": ("ExposureTime", 0.001)}
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")  # the standard asks for a point
_TYPED = frozenset({"manufacturer", "model", "software", "body_part", "view", "protocol", "kernel"})
_SHORTEST_WORD = 3
_DATES = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")


def dicom_header(dataset: Any) -> dict[str, str]:
    """The facts of `picture.HEADER_NAMES` that are there, each cleaned of control characters."""
    header = {name: next(filter(None, (_text(dataset, k) for k in keys)), "") for name, keys in _KEYWORDS.items()}
    taken = next(filter(None, (iso_date(_text(dataset, keyword)) for keyword in _DATES)), "")
    header |= {"date": taken, "year": taken[:4]}
    header = _without_the_patient(header, dataset)
    header |= {name: _number(_text(dataset, keyword), unit) for name, (keyword, unit) in _NUMBERS.items()}
    return {name: value for name, value in header.items() if value}


def _without_the_patient(header: dict[str, str], dataset: Any) -> dict[str, str]:
    """Without texts in which the patient's name or id was typed: they would be levels in every table and figure."""
    own = [_text(dataset, "PatientName"), _text(dataset, "PatientID")]
    words = [
        word for text in own for word in re.split(r"[\W_]+", text) if len(word) >= _SHORTEST_WORD or not word.isascii()
    ]
    if not words:
        return header
    known = Identifiers.of([*words, *(text for text in own if len(text) >= _SHORTEST_WORD)])
    return {name: "" if name in _TYPED and known.named_in(text) else text for name, text in header.items()}


def header_findings(dataset: Any) -> tuple[str, ...]:
    """The kinds of identifying attributes, by `pellucid.cohort.identifiers.findings.dicom_findings`; dicom_unchecked
    where it stumbled."""
    from pellucid.cohort.identifiers.findings import dicom_findings

    try:
        return dicom_findings(dataset)
    except Exception:  # the picture is sound; that its header could not be searched must be seen, not lost
        return ("dicom_unchecked",)


def _text(dataset: Any, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # one value that cannot be parsed is no reason to lose the others
        return ""
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return clean(" ".join(str(v) for v in value))
    return clean(value)


def decimal(source: Any, keyword: str) -> float | None:
    """The first value of a decimal string (PS3.5 table 6.2-1), with point or comma; None where it is empty or missing.

    Raises:
        UnreadableImage: it is not a finite number: the image would be another one without it.
    """
    try:
        value = source.get(keyword)
    except Exception:  # pydicom refuses a list with a comma in it
        value = source.get_item(tag_for_keyword(keyword)).value
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        value = value[0] if len(value) else None
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else "" if value is None else str(value)
    text = text.split("\\")[0].strip(" \0")
    if not text:
        return None
    try:
        number = float(_with_point(text))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UnreadableImage(f"a DICOM file whose {keyword} is not a number ({text[:16]!a})")
    return number


def _number(text: str, unit: float) -> str:
    """`000140`, `140.0`, `140,0` and `1.4E+02` are one number; scanners write it in different ways."""
    try:
        return f"{float(_with_point(text)) * unit:.6g}"
    except ValueError:
        return ""


def _with_point(text: str) -> str:
    return text.replace(",", ".") if _COMMA.fullmatch(text) else text
