"""The scan: each original read once, every file a row, every misfit a sentence, and a kill costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.images.pixels import encode, shrink, stretch
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.measures.phenotypes import PHENOTYPES, phenotypes
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.status import next_step, study_status
from pellucid.cohort.study import Study, load_study

ROOT = Path(__file__).parents[2]


def photos(folder: Path, n: int = 12) -> Path:
    """A study of `n` tiny photographs of n/2 patients."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60))
        (folder / "photos" / f"img_{i:02d}.jpg").write_bytes(encode(pixels, 90))
        rows.append(
            (f"img_{i:02d}.jpg", f"case{i // 2}", "sick" if i // 2 % 2 else "well", 40 + i // 2, "AB"[i // 2 % 2])
        )
    table = pd.DataFrame(rows, columns=["file_name", "patient_id", "diagnosis", "age", "device"])
    table.to_csv(folder / "clinical.csv", index=False)
    (folder / "study.yaml").write_text(
        "images: photos\ntable: clinical.csv\nimage: file_name\npatient: patient_id\n"
        "clinical: {diagnosis: categorical, age: continuous}\nacquisition: {device: categorical}\n",
        encoding="utf-8",
    )
    return folder


def scanned_manifest(study: Study) -> tuple[pd.DataFrame, list[str]]:
    run = scan(study, progress=False)
    return pd.read_parquet(run.path / "manifest.parquet"), run.read_json("source.json")["problems"]


def edit_table(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    table = pd.read_csv(folder / "clinical.csv")
    change(table).to_csv(folder / "clinical.csv", index=False)


def test_manifest_of_a_phantom(scanned: tuple[Study, RunFolder]) -> None:
    study, run = scanned
    manifest = pd.read_parquet(run.path / "manifest.parquet")
    files = [p for p in study.image_root.rglob("*") if p.is_file()]
    assert len(manifest) == len(files)
    good = manifest[manifest["status"] == "ok"]
    assert set(good["split"]) == {"train", "test"}
    assert (good.groupby("patient_source_id")["split"].nunique() == 1).all()
    assert good.groupby("patient_source_id")["patient"].nunique().eq(1).all()
    assert good[[f"phenotype_{name}" for name in PHENOTYPES]].notna().all().all()
    assert not manifest["patient"].isin(manifest["patient_source_id"]).any(), "only research ids go further"


def test_prepared_images_are_those_of_the_manifest(scanned: tuple[Study, RunFolder]) -> None:
    study, run = scanned
    prepared = PreparedImages.open(run.path)
    manifest = pd.read_parquet(run.path / "manifest.parquet").set_index("image_id")
    assert prepared.image_ids == manifest.index[manifest["status"] == "ok"].tolist()
    for i in (0, len(prepared) // 2, len(prepared) - 1):
        original = cv2.imread(str(study.image_root / prepared.image_ids[i]))[:, :, ::-1]
        difference = prepared.decode(i).astype(int) - shrink(np.ascontiguousarray(original), 256)
        assert np.abs(difference).mean() < 4
    assert prepared.square(0, 64).shape == (64, 64, 3)
    chosen = PreparedImages.open(run.path, prepared.image_ids[3:1:-1])
    assert chosen.encoded(0) == prepared.encoded(3)
    with pytest.raises(UserError, match="has no readable image `nothing`"):
        PreparedImages.open(run.path, ["nothing"])


@pytest.mark.long
def test_quarantine_names_each_bad_file(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study", 40)
    (folder / "photos" / "img_00.jpg").write_bytes(b"")
    whole = (folder / "photos" / "img_01.jpg").read_bytes()
    (folder / "photos" / "img_01.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "photos" / "img_02.jpg").write_text("not a picture", encoding="utf-8")
    manifest, _ = scanned_manifest(load_study(folder, ["scan.max_unreadable=0.1"]))
    bad = manifest[manifest["status"] == "unreadable"].set_index("image_id")["reason"].to_dict()
    assert bad == {
        "img_00.jpg": "the file is empty",
        "img_01.jpg": "a damaged JPEG: the file is cut short",
        "img_02.jpg": "the content is not an image of a kind that can be read, whatever the file is called",
    }
    with pytest.raises(UserError) as caught:
        scan(load_study(folder), progress=False)
    said = str(caught.value)
    assert "3 of 40 files (8%) are images that are not read, more than scan.max_unreadable = 5%" in said
    assert "1 × the file is empty" in said
    assert "allow more with scan.max_unreadable=" in said


@pytest.mark.long
def test_row_without_image_and_image_without_row(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    edit_table(folder, lambda t: t.assign(file_name=t["file_name"].replace("img_03.jpg", "gone.jpg")))
    manifest, problems = scanned_manifest(load_study(folder))
    assert (
        "clinical.csv: 1 row(s) name an image that is not there (first: row 5, `gone.jpg`): they are left out; add the "
        "file or correct `file_name`"
    ) in problems
    assert (
        "images: 1 file(s) have no row in clinical.csv (first: `img_03.jpg`): they are left out; add a row for each, "
        "or remove the files"
    ) in problems
    left_out = manifest[manifest["status"] == "no_row"]
    assert left_out[["image_id", "reason", "split", "patient"]].to_numpy().tolist() == [
        ["img_03.jpg", "no row of the table names this image", "", ""]
    ]


def test_row_without_patient_is_left_out(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    edit_table(folder, lambda t: t.assign(patient_id=t["patient_id"].where(t["file_name"] != "img_04.jpg")))
    manifest, problems = scanned_manifest(load_study(folder))
    assert any("1 row(s) have no `patient_id`: their images are left out" in p for p in problems)
    assert manifest.set_index("image_id").loc["img_04.jpg", "status"] == "no_row"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="diagnosis"), ("there is no column `diagnosis`\nthe table has: file_name, "
                                                "patient_id, age, device")),
        (lambda t: t.rename(columns={"device": "devcie"}), "there is no column `device`; did you mean `devcie`?"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "rows 2 and 14 both name `img_00.jpg`"),
        (lambda t: t.assign(file_name="x" + t["file_name"]), "no row of column `file_name` names an image below"),
        (
            lambda t: t.assign(age=t["age"].astype(str).replace("41", "forty-one")),
            "column `age` is declared continuous, but row 4 has `forty-one`, row 5 has `forty-one`: correct it, or "
            "declare the column categorical",
        ),
    ],
)  # fmt: skip
def test_table_that_does_not_fit(tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    folder = photos(tmp_path / "study")
    edit_table(folder, change)
    with pytest.raises(UserError) as caught:
        scan(load_study(folder), progress=False)
    assert said in str(caught.value)


def test_missing_folder_and_empty_folder(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    with pytest.raises(UserError, match="is not a folder: correct it, or give images=FOLDER on the command line"):
        scan(load_study(folder, ["images=nowhere"]), progress=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"there is no image in this folder|no image"):
        scan(load_study(folder, [f"images={empty}"]), progress=False)


@pytest.mark.long
def test_files_are_matched_however_they_are_named(tmp_path: Path) -> None:
    for number, rename in enumerate(
        [lambda f: f"photos/{f}", lambda f: f.removesuffix(".jpg"), lambda f: f"./{f}", lambda f: f"photos\\{f}"]
    ):
        folder = photos(tmp_path / str(number))
        edit_table(folder, lambda t, rename=rename: t.assign(file_name=t["file_name"].map(rename)))
        manifest, problems = scanned_manifest(load_study(folder))
        assert (manifest["status"] == "ok").all()
        assert problems == []


def test_one_row_per_patient(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    for i in range(12):
        source = folder / "photos" / f"img_{i:02d}.jpg"
        (folder / "photos" / f"case{i // 2}").mkdir(exist_ok=True)
        source.rename(folder / "photos" / f"case{i // 2}" / source.name)
    edit_table(folder, lambda t: t.drop(columns="file_name").drop_duplicates("patient_id").iloc[:-1])
    text = (folder / "study.yaml").read_text(encoding="utf-8").replace("image: file_name\n", "")
    text = text.replace("patient: patient_id", "patient: {from_path: '^([^/]+)/', column: patient_id}")
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    manifest, problems = scanned_manifest(load_study(folder))
    assert (manifest["status"] == "ok").all()
    assert manifest.groupby("patient").size().tolist() == [2] * 6
    assert manifest["diagnosis"].isna().sum() == 2
    assert "images: 1 patient(s) have no row in clinical.csv: their variables are missing" in problems


def test_a_table_without_a_key_is_refused_before_images_are_read(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    text = (folder / "study.yaml").read_text(encoding="utf-8").replace("image: file_name\n", "")
    text = text.replace("patient: patient_id", "patient: {from_dicom: PatientID}")
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"patient: \{from_dicom: PatientID, column: COLUMN\}"):
        scan(load_study(folder), progress=False)
    assert not (folder / "analysis" / "read").exists()


def test_identical_files_of_two_patients_are_said(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    shutil.copy(folder / "photos" / "img_00.jpg", folder / "photos" / "img_11.jpg")
    manifest, problems = scanned_manifest(load_study(folder))
    assert manifest.set_index("image_id").loc["img_11.jpg", "duplicate_of"] == "img_00.jpg"
    assert any("1 of these groups lie across different patients" in p for p in problems)


def test_source_audit_of_planted_gaps(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study", 40)
    edit_table(folder, lambda t: t.assign(age=t["age"].where(t["patient_id"] != "case3")))
    run = scan(load_study(folder), progress=False)
    source = run.read_json("source.json")
    assert (source["n_images"], source["n_patients"]) == (40, 20)
    device = source["factors"][0]
    assert {level["level"]: level["patients"] for level in device["levels"]} == {"A": 10, "B": 10}
    assert device["patients_with_two_levels"] == 0
    assert any("device: no patient was imaged at two levels of it." in s for s in source["sentences"])
    assert "age: missing for 2 of 40 images (1 patient(s))." in source["sentences"]
    planted = next(a for a in source["associations"] if a["clinical"] == "diagnosis")
    assert planted["table"] == {"A": {"sick": 0, "well": 10}, "B": {"sick": 10, "well": 0}}
    assert planted["value"] > 0.9
    assert planted["p_value"] < 0.01


def test_repeating_is_instant_and_changes_make_it_stale(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    study = load_study(folder)
    first = scan(study, progress=False)
    assert scan(study, progress=False).done
    assert current_scan(study).path == first.path
    states = {row["stage"]: row["state"] for row in study_status(study)}
    assert states == {"read": "done", "scan": "done"}
    edit_table(folder, lambda t: t.assign(age=t["age"] + 1))
    states = {row["stage"]: row["state"] for row in study_status(study)}
    assert states == {"read": "done", "scan": "stale"}, "a changed table does not touch what was read"
    with pytest.raises(UserError, match=r"changed since the last scan: run `pellucid scan .*study\.yaml`"):
        current_scan(study)
    assert "inputs have changed" in next_step(study_status(study), folder)
    (folder / "photos" / "img_00.jpg").unlink()
    states = {row["stage"]: row["state"] for row in study_status(study)}
    assert states == {"read": "stale", "scan": "stale"}


@pytest.mark.long
def test_kill_in_the_middle_then_repeat_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_phantom(folder, PhantomConfig(patients=40, width_px=128, height_px=96, images_per_patient=(2, 3)))
    options = ["scan.shard_images=4", "scan.workers=1"]
    undisturbed = scan(load_study(folder, [*options, f"analysis={tmp_path / 'calm'}"]), progress=False)
    command = [sys.executable, "-m", "pellucid", "scan", str(folder), *options, f"analysis={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    rows = tmp_path / "killed" / "read"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(rows.glob(".*.partial/rows/rows-*.parquet"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(rows.glob("read-*")), "it was killed before the end"
    finished = len(list(rows.glob(".*.partial/rows/rows-*.parquet")))
    assert finished >= 3
    again = scan(load_study(folder, [*options, f"analysis={tmp_path / 'killed'}"]), progress=False)
    for name in ("manifest.parquet", "source.json"):
        assert (again.path / name).read_bytes() == (undisturbed.path / name).read_bytes()
    calm = next((tmp_path / "calm" / "read").glob("read-*"))
    killed = next(rows.glob("read-*"))
    shards = sorted(p.name for p in (calm / "prepared").iterdir())
    assert shards == sorted(p.name for p in (killed / "prepared").iterdir())
    for name in shards:
        assert (calm / "prepared" / name).read_bytes() == (killed / "prepared" / name).read_bytes()


def test_number_of_workers_changes_nothing(phantom: Path, tmp_path: Path) -> None:
    results = []
    for workers in (1, 2):
        study = load_study(
            phantom, [f"analysis={tmp_path / str(workers)}", f"scan.workers={workers}", "scan.shard_images=16"]
        )
        results.append((scan(study, progress=False).path / "manifest.parquet").read_bytes())
    assert results[0] == results[1]


def test_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    secret = tmp_path / "secret.jpg"
    shutil.copy(folder / "photos" / "img_00.jpg", secret)
    (folder / "photos" / "link.jpg").symlink_to(secret)
    (folder / "photos" / "loop").symlink_to(folder / "photos", target_is_directory=True)
    manifest, problems = scanned_manifest(load_study(folder))
    assert len(manifest) == 12
    assert any("1 × link out of the folder" in p for p in problems)


def test_phenotypes_say_what_they_are_named() -> None:
    rng = np.random.default_rng(0)
    tissue = np.clip(rng.normal((150, 110, 100), 12, (120, 160, 3)), 0, 255).astype(np.uint8)
    base = phenotypes(tissue)
    redder = tissue.copy()
    redder[:, :, 0] = np.clip(redder[:, :, 0].astype(int) + 40, 0, 255)
    assert phenotypes(redder)["redness"] > base["redness"] + 10
    assert phenotypes(cv2.GaussianBlur(tissue, (0, 0), 3))["sharpness"] < base["sharpness"] - 0.5
    assert phenotypes((tissue * 0.5).astype(np.uint8))["brightness"] < base["brightness"] - 15
    shining = tissue.copy()
    shining[:60, :80] = 255
    assert abs(phenotypes(shining)["reflection"] - 0.25) < 0.01
    framed = cv2.copyMakeBorder(tissue, 40, 40, 40, 40, cv2.BORDER_CONSTANT)
    assert abs(phenotypes(framed)["field"] - tissue.size / framed.size) < 0.02
    assert abs(phenotypes(framed)["redness"] - base["redness"]) < 0.5, "the black border is not part of the picture"
    assert np.isfinite(list(phenotypes(np.zeros((40, 40, 3), np.uint8)).values())).all()


def test_burned_in_text_is_found_and_tissue_is_not() -> None:
    rng = np.random.default_rng(0)
    speckle = (
        cv2.GaussianBlur(rng.gamma(1.2, 40, (300, 400)).astype(np.float32), (0, 0), 1.2).clip(0, 255).astype(np.uint8)
    )
    picture = np.repeat(speckle[:, :, None], 3, axis=2)
    assert text_lines(picture) == []
    written = picture.copy()
    cv2.putText(written, "MAMA DIREITA", (120, 260), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    boxes = text_lines(written)
    assert boxes
    x, y, *_ = boxes[0]
    assert 110 <= x < 260
    assert 235 <= y <= 262


def test_stretch_keeps_the_whole_picture() -> None:
    half = np.zeros((40, 80, 3), np.uint8)
    half[:, 40:] = 200
    square = stretch(half, 20)
    assert square[:, :9].max() == 0
    assert square[:, 11:].min() == 200


def numbered_sites(folder: Path, **columns: object) -> Path:
    photos(folder)
    edit_table(folder, lambda t: t.assign(site=[1 + i // 4 for i in range(12)], **columns))
    return folder


@pytest.mark.long
def test_external_levels_are_held_out_however_numbers_are_stored(tmp_path: Path) -> None:
    folder = numbered_sites(tmp_path / "study")
    with (folder / "study.yaml").open("a", encoding="utf-8") as handle:
        handle.write("external: {site: [3]}\n")
    for number, change in enumerate([lambda t: t, lambda t: t[t["file_name"] != "img_00.jpg"]]):  # the gap makes floats
        edit_table(folder, change)
        manifest, _ = scanned_manifest(load_study(folder))
        outside = manifest.loc[manifest["split"] == "external", "image_id"].tolist()
        assert outside == [f"img_{i:02d}.jpg" for i in range(8, 12)], number
    declared = load_study(folder, ["acquisition.site=ordinal"])
    assert (scanned_manifest(declared)[0]["split"] == "external").sum() == 4
    with pytest.raises(UserError, match=r"external: no image has `site` = `33`.*there are: 1, 2, 3"):
        scan(load_study(folder, ["external.site=[33]"]), progress=False)


@pytest.mark.long
def test_ids_that_look_like_numbers_stay_apart(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    ids = ["12.1", "12.10", "12.2", "12.20", "3E1", "30"]
    edit_table(folder, lambda t: t.assign(patient_id=[ids[i // 2] for i in range(12)]))
    assert scanned_manifest(load_study(folder))[0]["patient"].nunique() == 6
    edit_table(folder, lambda t: t.assign(patient_id=[f"{10**20 + i // 2}" for i in range(12)]))
    assert scanned_manifest(load_study(folder))[0]["patient"].nunique() == 6


@pytest.mark.long
def test_split_column_called_split(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    edit_table(folder, lambda t: t.assign(split=["test" if i < 4 else "train" for i in range(12)]))
    manifest, _ = scanned_manifest(load_study(folder, ["split.column=split"]))
    assert manifest["split"].tolist() == ["test"] * 4 + ["train"] * 8
    edit_table(folder, lambda t: t.assign(split=t["split"].where(t["patient_id"] != "case5")))
    with pytest.raises(UserError, match=r"split column `split`: is empty for 2 image\(s\)"):
        scan(load_study(folder, ["split.column=split"]), progress=False)
    edit_table(folder, lambda t: t.assign(patient="x"))
    with pytest.raises(UserError, match="the column name `patient` is one that the manifest uses itself: rename it"):
        scan(load_study(folder, ["clinical.patient=categorical"]), progress=False)


def test_a_mistake_leaves_no_failed_run(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    with pytest.raises(UserError):
        scan(load_study(folder, ["clinical.nothing=binary"]), progress=False)
    assert [row["stage"] for row in study_status(load_study(folder))] == ["read"]


def test_a_column_has_one_use(tmp_path: Path) -> None:
    folder = photos(tmp_path / "study")
    with pytest.raises(
        UserError, match="the column `patient_id` names the image or the patient: it cannot be a variable"
    ):
        load_study(folder, ["clinical.patient_id=categorical"])
