"""What extraction reads: the same pictures under the same ids as the scan, and hashes that follow content, not
names."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.intake.file_listing import list_folder
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.study import ScanConfig, Study, load_study
from pellucid.embed.extract.image_sources import DecodedPicture, FileSource, folder_source, study_source


def pictures(source: FileSource, size_px: int = 32) -> list[DecodedPicture]:
    return [seen for unit in range(len(source.units)) for seen in source.pictures(unit, size_px)]


def write_pages(path: Path, n: int) -> None:
    pages = [Image.fromarray(np.full((40, 50, 3), 40 * k, np.uint8)) for k in range(n)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with a file of three pages, a plain picture, a copy of it and a broken one."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_pages(folder / "pages.tif", 3)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "plain.png"), rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    shutil.copy(folder / "plain.png", folder / "copy.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    return folder


@pytest.mark.long
def test_a_file_of_several_pictures_gives_them_under_the_ids_of_the_scan(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("images: mixed\npatient: none\nscan: {max_unreadable: 1}\n", encoding="utf-8")
    study = load_study(tmp_path)
    manifest = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    seen = pictures(folder_source(list_folder(mixed)))
    assert {s.image_id for s in seen if s.pixels is not None} == set(
        manifest.loc[manifest["status"] == "ok", "image_id"]
    )
    assert [s.image_id for s in seen] == [
        "broken.jpg",
        "copy.png",
        "pages.tif#0",
        "pages.tif#1",
        "pages.tif#2",
        "plain.png",
    ]
    assert {s.image_id: s.reason for s in seen if s.pixels is None} == {
        "broken.jpg": "a damaged JPEG: the header cannot be read"
    }
    grey = [int(s.pixels.mean()) for s in seen if s.pixels is not None and s.image_id.startswith("pages")]
    assert grey == [0, 40, 80], "each page is itself"


@pytest.mark.long
def test_hashes_follow_content_not_names(mixed: Path) -> None:
    by_id = {s.image_id: s for s in pictures(folder_source(list_folder(mixed)))}
    assert by_id["plain.png"].content == by_id["copy.png"].content
    assert len({by_id[f"pages.tif#{k}"].content for k in range(3)}) == 3
    before = by_id["plain.png"].content
    cv2.imwrite(str(mixed / "plain.png"), np.zeros((60, 80, 3), np.uint8))
    source = folder_source(list_folder(mixed))
    assert {s.image_id: s for s in pictures(source)}["plain.png"].content != before
    for unit, name in enumerate(source.units):
        first = next(source.pictures(unit, 32))
        assert first.content.partition("#")[0] == source.content(unit), f"{name}: known without decoding"


@pytest.mark.long
def test_other_rules_of_reading_are_other_content(mixed: Path) -> None:
    one = FileSource(mixed, ["pages.tif"], ScanConfig())
    other = FileSource(mixed, ["pages.tif"], ScanConfig(frames="middle"))
    assert one.content(0) != other.content(0)
    assert len(pictures(one)) == 3
    assert len(pictures(other)) == 1


def test_a_file_that_is_gone_or_has_lost_a_page_is_named(mixed: Path) -> None:
    wanted = {"pages.tif": ["pages.tif#0", "pages.tif#7"], "away.png": ["away.png"]}
    source = FileSource(mixed, list(wanted), ScanConfig(), wanted)
    assert {s.image_id: s.reason for s in pictures(source) if s.pixels is None} == {
        "pages.tif#7": "the file no longer holds this picture",
        "away.png": "the file cannot be opened (No such file or directory)",
    }
    assert source.content(1) == ""


@pytest.mark.long
def test_a_file_that_kills_or_delays_its_decoder_is_named(mixed: Path, crashing_reader: None) -> None:
    (mixed / "bad.png").write_bytes((mixed / "plain.png").read_bytes() + b"crash")
    seen = pictures(FileSource(mixed, ["bad.png", "plain.png"], ScanConfig(size_px=32)))
    assert [(s.image_id, s.reason) for s in seen] == [
        ("bad.png", "its decoder crashed or ran out of memory"),
        ("plain.png", ""),
    ]
    slow = FileSource(mixed, ["plain.png"], ScanConfig(size_px=32, time_limit_s=1e-4))
    assert "reading took longer than 0.0001 s" in pictures(slow)[0].reason


def test_sources_of_a_study(scanned: tuple[Study, RunFolder]) -> None:
    study, run = scanned
    prepared, images = study_source("prepared", run.path, study.image_root, 64)
    originals, same = study_source("originals", run.path, study.image_root, 64)
    assert images.equals(same)
    reopened = pickle.loads(pickle.dumps(prepared))
    direct = PreparedImages.open(run.path)
    for unit in (0, len(prepared.units) - 1):
        (one,), (other,) = list(prepared.pictures(unit, 64)), list(originals.pictures(unit, 64))
        assert one.image_id == other.image_id == images["image_id"][unit]
        assert one.pixels is not None
        assert other.pixels is not None
        assert np.array_equal(one.pixels, direct.square(unit, 64))
        assert np.array_equal(next(reopened.pictures(unit, 64)).pixels, one.pixels)
        assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 6, "a prepared copy looks like its original"
        assert one.content != other.content, "and is another thing to compute from"
    with pytest.raises(
        UserError, match=r"scan again with scan\.size_px=512 .* or read the originals with embed\.source="
    ):
        study_source("prepared", run.path, study.image_root, 512)
