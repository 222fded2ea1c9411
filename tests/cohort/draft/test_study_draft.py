"""`init` guesses from names and values, says why, and what it writes is accepted as it is."""

from __future__ import annotations

import re
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from pellucid.cohort.draft.header_survey import factor_lines, read_headers
from pellucid.cohort.draft.study_draft import draft_study
from pellucid.cohort.errors import UserError
from pellucid.cohort.scan import scan
from pellucid.cohort.study import FromPath, load_study


def test_draft_of_a_phantom_finds_roles_and_scans(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    study = load_study(draft_study(own_phantom))
    roles = {v.name: v.role for v in study.variables}
    assert study.config.patient == "patient_id"
    assert study.config.image == "file_name"
    assert {n for n, role in roles.items() if role == "acquisition"} == {"device", "operator", "site", "year", "format"}
    assert roles["diagnosis"] == "clinical"
    assert roles["recurrence"] == "clinical"
    text = study.path.read_text(encoding="utf-8")
    assert "# outcome: {recurrence: binary}  # if it is to be predicted: remove this # and the column from" in text
    assert scan(study, progress=False).read_json("source.json")["n_patients"] == 30


def test_never_overwrites(own_phantom: Path) -> None:
    with pytest.raises(UserError, match=r"study\.yaml: is already there; edit it, or move it away"):
        draft_study(own_phantom)


def test_without_a_table_the_patient_is_read_off_the_path(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    (own_phantom / "clinical.csv").unlink()
    images = own_phantom / "images"
    for i, path in enumerate(sorted(p for p in images.rglob("*") if p.is_file())):
        target = images / f"pat{i // 4}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    study = load_study(draft_study(own_phantom))
    assert isinstance(study.config.patient, FromPath)


def test_two_tables_need_a_choice(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    (own_phantom / "second.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds 2 tables \(clinical\.csv, second\.csv\): say which, with --table"):
        draft_study(own_phantom)
    assert load_study(draft_study(own_phantom, own_phantom / "clinical.csv")).table == own_phantom / "clinical.csv"


def test_columns_that_say_nothing_are_left_out_with_the_reason(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    table = pd.read_csv(own_phantom / "clinical.csv")
    table["hospital_code"] = range(len(table))
    table["exam_day"] = 20240101
    table["note"] = "constant"
    table.to_csv(own_phantom / "clinical.csv", index=False)
    text = draft_study(own_phantom).read_text(encoding="utf-8")
    assert "# left out: note: it has the same value everywhere" in text
    assert "# left out: hospital_code:" in text
    assert "# left out: exam_day:" in text


def with_headers(folder: Path) -> Path:
    """40 CT slices of 20 patients, two of each, as DICOM files without a table."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(40):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", f"MRN{i // 2:05d}", f"Secret^Patient{i // 2}"
        dataset.Manufacturer, dataset.ManufacturerModelName = "ACME", ["Alpha", "Beta"][i // 2 % 2]
        dataset.OperatorsName, dataset.InstitutionName = ["Hidden^Ann", "Hidden^Bob", ""][i % 3], "Nowhere Hospital"
        dataset.DeviceSerialNumber, dataset.StudyDate = f"SN{i // 8}", f"20{10 + i % 4}0101"
        dataset.ConvolutionKernel = f"K{i}"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated = 48, 64, 1, 8
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 7, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelData = rng.integers(0, 256, (48, 64), dtype=np.uint8).tobytes()
        dataset.save_as(folder / f"s{i:02d}.dcm", enforce_file_format=True)
    return folder


@pytest.mark.long
def test_headers_are_proposed_as_factors_and_the_scan_takes_them(tmp_path: Path) -> None:
    with_headers(tmp_path / "study" / "dicom")
    path = draft_study(tmp_path / "study")
    text = path.read_text(encoding="utf-8")
    assert "  header_model: categorical  # 2 levels in 40 files looked at: Alpha, Beta\n" in text
    assert "  header_year: ordinal  # 4 levels in 40 files looked at: 2010, 2011, 2012, 2013\n" in text
    assert "# left out: header_manufacturer: the same in all 40 files that say it, of 40 files looked at" in text
    assert "# left out: header_kernel: 40 different values in 40 files looked at" in text
    assert "patient: {from_dicom: PatientID}  # 20 patients in the headers of 40 files looked at" in text
    assert "specialty: ct  # the headers say modality CT" in text
    assert "stratify" in text
    study = load_study(path)
    run = scan(study, progress=False)
    manifest = pd.read_parquet(run.path / "manifest.parquet")
    assert manifest["patient"].nunique() == 20
    operators = set(manifest["header_operator"].dropna()) - {""}
    assert len(operators) == 2
    assert all(re.fullmatch("operator-[0-9a-f]{8}", name) for name in operators)


def test_a_draft_names_no_person_and_no_machine(tmp_path: Path) -> None:
    with_headers(tmp_path / "study" / "dicom")
    text = draft_study(tmp_path / "study").read_text(encoding="utf-8")
    assert "  header_operator: categorical  # 2 levels in 40 files looked at (not shown" in text
    for private in ("Hidden", "Secret", "Nowhere", "SN0", "MRN"):
        assert private not in text


@pytest.mark.long
def test_time_limits_the_look_and_unreadable_files_are_passed_over(tmp_path: Path) -> None:
    folder = with_headers(tmp_path / "dicom")
    (folder / "s00.dcm").write_bytes(b"")
    ids = sorted(p.name for p in folder.iterdir())
    assert read_headers(folder, ids).n == 39
    assert read_headers(folder, ids, time_limit_s=-1).n == 0
    assert factor_lines(read_headers(folder, ids, time_limit_s=-1)) == ([], [])
    assert read_headers(folder, ids * 10).n <= 200


def test_the_tables_own_split_is_proposed(own_phantom: Path) -> None:
    (own_phantom / "study.yaml").unlink()
    table = pd.read_csv(own_phantom / "clinical.csv")
    order = {p: k for k, p in enumerate(sorted(table["patient_id"].unique()))}
    table["Set"] = table["patient_id"].map(lambda p: "Test" if order[p] % 4 == 0 else "Train")
    table["status"] = "ok"
    table.to_csv(own_phantom / "clinical.csv", index=False)
    path = draft_study(own_phantom)
    study = load_study(path)
    assert study.config.split.column == "Set"
    assert "Set" not in {v.name for v in study.variables}
    assert "# left out: status: the scan has a column of this name" in path.read_text(encoding="utf-8")
    manifest = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    usable = manifest[manifest["status"] == "ok"]
    assert (usable["split"] == usable["Set"].str.lower()).all()


def test_a_guess_takes_for_missing_what_the_scan_does(tmp_path: Path) -> None:
    from pellucid.cohort.draft.column_guesses import guess_variable

    said = guess_variable(pd.Series(["ja", "nein", "Nein ", "unknown", None] * 4, name="smoker"))
    assert (said.kind, said.role) == ("categorical", "clinical")
    assert said.why == "3 levels; SOME DIFFER ONLY IN CAPITALS: make them one in the table; missing in 8 rows"
    said = guess_variable(pd.Series(["ja", "nein", "unknown"] * 4, name="smoker"))
    assert (said.kind, said.why) == ("binary", "ja / nein; missing in 4 rows")


def test_a_specialty_is_drafted_only_where_most_files_speak_of_it() -> None:
    from pellucid.cohort.draft.header_survey import Headers

    ct, photo = {"modality": "CT"}, {"model": "Phone"}
    assert Headers([ct, ct, photo]).specialty == ("ct", "CT")
    assert Headers([ct, photo, photo]).specialty == ("", "")


def small_study(folder: Path, files: list[str], table: str, name: str = "clinical.csv") -> str:
    """The draft of a folder with such images and such a table."""
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / file), picture)
    (folder / name).write_text(table, encoding="utf-8")
    return draft_study(folder).read_text(encoding="utf-8")


def test_folders_and_columns_that_yaml_takes_for_numbers_are_quoted(tmp_path: Path) -> None:
    rows = "".join(f"i{k}.png,p{k // 2},{k % 2},{k % 3}\n" for k in range(8))
    text = small_study(tmp_path, [f"2021_03/i{k}.png" for k in range(8)], f"image,patient_id,no,2019_1\n{rows}")
    assert "images: '2021_03'" in text
    study = load_study(tmp_path)
    assert study.config.images == "2021_03"
    assert {v.name for v in study.variables} == {"no", "2019_1"}


def test_a_level_with_a_line_break_leaves_the_draft_valid(tmp_path: Path) -> None:
    forms = ["nodular", '"flat\nor raised"']
    rows = "".join(f"i{k}.png,p{k // 2},{forms[k % 2]}\n" for k in range(8))
    assert "# flat or raised / nodular" in small_study(
        tmp_path, [f"images/i{k}.png" for k in range(8)], f'image,patient_id,"Lesion\n(form)"\n{rows}'
    )
    assert load_study(tmp_path).variables[0].name == "Lesion (form)"


def test_german_columns_and_a_patient_with_names_in_parentheses(tmp_path: Path) -> None:
    rows = "".join(f"i{k}.png;Muster{k // 2};{'AB'[k % 2]};{'ja' if k % 3 else 'nein'}\n" for k in range(8))
    head = "Bild;Patient (Name, Vorname);Gerätetyp;Rezidiv\n"
    text = small_study(tmp_path, [f"images/i{k}.png" for k in range(8)], head + rows)
    assert "patient: 'Patient (Name, Vorname)'  # 4 patients" in text
    assert {v.name: v.role for v in load_study(tmp_path).variables} == {
        "Gerätetyp": "acquisition",
        "Rezidiv": "clinical",
    }
    assert "# outcome: {Rezidiv: binary}" in text


def test_the_folder_of_a_patient_is_proposed_where_the_table_names_none(tmp_path: Path) -> None:
    files = [f"images/p{k // 2}/i{k}.png" for k in range(8)]
    rows = "".join(f"i{k}.png,{'AB'[k % 2]}\n" for k in range(8))
    text = small_study(tmp_path, files, f"image,dx\n{rows}")
    assert "patient: {from_path: '^([^/]+)/'}  # the first folder: 4 patients for 8 images" in text


def test_a_table_with_one_row_for_each_patients_folder(tmp_path: Path) -> None:
    files = [f"images/p{k // 2}/i{k}.png" for k in range(8)]
    text = small_study(tmp_path, files, "case_no,dx\np0,A\np1,B\np2,A\np3,B\n")
    assert "patient: {from_path: '^([^/]+)/', column: case_no}" in text


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("images/site{0}/Jäger{1}/i{2}.png", "^[^/]+/([^/]+)/"),
        ("images/Jäger{1}_{2}.png", "([^/_-]+)[_-][^/]*$"),
    ],
)
def test_a_table_with_one_row_for_each_patient_wherever_the_path_names_them(
    tmp_path: Path, file: str, pattern: str
) -> None:
    files = [unicodedata.normalize("NFD", file.format(k % 2, k // 2, k)) for k in range(8)]  # as a Mac writes it
    rows = "".join(f"Jäger{k};{'AB'[k % 2]}\n" for k in range(4))
    text = small_study(tmp_path, files, f"Fallnummer;Diagnose\n{rows}")
    assert f"patient: {{from_path: '{pattern}', column: Fallnummer}}" in text
    manifest = pd.read_parquet(scan(load_study(tmp_path), progress=False).path / "manifest.parquet")
    assert sorted(manifest["Diagnose"]) == ["A"] * 4 + ["B"] * 4


def test_lock_files_are_no_tables_and_empty_columns_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "~$clinical.csv").write_bytes(b"\x05x")
    rows = "".join(f"i{k}.png,p{k // 2},{'AB'[k % 2]},\n" for k in range(8))
    text = small_study(tmp_path, [f"images/i{k}.png" for k in range(8)], f"image,patient_id,dx,notes\n{rows}")
    assert "# left out: notes: it is empty" in text


def test_columns_of_days_are_proposed_with_what_can_be_derived(tmp_path: Path) -> None:
    days = [f"{k % 28 + 1:02d}.03.{2020 + k % 3}" for k in range(30)]
    rows = "".join(f"i{k}.png;p{k // 2};{day};{day[:6]}2021;{day[:6]}1948\n" for k, day in enumerate(days))
    head = "Bild;Patient;Untersuchungsdatum;Aufnahme;Geburtsdatum\n"
    files = [f"images/i{k}.png" for k in range(30)]
    text = small_study(tmp_path, files, head + rows)
    assert "  Untersuchungsdatum: date  # days from 2020 to 2022, used as Untersuchungsdatum_year and" in text
    assert "  Aufnahme: {kind: date, derive: [days]}  # days from 2021 to 2021, used as Aufnahme_days" in text
    assert "# left out: Geburtsdatum: a date of birth identifies a person" in text
    variables = {v.name: v.role for v in load_study(tmp_path).variables}
    assert variables["Untersuchungsdatum_year"] == variables["Aufnahme_days"] == "acquisition"
    manifest = pd.read_parquet(scan(load_study(tmp_path), progress=False).path / "manifest.parquet")
    assert sorted(manifest["Untersuchungsdatum_year"].unique()) == [2020, 2021, 2022]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["14.08.1948", "03.04.1950"], "a date of birth identifies a person"),
        (["03/04/2021", "05/06/2021"], "nobody can say whether day or month comes first"),
        (["03.04.21", "14.08.22"], "days but for `03.04.21` in row 2"),
    ],
)
def test_days_that_are_not_proposed_are_named(values: list[str], said: str) -> None:
    from pellucid.cohort.draft.column_guesses import guess_variable

    name = "Geburtsdatum" if "1948" in values[0] else "visit"
    guess = guess_variable(pd.Series(values * 6, name=name))
    assert (guess.role, said in guess.why) == ("skip", True)


def ids_of(folders: int, each: int, path: str = "s{0}/img{1:04d}.png") -> list[str]:
    return [path.format(f, i) for f in range(folders) for i in range(each)]


def test_few_folders_of_many_images_are_no_patients() -> None:
    from pellucid.cohort.draft.header_survey import Headers
    from pellucid.cohort.draft.patient_guesses import patient_lines

    lines = patient_lines(ids_of(3, 1000), Headers([]))
    assert lines[0].startswith("patient: none  # NOT KNOWN")
    assert lines[1].startswith("# QUESTION: 3 values of the first folder for 3000 images: too few to be patients")
    assert patient_lines(ids_of(12, 1000), Headers([]))[0].startswith("patient: {from_path: '^([^/]+)/'}")
    assert patient_lines(ids_of(3, 20), Headers([])) == [
        "patient: {from_path: '^([^/]+)/'}  # the first folder: 3 patients for 60 images"
    ]


def test_sites_above_the_patients_folders_are_asked_about_and_other_places_are_listed() -> None:
    from pellucid.cohort.draft.header_survey import Headers
    from pellucid.cohort.draft.patient_guesses import other_sources, patient_lines

    ids = [f"site{s}/p{p:03d}/i{k}.png" for s in range(2) for p in range(60) for k in range(3)]
    lines = patient_lines(ids, Headers([]))
    assert lines[0] == "patient: {from_path: '^[^/]+/([^/]+)/'}  # the second folder: 60 patients for 360 images"
    assert lines[1].startswith("# QUESTION: 2 values of the first folder")
    assert other_sources(ids, Headers([]), 60) == []
    assert other_sources(ids, Headers([]), 120)[0].startswith("# or patient: {from_path: '^[^/]+/([^/]+)/'}")


def test_a_table_whose_ids_are_not_the_folders_is_hinted_at(tmp_path: Path) -> None:
    files = [f"images/p{k // 4}/i{k}.png" for k in range(24)]
    rows = "".join(f"i{k}.png,v{k // 2},{'AB'[k % 2]}\n" for k in range(24))
    text = small_study(tmp_path, files, f"image,patient_id,dx\n{rows}")
    assert "patient: patient_id  # 12 patients\n# or patient: {from_path: '^([^/]+)/'}  # the first folder: 6" in text


def test_images_on_another_disk_are_found_through_the_link(tmp_path: Path) -> None:
    study, disk = tmp_path / "study", tmp_path / "disk"
    study.mkdir()
    (study / "images").symlink_to(disk)
    rows = "".join(f"i{k}.png,p{k // 2},{'AB'[k % 2]}\n" for k in range(8))
    disk.mkdir()
    for k in range(8):
        assert cv2.imwrite(str(disk / f"i{k}.png"), np.full((24, 32, 3), k, np.uint8))
    (study / "clinical.csv").write_text(f"image,patient_id,dx\n{rows}", encoding="utf-8")
    text = draft_study(study).read_text(encoding="utf-8")
    assert "images: images  # 8 image files lie below it" in text
    assert "image: image  # 8 of 8 rows name an image file" in text
    (study / "study.yaml").unlink()
    (study / "more").symlink_to(disk)
    with pytest.raises(UserError, match=r"several links lead to folders with images \(images, more\)"):
        draft_study(study)


def test_a_linked_folder_that_is_not_followed_is_a_note_of_the_draft(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "study" / "images").mkdir(parents=True)
    (tmp_path / "study" / "images" / "more").symlink_to(tmp_path / "disk")
    rows = "".join(f"i{k}.png,p{k // 2},{'AB'[k % 2]}\n" for k in range(8))
    text = small_study(tmp_path / "study", [f"images/i{k}.png" for k in range(8)], f"image,patient_id,dx\n{rows}")
    assert "# note: 1 linked folder(s) lead out of" in text
    assert "skipped files that are not images" not in text, "the table is no image, which nobody needs to be told"


def test_images_that_will_not_be_read_are_named_before_the_scan(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 40, 3), np.uint8))
    for name in ("IMG_1.HEIC", "IMG_2.heic", "raw.dng"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    draft = draft_study(tmp_path).read_text(encoding="utf-8")
    assert "# note: 1 × .dng: kinds of images that are not read (docs/reading.md)" in draft
    if find_spec("pillow_heif") is None:
        assert "# note: 2 of 5 images end in .heic: a HEIC image, which is not read: `pip install pillow-heif`" in draft


def test_a_table_with_one_row_for_each_patient_of_the_headers(tmp_path: Path) -> None:
    sample = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"
    for number in range(6):
        dataset = pydicom.dcmread(sample)
        dataset.PatientID = f"{70010 + number // 2}"
        target = tmp_path / "export" / f"PAT{number // 2:03d}" / f"IM{number:04d}"
        target.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(target)
    (tmp_path / "export" / "PAT000" / "IM9999").write_bytes(bytes(128) + b"DICM")
    rows = pd.DataFrame({"PatientID": ["70010", "70011", "70012"], "diagnosis": ["a", "b", "a"]})
    rows.to_csv(tmp_path / "table.csv", index=False)
    text = draft_study(tmp_path, tmp_path / "table.csv").read_text(encoding="utf-8")
    assert "patient: {from_dicom: PatientID, column: PatientID}  # 3 patients" in text
    assert "???" not in text
