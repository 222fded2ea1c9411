"""One DICOM file: what stays of header and pixels, and what is refused."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pydicom
import pytest

from pellucid.cohort.deidentify.dicom import dicom_attributes
from pellucid.cohort.deidentify.dicom.dicom_files import clean_dicom
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.identifiers.findings import dicom_findings
from pellucid.cohort.readers import UnreadableImage, read_image
from tests.cohort.deidentify.small_files import ct, nothing, shipped


def cleaned(data: bytes, key: Linkage, options: DicomOptions | None = None) -> pydicom.FileDataset:
    result = clean_dicom(data, nothing, key, "17", options or DicomOptions(), max_megapixels=10)
    return pydicom.dcmread(io.BytesIO(result.data))


def test_what_stays_of_a_dicom_header_has_no_action_in_the_basic_profile() -> None:
    for group in (
        dicom_attributes.KEPT,
        dicom_attributes.UIDS,
        dicom_attributes.DATES,
        dicom_attributes.PATIENT,
        dicom_attributes.EMPTY,
    ):
        assert dicom_attributes.tags(group)
    kept = dicom_attributes.tags(dicom_attributes.KEPT)
    # PS3.15 Table E.1-1, the attributes that are most often filled in
    listed = (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientBirthTime",
        "OtherPatientIDs",
        "OtherPatientNames",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientComments",
        "EthnicGroup",
        "Occupation",
        "AdditionalPatientHistory",
        "AccessionNumber",
        "StudyID",
        "ReferringPhysicianName",
        "PerformingPhysicianName",
        "OperatorsName",
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "StationName",
        "DeviceSerialNumber",
        "StudyDescription",
        "SeriesDescription",
        "ProtocolName",
        "ImageComments",
        "PatientInsurancePlanCodeSequence",
        "RequestAttributesSequence",
        "OriginalAttributesSequence",
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "AcquisitionDateTime",
        "StudyTime",
        "SeriesTime",
        "AcquisitionTime",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "FrameOfReferenceUID",
        "DerivationDescription",
        "PerformedProcedureStepDescription",
        "RequestedProcedureDescription",
        "GantryID",
        "DetectorID",
        "IconImageSequence",
        "ContrastBolusAgent",
        "AcquisitionComments",
        "DeviceUID",
        "TimezoneOffsetFromUTC",
        "PatientState",
        "PregnancyStatus",
    )
    assert kept.isdisjoint(dicom_attributes.tags(listed))


def test_dicom_pixels_geometry_and_make_stay_and_the_patient_goes(key: Linkage) -> None:
    data = ct()
    before, after = pydicom.dcmread(io.BytesIO(data)), cleaned(data, key)
    np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
    for name in ("Modality", "Manufacturer", "ManufacturerModelName", "PixelSpacing", "KVP", "SliceThickness",
                 "ImagePositionPatient", "RescaleIntercept", "PatientSex"):  # fmt: skip
        assert after[name].value == before[name].value
    assert after.PatientName == after.PatientID == "PABC"
    assert after.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in after.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108"]
    assert dicom_findings(after) == ()
    assert dicom_findings(before) != ()
    assert not any(element.tag.is_private for element in after.iterall())


def test_uids_are_remapped_consistently_and_those_of_the_standard_stay(key: Linkage) -> None:
    data = ct()
    before, one = pydicom.dcmread(io.BytesIO(data)), cleaned(data, key)
    two = cleaned(ct(SOPInstanceUID="1.2.3.4", InstanceNumber=2), key)
    assert one.StudyInstanceUID == two.StudyInstanceUID != before.StudyInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID.startswith("2.25.")
    assert len(one.StudyInstanceUID) <= 64
    assert one.SOPClassUID == before.SOPClassUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = before.SOPClassUID, "1.2.3.4"
    three = cleaned(ct(SourceImageSequence=pydicom.Sequence([reference])), key)
    assert three.SourceImageSequence[0].ReferencedSOPInstanceUID == two.SOPInstanceUID


def test_dates_of_a_patient_are_shifted_together_and_intervals_are_kept(key: Linkage) -> None:
    one = cleaned(ct(StudyDate="20200228", SeriesDate="20200301", AcquisitionTime="101112"), key)
    days = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (one.StudyDate, one.SeriesDate)]
    assert days[1] - days[0] == np.timedelta64(2, "D")
    assert days[0] - np.datetime64("2020-02-28") == np.timedelta64(key.shift_days("17"), "D")
    assert "AcquisitionTime" not in one
    removed = cleaned(ct(StudyDate="20200228"), key, DicomOptions(dates=False))
    assert removed.StudyDate == ""
    assert removed.LongitudinalTemporalInformationModified == "REMOVED"


def test_the_device_keeps_its_identity_only_if_asked(key: Linkage) -> None:
    data = ct(StationName="CT01_HOSP", DeviceSerialNumber="4711")
    hidden, same = cleaned(data, key), cleaned(ct(StationName="CT01_HOSP", DeviceSerialNumber="4712"), key)
    assert hidden.StationName == same.StationName != "CT01_HOSP"  # pictures of one device still belong together
    assert hidden.DeviceSerialNumber != same.DeviceSerialNumber
    assert cleaned(data, key, DicomOptions(retain_device=True)).StationName == "CT01_HOSP"
    without = cleaned(ct(PatientAge="061Y"), key, DicomOptions(retain_patient=False))
    assert "PatientSex" not in without
    assert cleaned(ct(PatientAge="097Y"), key).PatientAge == "090Y"


@pytest.mark.parametrize(
    "name",
    [
        "JPEG2000.dcm",
        "MR_small_expb.dcm",
        "SC_rgb_rle.dcm",
        "image_dfl.dcm",
        "ExplVR_BigEnd.dcm",
        "examples_palette.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
        "examples_jpeg2k.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "GDCMJ2K_TextGBR.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_rle_16bit_2frame.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n2.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "rtdose_rle.dcm",
        "liver_1frame.dcm",
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_pixels_of_every_coding_stay_exact_outside_the_boxes(key: Linkage, name: str, masked: bool) -> None:
    path = shipped(name)
    before = pydicom.dcmread(path, force=True)
    if not hasattr(before, "file_meta") or "TransferSyntaxUID" not in before.file_meta:
        before.file_meta = pydicom.dataset.FileMetaDataset()
        before.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    box = (2, 3, 20, 8) if before.Columns > 40 else (0, 1, 2, 1)
    result = clean_dicom(
        path.read_bytes(),
        (lambda v, n=(): [box]) if masked else nothing,
        key,
        "17",
        DicomOptions(),
        max_megapixels=50,
    )
    after = pydicom.dcmread(io.BytesIO(result.data))
    old, new = before.pixel_array, after.pixel_array
    assert old.shape == new.shape
    outside = np.ones((before.Rows, before.Columns), bool)
    if masked:
        x, y, w, h = box
        outside[y : y + h, x : x + w] = False
    pick = (slice(None), outside) if int(before.get("NumberOfFrames", 1) or 1) > 1 else outside
    np.testing.assert_array_equal(new[pick], old[pick])


def test_documents_and_files_without_a_picture_are_refused(key: Linkage) -> None:
    with pytest.raises(UnreadableImage, match="a document wrapped in DICOM"):
        cleaned(ct(EncapsulatedDocument=b"%PDF"), key)
    with pytest.raises(UnreadableImage, match="a whole slide: its label"):
        cleaned(ct(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6"), key)
    with pytest.raises(UnreadableImage, match="without a picture"):
        cleaned(shipped("reportsi.dcm").read_bytes(), key)


def test_text_on_one_frame_is_masked_on_all(key: Linkage) -> None:
    before = pydicom.dcmread(shipped("MR_small.dcm"))
    frames = np.repeat(before.pixel_array[None], 9, axis=0)
    before.NumberOfFrames = len(frames)
    stamp = np.zeros(frames.shape[1:], np.uint8)
    cv2.putText(stamp, "XY", (5, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    frames[3][stamp > 0] = frames.max()
    before.PixelData = frames.tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, before)
    seen: list[int] = []

    def find(views: list[np.ndarray], names: object = ()) -> list[tuple[int, int, int, int]]:
        hits = [view for view in views if (view[stamp > 0] > 250).mean() > 0.9]
        seen.append(len(hits))
        return [(2, 8, 40, 26)] if hits else []

    result = clean_dicom(out.getvalue(), find, key, "17", DicomOptions(), max_megapixels=1)
    assert seen[0] >= 1
    now = pydicom.dcmread(io.BytesIO(result.data)).pixel_array
    assert all(len(np.unique(frame[8:34, 2:42])) == 1 for frame in now)


def test_a_number_that_is_also_an_id_stays_where_it_decides_how_the_picture_looks(key: Linkage) -> None:
    data = ct(PatientID="1024", RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400, SeriesNumber=1024)
    for find in (nothing, lambda v, n=(): [(2, 3, 20, 8)]):
        result = clean_dicom(data, find, key, "17", DicomOptions(), max_megapixels=10)
        assert pydicom.dcmread(io.BytesIO(result.data)).RescaleIntercept == -1024
        then, now = read_image(data).pixels, read_image(result.data).pixels
        assert then.std() > 1  # not all white
        outside = np.ones(then.shape[:2], bool)
        if result.boxes:
            outside[3:11, 2:22] = False
        np.testing.assert_array_equal(now[outside], then[outside])


def test_a_file_that_would_be_displayed_otherwise_is_refused(key: Linkage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_attributes, "KEPT", tuple(k for k in dicom_attributes.KEPT if k != "RescaleIntercept"))
    with pytest.raises(UnreadableImage, match="it would be displayed otherwise"):
        cleaned(ct(WindowCenter=40, WindowWidth=400), key)


def test_every_file_without_a_uid_gets_one_of_its_own(key: Linkage) -> None:
    dataset = pydicom.dcmread(shipped("CT_small.dcm"))
    media = dataset.file_meta.MediaStorageSOPInstanceUID
    del dataset.SOPInstanceUID
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    uids = set()
    for stem in ("P/P-0001", "P/P-0002"):
        bare = pydicom.dcmread(io.BytesIO(out.getvalue()))
        assert cleaned(out.getvalue(), key).SOPInstanceUID == key.uid(media)
        del bare.file_meta.MediaStorageSOPInstanceUID
        plain = io.BytesIO()
        pydicom.dcmwrite(plain, bare)
        result = clean_dicom(plain.getvalue(), nothing, key, "17", DicomOptions(), max_megapixels=10, stem=stem)
        uids.add(pydicom.dcmread(io.BytesIO(result.data)).SOPInstanceUID)
    assert len(uids) == 2


@pytest.mark.parametrize("lost", [8, 10])
def test_a_compressed_file_without_its_delimiter_is_copied_whole(key: Linkage, lost: int) -> None:
    data = shipped("JPEG2000.dcm").read_bytes()
    end = data.rindex(b"\xfe\xff\xdd\xe0")
    assert np.array_equal(cleaned(data[:end], key).pixel_array, pydicom.dcmread(io.BytesIO(data)).pixel_array)
    with pytest.raises(UnreadableImage):
        cleaned(data[: end - lost * 20], key)
