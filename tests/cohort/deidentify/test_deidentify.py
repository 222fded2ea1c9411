"""De-identification: where the linkage file may lie, what is refused, what continues, and what stays of a header."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from pellucid.cohort.deidentify import deidentify_study, raster_files
from pellucid.cohort.deidentify.cleaning_settings import CleaningSettings
from pellucid.cohort.deidentify.date_columns import moved, order_of
from pellucid.cohort.deidentify.dicom import dicom_attributes
from pellucid.cohort.deidentify.dicom.dicom_files import clean_dicom
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.personal_columns import capped_ages, is_age, is_personal
from pellucid.cohort.deidentify.precheck import pass_gate
from pellucid.cohort.deidentify.raster_files import clean_raster, clean_tiff
from pellucid.cohort.deidentify.streams.icc_profiles import rebuilt_profile
from pellucid.cohort.deidentify.streams.jpeg_segments import strip_jpeg, strip_jpeg2000
from pellucid.cohort.deidentify.text_masking import TextFinder, fill
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers import ocr
from pellucid.cohort.identifiers.findings import dicom_findings
from pellucid.cohort.identifiers.ocr import TextBox, TextReader
from pellucid.cohort.readers import UnreadableImage, read_image
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study

ROOT = Path(__file__).resolve().parents[3]


def nothing(views: object, names: object = ()) -> list[tuple[int, int, int, int]]:
    return []


@pytest.fixture
def study(own_phantom: Path) -> Study:
    return load_study(own_phantom, ["scan.workers=1"])


@pytest.fixture
def key(tmp_path: Path) -> Linkage:
    return Linkage(tmp_path / "none", "s", "i", bytes(range(32)), {"17": "PABC"})


def again(study: Study, tmp_path: Path) -> object:
    return deidentify_study(study, tmp_path / "out", tmp_path / "linkage.json", text="lines", progress=False)


# --- the linkage file


@pytest.mark.parametrize("where", ["study", "images", "analysis", "out", "link"])
def test_a_linkage_file_that_would_travel_with_the_study_is_refused(study: Study, tmp_path: Path, where: str) -> None:
    folder = study.path.parent
    (tmp_path / "out").mkdir()
    (folder / "analysis").mkdir(exist_ok=True)
    (tmp_path / "elsewhere").symlink_to(folder)
    place = {
        "study": folder / "linkage.json",
        "images": study.image_root / "linkage.json",
        "analysis": study.analysis / "linkage.json",
        "out": tmp_path / "out" / "linkage.json",
        "link": tmp_path / "elsewhere" / "linkage.json",
    }[where]
    with pytest.raises(
        UserError, match=r"the linkage file may not lie in .*anybody who receives that folder could identify"
    ):
        deidentify_study(study, tmp_path / "out", place, text="lines", progress=False)
    assert not place.exists()


def test_a_linkage_file_is_for_its_owner_alone(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)
    linkage = tmp_path / "linkage.json"
    assert stat.S_IMODE(linkage.stat().st_mode) == 0o600
    linkage.chmod(0o640)
    with pytest.raises(UserError, match="others can read or change this linkage file \\(mode 0640\\)"):
        again(study, tmp_path)


def test_a_linkage_file_of_another_study_is_refused(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(study.path.parent, other)
    with pytest.raises(UserError, match="belongs to another study"):
        deidentify_study(load_study(other), tmp_path / "out2", tmp_path / "linkage.json", text="lines", progress=False)


def test_another_file_is_not_taken_for_a_linkage_file(study: Study, tmp_path: Path) -> None:
    file = tmp_path / "linkage.json"
    file.write_text("{}")
    file.chmod(0o600)
    with pytest.raises(UserError, match="is not a linkage file of Pellucid"):
        again(study, tmp_path)
    assert file.read_text() == "{}"


def test_ids_follow_the_key_and_nothing_else(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)
    first = json.loads((tmp_path / "linkage.json").read_text())
    shutil.rmtree(tmp_path / "out")
    again(study, tmp_path)
    assert json.loads((tmp_path / "linkage.json").read_text()) == first
    deidentify_study(study, tmp_path / "out2", tmp_path / "second.json", text="lines", progress=False)
    second = json.loads((tmp_path / "second.json").read_text())
    ids = [{entry["research_id"] for entry in content["patients"].values()} for content in (first, second)]
    assert len(ids[0]) == len(first["patients"])
    assert ids[0].isdisjoint(ids[1])  # another key, other ids: without the key an id cannot be computed
    assert all(-365 <= entry["shift_days"] <= -1 for entry in first["patients"].values())
    with pytest.raises(UserError, match="was made with another linkage file"):
        deidentify_study(study, tmp_path / "out", tmp_path / "second.json", text="lines", progress=False)


# --- the output


def test_the_output_is_a_study_of_the_same_images_and_patients(study: Study, tmp_path: Path) -> None:
    done = again(study, tmp_path)
    assert not done.already_done
    out = tmp_path / "out"
    before = scan(study, progress=False).read_json("source.json")
    copied = load_study(out, [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"])
    after = scan(copied, progress=False).read_json("source.json")
    assert (after["n_images"], after["n_patients"]) == (before["n_images"], before["n_patients"])
    assert [v.name for v in copied.variables] == [v.name for v in study.variables]
    assert verify(out) == []
    assert again(study, tmp_path).already_done


def test_an_output_that_is_not_ours_is_left_alone(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and not made by"):
        again(study, tmp_path)
    with pytest.raises(UserError, match="the output may not lie in the folder of the images"):
        deidentify_study(study, study.image_root / "out", tmp_path / "linkage.json", progress=False)


def test_files_that_leave_the_study_leave_the_output(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)
    names = json.loads((tmp_path / "linkage.json").read_text())["files"]
    gone = sorted(p for p in study.image_root.rglob("*.jpg"))[0]
    stem = names[gone.relative_to(study.image_root).as_posix()]
    assert list((tmp_path / "out" / "raw").glob(f"{stem}.*"))
    gone.unlink()
    done = again(study, tmp_path)
    assert not done.already_done
    assert not list((tmp_path / "out" / "raw").glob(f"{stem}.*"))
    assert stem not in (tmp_path / "out" / "clinical.csv").read_text()
    assert json.loads((tmp_path / "linkage.json").read_text())["files"] == names


def test_unreadable_files_are_not_copied_and_are_listed_without_their_name(study: Study, tmp_path: Path) -> None:
    (study.image_root / "Musterfrau_Erika.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    done = again(study, tmp_path)
    stem = json.loads((tmp_path / "linkage.json").read_text())["files"]["Musterfrau_Erika.jpg"]
    assert done.refused >= 1
    assert not list((tmp_path / "out" / "raw").glob(f"{stem}.*"))
    sheet = (tmp_path / "out" / "review.html").read_text()
    assert stem in sheet
    assert "Musterfrau" not in sheet


def test_a_declared_column_that_names_people_is_refused(own_phantom: Path, tmp_path: Path) -> None:
    table = own_phantom / "clinical.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",last_name", *(line + ",Meier" for line in lines[1:])]) + "\n")
    study = load_study(own_phantom, ["clinical.last_name=categorical", "scan.workers=1"])
    with pytest.raises(UserError, match="the column `last_name` looks like names"):
        again(study, tmp_path)


def test_a_killed_call_is_continued_to_the_same_end(study: Study, tmp_path: Path) -> None:
    again(study, tmp_path)  # the undisturbed one
    whole = sums(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    code = (
        "import sys; from pathlib import Path; from pellucid.cohort.study import load_study; "
        "from pellucid.cohort.deidentify import deidentify_study; "
        "deidentify_study(load_study(Path(sys.argv[1]), ['scan.workers=1']), Path(sys.argv[2]), Path(sys.argv[3]), "
        "text='lines', progress=False)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, study.path, tmp_path / "out", tmp_path / "linkage.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log = tmp_path / "out" / ".deidentify" / "records.jsonl"
    while child.poll() is None and (not log.is_file() or log.read_bytes().count(b"\n") < 3):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert log.is_file()
    finished = (tmp_path / "out" / "SHA256SUMS").exists()
    assert not again(study, tmp_path).already_done or finished
    assert sums(tmp_path / "out") == whole
    assert not list((tmp_path / "out").rglob("*.tmp"))


def sums(out: Path) -> list[str]:
    return sorted(line for line in (out / "SHA256SUMS").read_text().splitlines())


# --- one file


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


def shipped(name: str) -> Path:
    """One of the files that lie in pydicom itself; nothing is fetched."""
    return Path(pydicom.data.__file__).parent / "test_files" / name


def ct(**values: object) -> bytes:
    dataset = pydicom.dcmread(shipped("CT_small.dcm"))
    for name, value in values.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset)
    return out.getvalue()


def cleaned(data: bytes, key: Linkage, options: DicomOptions | None = None) -> pydicom.FileDataset:
    result = clean_dicom(data, nothing, key, "17", options or DicomOptions(), max_megapixels=10)
    return pydicom.dcmread(io.BytesIO(result.data))


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


def photo(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_turned_pictures_stay_turned_and_keep_their_colours(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = orientation, "Dr Meier"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    out = io.BytesIO()
    photo().save(out, kind, exif=exif, icc_profile=profile)
    for find in (nothing, lambda v, n=(): [(5, 5, 10, 6)]):
        result = clean_raster(out.getvalue(), kind.lower(), find, max_megapixels=1)
        now = Image.open(io.BytesIO(result.data))
        before = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue()))))
        shown = np.asarray(ImageOps.exif_transpose(now))
        outside = np.ones(before.shape[:2], bool)
        if result.boxes:
            outside[5:11, 5:15] = False
        np.testing.assert_array_equal(shown[outside], before[outside])
        assert b"Meier" not in result.data
        assert rebuilt_profile(profile) == now.info.get("icc_profile") != profile
        assert (result.suffix == ".png") == (kind != "JPEG" or bool(result.boxes))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_every_kind_of_pixel_survives_a_mask(mode: str) -> None:
    source = photo("L").point(lambda v: v * 257, "I").convert("I;16") if mode == "I;16" else photo(mode)
    out, kind = io.BytesIO(), "JPEG" if mode == "CMYK" else "PNG"
    source.save(out, kind)
    before = Image.open(io.BytesIO(out.getvalue()))
    result = clean_raster(out.getvalue(), kind.lower(), lambda v, n=(): [(5, 5, 10, 6)], max_megapixels=1)
    after = Image.open(io.BytesIO(result.data))
    assert after.mode == before.mode
    outside = np.ones((60, 80), bool)
    outside[5:11, 5:15] = False
    np.testing.assert_array_equal(np.asarray(after)[outside], np.asarray(before)[outside])
    assert len(np.unique(np.asarray(after)[5:11, 5:15].reshape(60, -1), axis=0)) == 1
    if mode == "P":
        np.testing.assert_array_equal(
            np.asarray(after.convert("RGB"))[outside], np.asarray(before.convert("RGB"))[outside]
        )


def test_tiff_keeps_its_pixels_and_no_tag_that_speaks() -> None:
    rng = np.random.default_rng(0)
    pages = rng.integers(0, 4000, (3, 50, 70), dtype=np.uint16)
    out = io.BytesIO()
    tifffile.imwrite(out, pages, photometric="minisblack", description="Erika Musterfrau",
                     datetime="2020:01:02 03:04:05", software="Musterfrau 1", extratags=[(315, "s", 0,
                     "Dr Musterfrau", True)])  # fmt: skip
    for find in (nothing, lambda v, n=(): [(5, 5, 10, 6)]):
        result = clean_tiff(out.getvalue(), find, max_megapixels=1)
        assert b"Musterfrau" not in result.data
        assert b"2020:01" not in result.data
        now = tifffile.imread(io.BytesIO(result.data))
        outside = np.ones((50, 70), bool)
        if result.boxes:
            outside[5:11, 5:15] = False
        np.testing.assert_array_equal(now[:, outside], pages[:, outside])


def test_slides_are_refused(shared_data: Path) -> None:
    data = (shared_data / "format_samples" / "images" / "cmu-1-small-region.svs").read_bytes()
    with pytest.raises(UnreadableImage, match="a whole slide: its label"):
        clean_tiff(data, nothing, max_megapixels=100)


def test_jpeg_2000_comments_go_and_the_picture_stays() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "JPEG2000", no_jp2=True, irreversible=False, comment="Erika Musterfrau")
    data = out.getvalue()
    clean = strip_jpeg2000(data + b"Musterfrau")
    assert b"Musterfrau" in data
    assert b"Musterfrau" not in clean
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(clean))), gray)


@pytest.mark.parametrize("cut", [2, 3, 10, 200, -2])
def test_a_jpeg_that_is_cut_short_is_no_jpeg(cut: int) -> None:
    out = io.BytesIO()
    photo().save(out, "JPEG")
    with pytest.raises(ValueError):
        strip_jpeg(out.getvalue()[:cut])


# --- masks


def test_a_mask_is_one_value_of_its_surroundings() -> None:
    pixels = np.full((30, 40, 3), 7, np.uint8)
    pixels[10:15, 10:30] = 255
    pixels[20, 5] = 200
    fill(pixels, [(8, 8, 24, 9)])
    assert (pixels[8:17, 8:32] == 7).all()
    assert (pixels[20, 5] == 200).all()


def test_only_identifying_text_is_masked_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["MAMA ESQUERDA", "QSE 12 MHz", "MEIER, ERIKA", "Me1er", "04.05.2019", "0012345678", "P 77412"]
    lines = [TextBox((10, 20 * i, 50, 10), text, 0.99) for i, text in enumerate(texts)]
    lines.append(TextBox((10, 200, 50, 10), "blurred", 0.4))
    monkeypatch.setattr(TextReader, "read_text", lambda self, pixels: lines)
    picture = np.zeros((240, 100, 3), np.uint8)
    finder = TextFinder("ocr", "identifying", frozenset({"77412"}))
    masked = {(y + 2) // 20 for _, y, _, _ in finder.boxes([picture], ["Meier^Erika"])}
    assert masked == {2, 3, 4, 5, 6, 10}
    assert len(TextFinder("ocr", "all").boxes([picture], [])) == len(lines)


def test_identifying_needs_text_that_can_be_read(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mask=identifying needs text that can be read"):
        deidentify_study(study, tmp_path / "out", tmp_path / "l.json", text="lines", mask="identifying", progress=False)


@pytest.mark.parametrize("text", ["auto", "ocr"])
def test_without_ocr_only_lines_by_name_are_accepted(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(ocr, "available", lambda: False)
    with pytest.raises(UserError, match=r"ask for text=lines by name: .* misses text of one or two characters"):
        deidentify_study(study, tmp_path / "out", tmp_path / "l.json", text=text, progress=False)
    assert not (tmp_path / "out").exists()


def test_an_odd_file_costs_that_file_by_name_and_reason(tmp_path: Path) -> None:
    long = pydicom.dcmread(shipped("examples_palette.dcm"))
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTableData"
        setattr(long, name, bytes(long[name].value) + b"Erika Musterfrau")
    out = io.BytesIO()
    pydicom.dcmwrite(out, long)
    broken = ct().replace(b"ISO_IR 100", b"ISO_IR 1\xff\xfe")
    surplus = ct() + b"\xfe\xff\xdd\xe0\0\0\0\0" * 2
    files = {"a.png": png(), "long.dcm": out.getvalue(), "broken.dcm": broken, "surplus.dcm": surplus}
    study = small_study(tmp_path / "s", "\n".join(f"{name},PAT_{i}" for i, name in enumerate(files)), files)
    done = again(study, tmp_path)
    assert done.written + done.refused == len(files)
    raw = tmp_path / "out" / "raw"
    assert all(b"Musterfrau" not in path.read_bytes() for path in raw.rglob("*") if path.is_file())
    assert done.written >= 2


def test_an_unexpected_error_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise ZeroDivisionError("Erika Musterfrau")

    study = small_study(tmp_path / "s", "a.png,PAT_1\nb.dcm,PAT_2", {"a.png": png(), "b.dcm": ct()})
    monkeypatch.setattr(raster_files, "strip_png", fails)
    done = again(study, tmp_path)
    assert (done.written, done.refused) == (1, 1)
    sheet = (tmp_path / "out" / "review.html").read_text()
    assert "it cannot be cleaned: an unexpected error in its header or pixels (ZeroDivisionError)" in sheet
    assert "Musterfrau" not in sheet


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


# --- what a stranger tried


def small_study(folder: Path, rows: str, files: dict[str, bytes], *, more: str = "", columns: str = "") -> Study:
    """A study of few files: `rows` are those of its table below `file,pid,…`."""
    (folder / "images").mkdir(parents=True)
    for name, data in files.items():
        (folder / "images" / name).write_bytes(data)
    (folder / "clinical.csv").write_text(f"file,pid{columns}\n{rows}\n", encoding="utf-8")
    (folder / "study.yaml").write_text(
        f"images: images\ntable: clinical.csv\nimage: file\npatient: pid\n{more}scan: {{workers: 1}}\n"
    )
    return load_study(folder)


def png() -> bytes:
    out = io.BytesIO()
    photo("L").save(out, "PNG")
    return out.getvalue()


def multi(n: int = 4) -> bytes:
    before = pydicom.dcmread(shipped("MR_small.dcm"))
    before.PixelData, before.NumberOfFrames = np.repeat(before.pixel_array[None], n, axis=0).tobytes(), n
    out = io.BytesIO()
    pydicom.dcmwrite(out, before)
    return out.getvalue()


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


def test_the_id_of_the_table_drops_a_text_and_image_types_are_terms(tmp_path: Path) -> None:
    key = Linkage(tmp_path / "none", "s", "i", bytes(32), {"MUSTER-77": "PABC"})
    data = ct(PatientID="other", ManufacturerModelName="MUSTER", ImageType=["ORIGINAL", "PRIMARY", "MEIER", "AXIAL"])
    result = clean_dicom(data, nothing, key, "MUSTER-77", DicomOptions(), max_megapixels=10)
    after = pydicom.dcmread(io.BytesIO(result.data))
    assert "ManufacturerModelName" not in after
    assert list(after.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER", "AXIAL"]


def test_an_id_inside_a_declared_column_is_refused_without_being_told(tmp_path: Path) -> None:
    study = small_study(
        tmp_path / "s",
        'a.png,PAT_1122,"Pat. Mustermann, pat 1122",1122\nb.png,PAT_3344,fine,3344',
        {"a.png": png(), "b.png": png()},
        columns=",comment,cells",
        more="clinical: {cells: continuous, comment: categorical}\n",
    )
    with pytest.raises(
        UserError, match=r"the column `comment` holds the id of a patient of the study in 1 row"
    ) as said:
        again(study, tmp_path)
    assert "1122" not in str(said.value)


@pytest.mark.parametrize(
    ("value", "other", "ten_days_before"),
    [
        ("3/17/2019", "1/2/2019", "3/07/2019"),
        ("17/3/2019", "1/2/2019", "07/3/2019"),
        ("05.03.19", "01.02.19", "23.02.19"),
        ("2019-3-5", "2019-4-5", "2019-2-23"),
        ("2019/3/5", "2019/4/5", "2019/2/23"),
        ("25-03-2019", "05-03-2019", "15-03-2019"),
        ("5 Mar 2019", "6 April 2019", "23 Feb 2019"),
        ("05MAR2019", "06APR2019", "23FEB2019"),
        ("20190305101112.5", "20190305", "20190223"),
        ("2019-03-05T10:11:12", "2019-03-05", "2019-02-23"),
    ],
)
def test_dates_are_moved_in_the_form_they_have(value: str, other: str, ten_days_before: str) -> None:
    any_date, order = order_of([value, other])
    assert any_date
    assert moved(value, -10, order) == ten_days_before


@pytest.mark.parametrize(
    "value", ["03/04/2019", "05-03-2019", "5. März 2019", "5 de marzo de 2019", "5.3.19", "05032019"]
)
def test_a_column_of_days_that_nobody_can_read_for_certain_is_refused(tmp_path: Path, value: str) -> None:
    study = small_study(
        tmp_path / "s",
        f"a.png,PAT_1,{value}\nb.png,PAT_2,{value}",
        {"a.png": png(), "b.png": png()},
        columns=",visit",
        more="acquisition: {visit: categorical}\n",
    )
    with pytest.raises(UserError, match=r"the column `visit` .*cannot be shifted"):
        again(study, tmp_path)
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize(
    "values", [["benign", "malignant"], ["12.5", "13.1"], ["3 mm", "5 mm"], ["2019", "2020"], ["T1a"]]
)
def test_other_values_are_no_dates(values: list[str]) -> None:
    assert not order_of(values)[0]


@pytest.mark.parametrize("what", ["gone", "changed", "table", "review"])
def test_what_was_lost_or_changed_is_restored(tmp_path: Path, what: str) -> None:
    study = small_study(tmp_path / "s", "a.png,PAT_1\nb.png,PAT_2", {"a.png": png(), "b.png": png()})
    again(study, tmp_path)
    out = tmp_path / "out"
    whole = sums(out)
    image = next((out / "raw").rglob("*.png"))
    if what == "gone":
        image.unlink()
    else:
        {"changed": image, "table": out / "clinical.csv", "review": out / "review.html"}[what].write_bytes(b"x")
    assert not again(study, tmp_path).already_done
    assert sums(out) == whole
    assert verify(out) == []
    assert again(study, tmp_path).already_done


@pytest.mark.long
def test_rows_of_frames_stay_rows_of_frames(tmp_path: Path) -> None:
    study = small_study(
        tmp_path / "s",
        "x.dcm#1,PAT_1,3\nx.dcm#3,PAT_1,4\ny.dcm,PAT_2,5\nz.dcm#0,PAT_2,6\nz.dcm#1,PAT_3,7",
        {name: multi() for name in ("x.dcm", "y.dcm", "z.dcm")},
        columns=",extent",
        more="clinical: {extent: ordinal}\n",
    )
    done = again(study, tmp_path)
    assert (done.written, done.refused) == (2, 1)
    assert "the table gives its frames to different patients" in (tmp_path / "out" / "review.html").read_text()

    def extents(of: Study) -> list[tuple[str, float]]:
        run = scan(of, progress=False)
        manifest = pd.read_parquet(run.path / "manifest.parquet")
        manifest = manifest[(manifest["status"] == "ok") & ~manifest["file"].str.startswith("z")]
        return sorted(zip(manifest["frame"], manifest["extent"], strict=True))

    copied = load_study(tmp_path / "out", [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"])
    assert extents(copied) == extents(study) == [("0", 5), ("1", 3), ("1", 5), ("2", 5), ("3", 4), ("3", 5)]


def test_split_and_levels_held_out_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)  # copies of one picture would be bound together
    files = {
        f"{i}.dcm": ct(StationName=f"CT{i % 2}", PixelData=rng.integers(0, 900, (128, 128), dtype=np.int16).tobytes())
        for i in range(6)
    }
    study = small_study(
        tmp_path / "s",
        "\n".join(f"{i}.dcm,PAT_{i}" for i in range(6)),
        files,
        more="acquisition: {header_manufacturer: categorical, header_station: categorical}\n"
        "split: {seed: 7, test: 0.4, stratify: [header_manufacturer]}\nexternal: {header_station: [CT1]}\n",
    )
    again(study, tmp_path)
    copied = load_study(tmp_path / "out", [f"analysis={tmp_path / 'analysis'}", "scan.workers=1"])
    assert (copied.config.split.seed, copied.config.split.stratify) == (7, ["file_manufacturer"])
    assert "CT1" not in (tmp_path / "out" / "study.yaml").read_text()
    manifest = pd.read_parquet(scan(copied, progress=False).path / "manifest.parquet")
    held = manifest[manifest["split"].str.startswith("external")]
    assert len(held) == 3
    assert held["file_station"].nunique() == 1


@pytest.mark.parametrize(
    "name", ["Age years", "AgeAtDiagnosis", "ageYears", "age.years", "Alter", "âge", "edad", "age", "patient_age"]
)
def test_high_ages_are_ninety_whatever_the_column_is_called(name: str) -> None:
    assert is_age(name)
    ages = pd.Series(["93", "89", "93 years", "95-99"], dtype=object)
    assert capped_ages(ages, name).tolist() == ["90", "89", "90", "90"]
    assert capped_ages(pd.Series(["93", "1200"], dtype=object), "age_months").tolist() == ["93", "1080"]


@pytest.mark.parametrize("name", ["stage", "dosage", "image", "alternative", "device_name", "nominal", "case_control"])
def test_other_columns_are_neither_ages_nor_names(name: str) -> None:
    assert not is_age(name)
    assert not is_personal(name)


@pytest.mark.parametrize(
    "name",
    ["pat_name", "Nachname", "Vorname", "geb_datum", "birth_year", "zip", "postcode", "PLZ", "Adresse", "Telefon",
     "initials", "hospital_number", "case_no", "Fallnummer", "NHS number", "PatientName", "last name", "dob"],
)  # fmt: skip
def test_columns_that_name_people_are_known(name: str) -> None:
    assert is_personal(name)


def test_a_wrong_linkage_name_leaves_no_second_key(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out" / ".deidentify").mkdir(parents=True)
    (tmp_path / "out" / ".deidentify" / "output.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not there, and .* was made with a linkage file"):
        again(study, tmp_path)
    assert not (tmp_path / "linkage.json").exists()


def test_a_new_patient_is_looked_for_in_pictures_already_done() -> None:
    marks = {
        CleaningSettings(TextFinder("ocr", "identifying", frozenset(ids)), DicomOptions(), 10, ()).mark()
        for ids in ({"77412"}, {"77412", "88123"})
    }
    assert len(marks) == 2


@pytest.mark.long
def test_a_decoder_that_does_not_end_costs_a_file_and_not_the_call(tmp_path: Path) -> None:
    study = small_study(tmp_path / "s", "a.png,PAT_1\nb.png,PAT_2", {"a.png": png(), "b.png": png()})
    limits = study.config.scan.model_copy(update={"time_limit_s": 1e-5})
    with pytest.raises(UnreadableImage, match="reading took longer than"):
        pass_gate(study.image_root, "a.png", png(), limits)
    pass_gate(study.image_root, "a.png", png(), study.config.scan)


def test_the_review_sheet_says_how_to_leave_a_picture_out(tmp_path: Path) -> None:
    again(small_study(tmp_path / "s", "a.png,PAT_1", {"a.png": png()}), tmp_path)
    assert (
        "move it out of the images of the study, and repeat the command" in (tmp_path / "out/review.html").read_text()
    )
