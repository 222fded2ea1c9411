"""One DICOM file → the same picture with only the attributes of `dicom_attributes.py`: PS3.15 Annex E, by a list of
what stays."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian

from pellucid.cohort.deidentify.dicom.colour_tables import clear_unused_entries
from pellucid.cohort.deidentify.dicom.dicom_display_check import refuse_other_display
from pellucid.cohort.deidentify.dicom.dicom_headers import (
    DicomOptions,
    identifiers_in,
    kept_header,
    state_cleaning,
)
from pellucid.cohort.deidentify.dicom.dicom_views import (
    first_view,
    frames_of,
    number_of_frames,
    search_views,
    sheet_views,
)
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.raster_files import SLIDE, Cleaned, FindBoxes
from pellucid.cohort.deidentify.streams.coded_tails import unused_tail
from pellucid.cohort.deidentify.streams.jpeg_segments import scan_ends, strip_jpeg, strip_jpeg2000, tile_ends
from pellucid.cohort.deidentify.streams.jpeg_tables import needed_tables
from pellucid.cohort.deidentify.text_masking import fill
from pellucid.cohort.identifiers.findings import dicom_findings, tags_in
from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.readers import UnreadableImage
from pellucid.cohort.readers.cut_pixel_data import reparsed
from pellucid.cohort.readers.dicom_pixel_module import low_bits
from pellucid.cohort.readers.whole_slide import WHOLE_SLIDE_SOP_CLASS

_DISPLAY_GROUPS = frozenset({0x0008, 0x0020, 0x0028, 0x0048, 0x2050, 0x5200})
_MOST_SEGMENTS = 16  # coded segments of a frame, each of which is decoded once more
_LARGEST_BITS = 8 * 2**30  # of all frames together, decoded: four copies of them are held


def clean_dicom(
    data: bytes,
    find: FindBoxes,
    linkage: Linkage,
    patient: str,
    options: DicomOptions,
    *,
    max_megapixels: float,
    stem: str = "",
    known: Identifiers | None = None,
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
        known: what the table and the path say of the patient; compared with all texts that may stay.

    Raises:
        UnreadableImage: without a picture, damaged, of a kind that cannot be cleaned, or one that would be displayed
            otherwise afterwards.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            original = _read(data)
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
        cleared = _without_unused_bits(raw, original)
        tampered, raw = not np.array_equal(raw, cleared), cleared
        before = raw.copy()
        names = identifiers_in(original).also(known or Identifiers.of([patient]))
        boxes = find(search_views(raw, photometric, original), names.readable)
        for frame in frames_of(raw, original):
            fill(frame, boxes)
        cleaned = kept_header(original, linkage, patient, options, names)
        if not cleaned.get("SOPInstanceUID"):
            own = str(original.file_meta.get("MediaStorageSOPInstanceUID", ""))
            cleaned.SOPInstanceUID = linkage.uid(own or f"SOPInstanceUID of {stem or hashlib.sha256(data).hexdigest()}")
        state_cleaning(cleaned, linkage, patient, options)
        clear_unused_entries(cleaned, raw, photometric)
        kept_stream = None if boxes or tampered else _stripped_stream(original, raw)
        if kept_stream is None:
            _store_native(cleaned, raw, photometric)
            syntax = ExplicitVRLittleEndian
        else:
            cleaned.PixelData, syntax = kept_stream
            cleaned["PixelData"].VR = "OB"
            cleaned["PixelData"].is_undefined_length = True
        out = _written(cleaned, syntax)
        again, _ = _decoded(pydicom.dcmread(io.BytesIO(out)))
        preview, sheet = first_view(raw, photometric, original), sheet_views(raw, photometric, original)
    if not np.array_equal(again, raw) or not _only_boxes_differ(before, raw, boxes, number_of_frames(original)):
        raise UnreadableImage("its pixels cannot be stored without a change")
    with_pixels = _with_pixels(original, before, photometric) if tampered else data
    refuse_other_display(
        with_pixels, out, boxes, lambda: _with_pixels(original, raw, photometric), max_megapixels=max_megapixels
    )
    return Cleaned(out, ".dcm", tuple(boxes), removed, preview, sheet)


def _read(data: bytes) -> FileDataset:
    """The dataset; also of a file that lacks only the delimiter behind its last frame."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if any(name in dataset for name in ("PixelData", "EncapsulatedDocument")):
        return dataset
    whole, frames = reparsed(data)
    return whole if frames and len(frames) == number_of_frames(whole) else dataset


def dicom_sheet(data: bytes) -> tuple[NDArray[np.uint8], ...]:
    """What a reviewer sees of a cleaned file; see `sheet_views`.

    Raises:
        UnreadableImage: it cannot be displayed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(data))
            return sheet_views(*_decoded(dataset), dataset)
        except UnreadableImage:
            raise
        except Exception as error:
            raise UnreadableImage(f"a DICOM file whose pixels cannot be decoded ({_name(error)})") from None


def _without_unused_bits(raw: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Values with nothing above BitsStored: what a codec carries there may be the letters of an overlay."""
    return low_bits(raw, int(dataset.BitsStored)) if raw.dtype.kind in "iu" else raw


def _name(error: Exception) -> str:
    return type(error).__name__


def _refuse(dataset: FileDataset, max_megapixels: float) -> None:
    sop_class = str(dataset.get("SOPClassUID", ""))
    if sop_class == WHOLE_SLIDE_SOP_CLASS:
        raise UnreadableImage(SLIDE)
    if "EncapsulatedDocument" in dataset:
        raise UnreadableImage("a document wrapped in DICOM: its pages are not looked into")
    if "PixelData" not in dataset:
        raise UnreadableImage("a DICOM file without a picture")
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), number_of_frames(dataset)
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


def _with_pixels(original: FileDataset, raw: NDArray[Any], photometric: str) -> bytes:
    """All of the original header that decides how it is displayed, unfiltered, with the masked pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masked = _copied(original, _DISPLAY_GROUPS)
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


def _copied(dataset: Dataset, groups: frozenset[int]) -> Dataset:
    """The elements of some groups, each a new one, so that changing it does not change the original."""
    out = Dataset()
    for tag in tags_in(dataset):
        if tag.group in groups:
            out.add(DataElement(tag, dataset[tag].VR, dataset[tag].value))
    return out


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


def _stripped_stream(dataset: FileDataset, raw: NDArray[Any]) -> tuple[bytes, pydicom.uid.UID] | None:
    """Compressed pixels with clean streams; None if they must be stored uncompressed instead."""
    syntax = dataset.file_meta.TransferSyntaxUID
    jpeg = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
            "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}  # fmt: skip
    wavelet = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"}
    if syntax not in jpeg | wavelet:
        return None
    frames = frames_of(raw, dataset)
    clean = []
    try:
        streams = generate_frames(dataset.PixelData, number_of_frames=len(frames))
        for stream, pixels in zip(streams, frames, strict=True):
            if syntax in jpeg:
                bare = needed_tables(strip_jpeg(stream)) or b""
                ends = scan_ends(bare) if bare else None
            else:
                bare = strip_jpeg2000(stream)
                ends = tile_ends(bare)
            if ends is None or len(ends) > _MOST_SEGMENTS:
                return None
            if unused_tail(bare, ends, _decodes_to(dataset, pixels), n_bytes=2 if syntax in jpeg else 4):
                return None
            clean.append(bare + b"\0" * (len(bare) % 2))
        return encapsulate(clean), syntax
    except (ValueError, IndexError, struct.error):
        return None


def _decodes_to(dataset: FileDataset, pixels: NDArray[Any]) -> Callable[[bytes], bool]:
    """Whether a stream decodes to these pixels; one that cannot be decoded does not."""
    one = _copied(dataset, frozenset({0x0028}))
    one.file_meta = dataset.file_meta
    one.NumberOfFrames = 1

    def same(stream: bytes) -> bool:
        one.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
        try:
            decoded, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(one, raw=True)
        except Exception:
            return False
        return np.array_equal(decoded, pixels)

    return same


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
