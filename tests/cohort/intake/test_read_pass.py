"""The one pass: a row for each picture, what its row says, and where its prepared copy lies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.intake.file_listing import Listing
from pellucid.cohort.intake.file_record import read_file
from pellucid.cohort.intake.read_pass import chunks_of
from pellucid.cohort.scan import scan
from pellucid.cohort.study import ScanConfig, load_study

LEVELS = (40, 80, 120, 160, 200)


def stack(path: Path) -> None:
    """Five grey pages, each of its own brightness."""
    rng = np.random.default_rng(0)
    pages = np.stack([np.full((60, 80), level) + rng.integers(-5, 6, (60, 80)) for level in LEVELS])
    tifffile.imwrite(path, pages.astype(np.uint8), photometric="minisblack")


def study_of(folder: Path, *settings: str, yaml: str = "") -> pd.DataFrame:
    (folder / "study.yaml").write_text(f"images: .\npatient: none\n{yaml}", encoding="utf-8")
    run = scan(load_study(folder, settings), progress=False)
    return pd.read_parquet(run.path / "manifest.parquet")


@pytest.mark.parametrize(
    ("frames", "expected"), [("all", [0, 1, 2, 3, 4]), ("middle", [2]), ("every 2", [0, 2, 4]), ("every 9", [0])]
)
def test_each_sampled_frame_is_a_row(tmp_path: Path, frames: str, expected: list[int]) -> None:
    stack(tmp_path / "stack.tiff")
    found = list(read_file(tmp_path, "stack.tiff", ScanConfig(frames=frames)))
    assert [row["image_id"] for row, _ in found] == [f"stack.tiff#{i}" for i in expected]
    assert {row["file"] for row, _ in found} == {"stack.tiff"}
    assert [row["frame"] for row, _ in found] == [str(i) for i in expected]
    assert len({row["sha256"] for row, _ in found}) == 1, "one file"
    assert len({row["pixel_hash"] for row, _ in found}) == len(expected), "several pictures"


@pytest.mark.long
def test_frames_beyond_a_shard_are_found_again(tmp_path: Path) -> None:
    stack(tmp_path / "stack.tiff")
    Image.new("RGB", (80, 60), (10, 10, 10)).save(tmp_path / "zero.png")
    manifest = study_of(tmp_path, "scan.shard_images=2")
    assert manifest["shard"].nunique() == 3
    scanned = next((tmp_path / "analysis" / "scan").glob("scan-*"))
    prepared = PreparedImages.open(scanned)
    brightness = [prepared.decode(i).mean() for i in range(len(prepared))]
    assert np.allclose(brightness, [*LEVELS, 10], atol=3)


def test_chunks_end_by_number_and_by_size() -> None:
    sizes = (1, 1, 1, 600 << 20, 1, 1)
    listing = Listing(Path(), tuple("abcdef"), sizes, {}, "")
    assert chunks_of(listing, ScanConfig(shard_images=2)) == [["a", "b"], ["c"], ["d"], ["e", "f"]]


def test_same_pixels_in_another_container_have_one_hash(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for name in ("a.png", "a.bmp", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "b.png")
    rows = [row for name in ("a.png", "a.bmp", "a.tif", "a.webp", "b.png")
            for row, _ in read_file(tmp_path, name, ScanConfig())]  # fmt: skip
    hashes = [row["pixel_hash"] for row in rows]
    assert len(set(hashes[:4])) == 1
    assert hashes[4] != hashes[0]
    assert len({row["sha256"] for row in rows}) == 5


def test_row_says_how_the_copy_was_made(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 3"
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=90, exif=exif)
    Image.fromarray(noise[:100, :120]).save(tmp_path / "b.png")
    (large, copy), (small, _) = (next(iter(read_file(tmp_path, n, ScanConfig()))) for n in ("a.jpg", "b.png"))
    assert large["prepared"] == "DCT scale 1/2, area to 341 × 256, JPEG 95"
    assert small["prepared"] == "JPEG 95"
    assert (large["width"], large["height"]) == (1600, 1200)
    assert large["header_manufacturer"], large["header_model"] == ("Maker", "Model 3")
    assert copy is not None


def test_copies_smaller_than_needed_are_refused(tmp_path: Path) -> None:
    stack(tmp_path / "stack.tiff")
    study_of(tmp_path, "scan.size_px=64")
    scanned = next((tmp_path / "analysis" / "scan").glob("scan-*"))
    assert len(PreparedImages.open(scanned, at_least_px=64)) == 5
    with pytest.raises(
        UserError, match=r"have 64 pixels on their shorter side, 224 are needed: scan again with scan.si"
    ):
        PreparedImages.open(scanned, at_least_px=224)


def test_a_person_overrules_a_grade(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.new("RGB", (120, 90), (255, 255, 255)).save(tmp_path / "b.png")
    before = study_of(tmp_path).set_index("image_id")
    assert before.loc["b.png", "image_grade_exposure"] == "poor"
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation" / "quality.csv").write_text(
        "image_id,measure,grade,author,time\nb.png,exposure,good,Dr A,2026-01-02T10:00:00\n", encoding="utf-8"
    )
    after = study_of(tmp_path).set_index("image_id")
    assert after.loc["b.png", "image_grade_exposure"] == "good"
    assert after.loc["b.png", "image_grade_by"] == "Dr A"
    assert after.loc["a.png", "image_grade_by"] == ""
    assert after.loc["b.png", "quality_exposure"] == before.loc["b.png", "quality_exposure"], "the number stays"


@pytest.mark.long
def test_one_of_each_kind_is_a_study(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(
        f"images: {shared_data / 'format_samples' / 'images'}\npatient: none\nscan: {{max_unreadable: 0.2}}\n"
    )
    run = scan(load_study(tmp_path), progress=False)
    manifest = pd.read_parquet(run.path / "manifest.parquet")
    bad = manifest[manifest["status"] != "ok"]
    assert sorted(bad["file"]) == ["broken.svs", "unreadable.svs"]
    frames = manifest[manifest["status"] == "ok"].groupby("file").size()
    assert frames["OBXXXX1A_2frame.dcm"] == 2
    assert frames["emri_small.dcm"] == 10
    assert frames["cmu-1-small-region.svs"] > 10, "tiles with tissue"
    assert len(PreparedImages.open(run.path)) == frames.sum()


def test_a_link_to_nothing_is_passed_over(tmp_path: Path) -> None:
    stack(tmp_path / "stack.tiff")
    (tmp_path / "x.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert set(study_of(tmp_path)["file"]) == {"stack.tiff"}


def test_a_composed_and_a_decomposed_umlaut_are_one_name(tmp_path: Path) -> None:
    composed, decomposed = "M\u00fcller.tiff", "Mu\u0308ller.tiff"
    stack(tmp_path / decomposed)
    (tmp_path / "clinical.csv").write_text(f"image,sex\n{composed},f\n", encoding="utf-8")
    manifest = study_of(tmp_path, yaml="table: clinical.csv\nimage: image\nclinical: {sex: categorical}\n")
    assert manifest["sex"].tolist() == ["f"] * 5


def test_a_tumours_grade_is_not_the_pictures(tmp_path: Path) -> None:
    stack(tmp_path / "stack.tiff")
    (tmp_path / "clinical.csv").write_text("image,grade\nstack.tiff,3\n", encoding="utf-8")
    manifest = study_of(tmp_path, yaml="table: clinical.csv\nimage: image\nclinical: {grade: ordinal}\n")
    assert manifest["grade"].tolist() == [3] * 5
    assert set(manifest["image_grade"]) <= {"good", "borderline", "poor"}


@pytest.mark.long
def test_faces_are_flagged_where_they_are_looked_for(tmp_path: Path) -> None:
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(tmp_path / "face.png")
    Image.fromarray(astronaut()).convert("L").save(tmp_path / "gray.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(
        tmp_path / "noise.png"
    )
    looked = study_of(tmp_path, "scan.faces=true").set_index("image_id")["findings"]
    assert looked.str.split().map(lambda words: "face" in words).to_dict() == {
        "face.png": True, "gray.png": False, "noise.png": False,
    }  # fmt: skip
    assert not study_of(tmp_path)["findings"].str.contains("face").any(), "not by default"


@pytest.mark.slow
def test_the_portuguese_on_breast_ultrasound_is_read_and_its_share_per_device_stated(
    shared_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("rapidocr")
    busbra = shared_data / "busbra"
    table = pd.read_csv(busbra / "manifest.csv")
    chosen = table.groupby("device_model").head(12)
    (tmp_path / "images").mkdir()
    for name in chosen["image"].map(lambda path: Path(path).name):
        (tmp_path / "images" / name).write_bytes((busbra / "images" / name).read_bytes())
    chosen.to_csv(tmp_path / "clinical.csv", index=False)
    (tmp_path / "study.yaml").write_text(
        "images: images\ntable: clinical.csv\nimage: image\npatient: patient_id\nscan: {text: ocr}\n"
        "clinical: {pathology: binary}\nacquisition: {device_model: categorical}\n",
        encoding="utf-8",
    )
    run = scan(load_study(tmp_path), progress=False)
    burned = run.read_json("source.json")["burned_in"]
    shares = {level["level"]: level["share"] for level in burned["by_factor"][0]["levels"]}
    assert set(shares) == set(table["device_model"])
    assert shares["GE Logiq 5"] >= 0.9, "every picture of this scanner has the side written on it"
    assert burned["detector"] == "read by text recognition (OCR)"
    read = pd.read_parquet(run.path / "manifest.parquet").set_index("device_model")["text_read"]
    assert read["GE Logiq 5"].str.contains("MAMA|REITA|UERDA").mean() > 0.5, (
        "breast, right, left, as far as not cropped"
    )
    assert "MAMA" in [word["word"] for word in burned["words"]]


def test_images_that_are_not_read_stop_the_scan_beyond_the_limit(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (10, 10, 10)).save(tmp_path / "zero.png")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(UserError, match=r"1 of 2 files \(50%\) are images that are not read") as raised:
        study_of(tmp_path)
    assert "HEIC" in str(raised.value)


def test_a_name_that_is_not_utf8_and_a_circle_of_links_are_named_and_cost_only_themselves(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (10, 10, 10)).save(tmp_path / "zero.png")
    (tmp_path / "x.png").symlink_to(tmp_path / "x.png")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/L\xe4sion.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert study_of(tmp_path)["image_id"].tolist() == ["zero.png"]
    source = json.loads(next((tmp_path / "analysis" / "scan").glob("scan-*/source.json")).read_text(encoding="utf-8"))
    said = " ".join(source["problems"])
    assert r"`L\xe4sion.png` is left out: its name is not UTF-8: rename it" in said
    assert "`x.png` is left out: a circle of links" in said


def test_a_linked_folder_out_of_the_root_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "study").mkdir()
    Image.new("RGB", (80, 60), (10, 10, 10)).save(tmp_path / "study" / "zero.png")
    for number in range(3):
        Image.new("RGB", (80, 60), (10, 10, number)).save(tmp_path / "disk" / f"{number}.png")
    (tmp_path / "study" / "site_b").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert len(study_of(tmp_path / "study")) == 1
    source = json.loads(next((tmp_path / "study").glob("analysis/scan/scan-*/source.json")).read_text(encoding="utf-8"))
    assert sum("1 linked folder(s) lead out of" in problem for problem in source["problems"]) == 1
