"""What a DICOM header says of how an image came to be, under the names that EXIF has too."""

from __future__ import annotations

from typing import Any

from pellucid.cohort.readers.exif import clean, iso_date

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
_DATES = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")


def dicom_header(dataset: Any) -> dict[str, str]:
    """The facts of `picture.HEADER_NAMES` that are there, each cleaned of control characters."""
    header = {name: next(filter(None, (_text(dataset, k) for k in keys)), "") for name, keys in _KEYWORDS.items()}
    taken = next(filter(None, (iso_date(_text(dataset, keyword)) for keyword in _DATES)), "")
    header |= {"date": taken, "year": taken[:4]}
    header |= {name: _number(_text(dataset, keyword), unit) for name, (keyword, unit) in _NUMBERS.items()}
    return {name: value for name, value in header.items() if value}


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


def _number(text: str, unit: float) -> str:
    """`000140`, `140.0` and `1.4E+02` are one number; scanners write it in their own ways."""
    try:
        return f"{float(text) * unit:.6g}"
    except ValueError:
        return ""
