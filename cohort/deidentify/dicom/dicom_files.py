"""One DICOM file → the same picture with only the attributes of `attributes.py`: PS3.15 Annex E, by a list of what
stays."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian

from pellucid.cohort.deidentify.dicom import dicom_attributes
from pellucid.cohort.deidentify.dicom.dicom_display_check import refuse_other_display
from pellucid.cohort.deidentify.jpeg_segments import strip_jpeg, strip_jpeg2000
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.raster_files import SLIDE, Cleaned, FindBoxes, stretched_views
from pellucid.cohort.deidentify.text_masking import fill, plain_text
from pellucid.cohort.identifiers.findings import dicom_findings
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.readers.whole_slide import WHOLE_SLIDE_SOP_CLASS

PUBLIC_SCHEMES = frozenset({"DCM", "SCT", "SRT", "SNM3", "UCUM", "FMA", "RADLEX", "LN", "NDC", "MA", "UBERON"})
_DICOM_ROOT = "1.2.840.10008."  # UIDs that the standard itself gives out name kinds of things, not things
# Not DS and IS: a number that decides how the picture looks may well be the number that somebody has as an id.
_TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_IMAGE_TYPES = frozenset({"ImageType", "FrameType"})
_DISPLAY_GROUPS = frozenset({0x0008, 0x0020, 0x0028, 0x0048, 0x2050, 0x5200})
_PER_FRAME = "PerFrameFunctionalGroupsSequence"
_OLDEST_SHOWN = 90
_SAMPLED_FRAMES = 5
_LARGEST_BITS = 8 * 2**30  # of all frames together, decoded: four copies of them are held
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
    pixels_read: bool = False  # whether text in the pixels was looked for by reading it


def clean_dicom(
    data: bytes,
    find: FindBoxes,
    linkage: Linkage,
    patient: str,
    options: DicomOptions,
    *,
    max_megapixels: float,
    stem: str = "",
) -> Cleaned:
    """Clean the header and mask burned-in text of one DICOM file.

    Without text to mask, compressed pixels stay compressed as they are, without the comments of their streams;
    everything else is written as Explicit VR Little Endian.

    Args:
        data: the file.
        find: boxes to mask, given RGB views.
        linkage: gives ids, UIDs and the shift of dates.
        patient: own id of the patient.
        options: of the standard.
        max_megapixels: a larger frame is not decoded.
        stem: new name of the file, by which one without a SOPInstanceUID is told from others.

    Raises:
        UnreadableImage: without a picture, damaged, of a kind that cannot be cleaned, or one that would be displayed
            otherwise afterwards.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            original = pydicom.dcmread(io.BytesIO(data), force=True)
            removed = dicom_findings(original, believe=False)
            _refuse(original, max_megapixels)
        except UnreadableImage:
            raise
        except Exception as error:
            raise UnreadableImage(
                f"a DICOM file without a picture, or with a damaged header ({_name(error)})"
            ) from None
        try:
            raw, photometric = _decoded(original)
        except Exception as error:
            raise UnreadableImage(f"a DICOM file whose pixels cannot be decoded ({_name(error)})") from None
        before = raw.copy()
        names = _identifiers(original) | _words(patient)
        boxes = find(_views(raw, photometric, original), names)
        frames = raw if _frames(original) > 1 else raw[None]
        for frame in frames:
            fill(frame, boxes)
        cleaned = _kept(original, linkage, patient, options, names)
        if not cleaned.get("SOPInstanceUID"):
            own = str(original.file_meta.get("MediaStorageSOPInstanceUID", ""))
            cleaned.SOPInstanceUID = linkage.uid(own or f"SOPInstanceUID of {stem or hashlib.sha256(data).hexdigest()}")
        _say_so(cleaned, linkage, patient, options)
        kept_stream = None if boxes else _stripped_stream(original)
        if kept_stream is None:
            _store_native(cleaned, raw, photometric)
            syntax = ExplicitVRLittleEndian
        else:
            cleaned.PixelData, syntax = kept_stream
            cleaned["PixelData"].VR = "OB"
            cleaned["PixelData"].is_undefined_length = True
        out = _written(cleaned, syntax)
        again, _ = _decoded(pydicom.dcmread(io.BytesIO(out)))
    if not np.array_equal(again, raw) or not _only_boxes_differ(before, raw, boxes, _frames(original)):
        raise UnreadableImage("its pixels cannot be stored without a change")
    refuse_other_display(
        data, out, boxes, lambda: _with_pixels(original, raw, photometric), max_megapixels=max_megapixels
    )
    return Cleaned(out, ".dcm", tuple(boxes), removed, _views(raw, photometric, original)[0])


def _name(error: Exception) -> str:
    return type(error).__name__


def _frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _refuse(dataset: FileDataset, max_megapixels: float) -> None:
    sop_class = str(dataset.get("SOPClassUID", ""))
    if sop_class == WHOLE_SLIDE_SOP_CLASS:
        raise UnreadableImage(SLIDE)
    if "EncapsulatedDocument" in dataset:
        raise UnreadableImage("a document wrapped in DICOM: its pages are not looked into")
    if "PixelData" not in dataset:
        raise UnreadableImage("a DICOM file without a picture")
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), _frames(dataset)
    if rows * columns > max_megapixels * 1e6 or frames < 1:
        raise UnreadableImage("a picture larger than scan.max_megapixels")
    if rows * columns * frames * int(dataset.get("SamplesPerPixel", 1)) * int(dataset.BitsAllocated) > _LARGEST_BITS:
        raise UnreadableImage("a DICOM file whose frames together do not fit in memory: split it first")
    bits, high = int(dataset.BitsStored), int(dataset.get("HighBit", int(dataset.BitsStored) - 1))
    if high != bits - 1:
        raise UnreadableImage("a DICOM file whose pixels share their bits with something else (HighBit)")


def _decoded(dataset: FileDataset) -> tuple[NDArray[Any], str]:
    """Stored values of all frames, as the decoder gives them, without a conversion of colours."""
    if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    pixels, described = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, raw=True)
    photometric = str(described["photometric_interpretation"])
    return np.array(pixels), photometric.removesuffix("_422")  # decoded, each pixel has its own colour


def _views(raw: NDArray[Any], photometric: str, dataset: Dataset) -> list[NDArray[np.uint8]]:
    """RGB views in which text may be seen: some frames, and the brightest and darkest value of each pixel over all."""
    frames = raw if _frames(dataset) > 1 else raw[None]
    sampled = np.unique(np.linspace(0, len(frames) - 1, _SAMPLED_FRAMES).astype(int))
    chosen = [frames[i] for i in sampled]
    if len(frames) > 1 and photometric != "PALETTE COLOR":
        chosen += [frames.max(axis=0), frames.min(axis=0)]
    return [view for frame in chosen for view in _shown(frame, photometric, dataset)]


def _shown(frame: NDArray[Any], photometric: str, dataset: Dataset) -> list[NDArray[np.uint8]]:
    if photometric == "PALETTE COLOR":
        frame = apply_color_lut(frame, dataset)
        frame = (frame >> 8 if frame.dtype == np.uint16 else frame)[:, :, :3]
    elif photometric.startswith("YBR") and frame.ndim == 3:
        frame = convert_color_space(frame, "YBR_FULL", "RGB")
    if frame.ndim == 3 and frame.dtype in (np.uint8, np.uint16):
        wide = frame if frame.dtype == np.uint8 else frame >> max(0, int(dataset.BitsStored) - 8)
        return [np.ascontiguousarray(wide.astype(np.uint8))]
    return stretched_views(frame)


def _with_pixels(original: FileDataset, raw: NDArray[Any], photometric: str) -> bytes:
    """All of the original header that decides how it is displayed, unfiltered, with the masked pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masked = Dataset()
        for tag in original.keys():  # noqa: SIM118 - a dataset iterates over elements, and converts each
            if tag.group in _DISPLAY_GROUPS:
                masked.add(original[tag])
        _store_native(masked, raw, photometric)
        masked.preamble = b"\0" * 128
        masked.file_meta = FileMetaDataset()
        masked.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        out = io.BytesIO()
        try:
            pydicom.dcmwrite(out, masked, implicit_vr=False, little_endian=True, force_encoding=True)
        except Exception as error:
            raise UnreadableImage(f"a DICOM file with a damaged header ({_name(error)})") from None
    return out.getvalue()


def _identifiers(dataset: Dataset) -> set[str]:
    """Words of names and ids in the file itself: a kept text that holds one of them goes after all."""
    found: set[str] = set()
    for element in dataset.iterall():
        by_name = element.VR == "PN" or element.keyword in {
            "PatientID", "OtherPatientIDs", "AccessionNumber", "IssuerOfPatientID", "PatientTelephoneNumbers",
            "PatientAddress", "InstitutionName", "MedicalRecordLocator", "AdmissionID", "StudyID",
        }  # fmt: skip
        if by_name and element.value:
            found |= _words(str(element.value))
    return found


def _words(identifier: str) -> set[str]:
    """An identifier, its words, and itself without what divides them; short ones stand anywhere by chance."""
    whole = plain_text(identifier)
    return {word for word in (whole, *whole.split(), whole.replace(" ", "")) if len(word) >= 4}


def _kept(source: Dataset, linkage: Linkage, patient: str, options: DicomOptions, identifiers: set[str]) -> Dataset:
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
            items = [_kept(item, linkage, patient, options, identifiers) for item in element.value if _public(item)]
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


def _say_so(dataset: Dataset, linkage: Linkage, patient: str, options: DicomOptions) -> None:
    """The attributes that PS3.15 E.1.1 asks for."""
    research_id = linkage.patients[patient]
    dataset.PatientID, dataset.PatientName = research_id, research_id
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Pellucid: attributes kept by list, UIDs and dates by key"
    used = ["113100"] + ["113101"] * options.pixels_read + ["113107"] * options.dates
    used += ["113108"] * options.retain_patient + ["113109"] * options.retain_device
    codes = []
    for value in used:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", _CODES[value]
        codes.append(code)
    dataset.DeidentificationMethodCodeSequence = DicomSequence(codes)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if options.dates else "REMOVED"
    if options.pixels_read:
        dataset.BurnedInAnnotation = "NO"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            setattr(dataset, keyword, linkage.uid(f"{keyword} of {patient}"))
    dataset.SpecificCharacterSet = "ISO_IR 192"


def _store_native(dataset: Dataset, raw: NDArray[Any], photometric: str) -> None:
    samples = raw.shape[-1] if int(dataset.get("SamplesPerPixel", 1)) > 1 else 1
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = samples
    dataset.BitsAllocated = raw.dtype.itemsize * 8
    dataset.HighBit = int(dataset.BitsStored) - 1
    if samples > 1:
        dataset.PlanarConfiguration = 0
    plain = raw.astype(raw.dtype.newbyteorder("<"), copy=False).tobytes()
    vr = "OB" if raw.dtype.itemsize == 1 else "OW"
    dataset.add(DataElement(0x7FE00010, vr, plain + b"\0" * (len(plain) % 2)))


def _stripped_stream(dataset: FileDataset) -> tuple[bytes, pydicom.uid.UID] | None:
    """Compressed pixels with clean streams; None where they are better stored anew, uncompressed."""
    syntax = dataset.file_meta.TransferSyntaxUID
    jpeg = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
            "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}  # fmt: skip
    wavelet = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"}
    if syntax not in jpeg | wavelet:
        return None
    strip = strip_jpeg if syntax in jpeg else strip_jpeg2000
    try:
        return encapsulate(list(_clean_frames(dataset, strip))), syntax
    except ValueError:
        return None


def _clean_frames(dataset: FileDataset, strip: Any) -> Iterator[bytes]:
    for frame in generate_frames(dataset.PixelData, number_of_frames=_frames(dataset)):
        clean = strip(frame)
        yield clean + b"\0" * (len(clean) % 2)


def _written(dataset: Dataset, syntax: pydicom.uid.UID) -> bytes:
    """A file with a zeroed preamble and a file meta group of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    dataset.file_meta = meta
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _only_boxes_differ(before: NDArray[Any], after: NDArray[Any], boxes: Sequence[Box], frames: int) -> bool:
    first = 1 if frames > 1 else 0
    outside = np.ones(before.shape[first : first + 2], bool)
    for x, y, w, h in boxes:
        outside[y : y + h, x : x + w] = False
    pick: Any = (slice(None), outside) if frames > 1 else outside
    return bool(np.array_equal(before[pick], after[pick]))
