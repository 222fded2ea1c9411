"""Which files are listed: content decides, links stay inside, and one odd name costs one file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.intake.file_listing import LINKED_FOLDER, list_folder, list_images
from pellucid.cohort.study import load_study


def picture(path: Path, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path, kind)


def test_content_decides_not_the_ending(tmp_path: Path) -> None:
    names = ("IMG0001", "b.HEIC", "c.jpg_original", "d.jpg", "f.JPG~", "1.2.840.113619.2.5", "x.dat")
    for name in names:
        picture(tmp_path / name, "JPEG")
    picture(tmp_path / "g.png.1")
    for name in ("Thumbs.db", "notes.xlsx", "clip.mp4", "readme"):
        (tmp_path / name).write_bytes(bytes(64))
    listing = list_folder(tmp_path)
    assert set(listing.image_ids) == {*names, "g.png.1"}
    assert listing.ignored == {".db": 1, ".xlsx": 1, ".mp4": 1, "no ending": 1}


def test_hollow_files_without_an_ending_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "IM0001")
    for name, content in {"IM0002": b"", "IM0003": bytes(4096), "VERSION": b"1.0", "empty.txt": b""}.items():
        (tmp_path / name).write_bytes(content)
    listing = list_folder(tmp_path)
    assert listing.hollow == ("IM0002", "IM0003")
    assert any("2 of these have no ending and are empty" in note and "`IM0003`" in note for note in listing.notes())
    assert not any("empty" in note for note in listing.notes(skipped=False))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.HEIC", b"\0\0\0\x18ftypheic" + bytes(64)),
        ("without_ending", b"\0\0\0\x18ftypheic" + bytes(64)),
        ("a.jp2", bytes(64)),
        ("a.nii.gz", b"\x1f\x8b" + bytes(64)),
        ("volume", bytes(344) + b"n+1\0" + bytes(200)),
        ("a.bin", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64)),
    ],
)
def test_images_that_are_not_read_are_listed_so_that_they_count(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert list_folder(tmp_path).image_ids == (name,)


def test_a_name_that_is_not_utf8_costs_only_its_file(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    picture(tmp_path / "odd.png")
    try:
        (tmp_path / "odd.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/p1_L\xe4sion.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    listing = list_folder(tmp_path)
    assert listing.image_ids == ("good.png",)
    assert listing.refused == ((r"p1_L\xe4sion.png", "its name is not UTF-8: rename it"),)


def test_circles_of_links_cost_only_themselves(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "good.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "x.png").symlink_to(tmp_path / "y.png")
    (tmp_path / "y.png").symlink_to(tmp_path / "x.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a", target_is_directory=True)
    listing = list_folder(tmp_path)
    assert "a/good.png" in listing.image_ids
    assert {"x.png", "y.png", "a/up"} <= {name for name, _ in listing.refused}
    assert {reason for _, reason in listing.refused} == {"a circle of links"}


def test_linked_folders_are_treated_as_linked_files(tmp_path: Path) -> None:
    root, disk = tmp_path / "images", tmp_path / "disk"
    picture(root / "real" / "a.png")
    picture(disk / "b.png")
    (root / "site_b").symlink_to(disk, target_is_directory=True)
    (root / "b.png").symlink_to(disk / "b.png")
    (root / "inside").symlink_to(root / "real", target_is_directory=True)
    (root / "inside.png").symlink_to(root / "real" / "a.png")
    listing = list_folder(root)
    assert listing.image_ids == ("inside.png", "inside/a.png", "real/a.png")
    assert listing.ignored == {LINKED_FOLDER: 1, "link out of the folder": 1}


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    picture(tmp_path / "disk" / "a.png")
    (tmp_path / "images").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert list_folder(tmp_path / "images").image_ids == ("a.png",)


@pytest.mark.parametrize("pattern", ["../secret/*.png", "images/../../secret/*.png", "/etc/*.png"])
def test_a_glob_that_leaves_the_root_is_refused(tmp_path: Path, pattern: str) -> None:
    picture(tmp_path / "secret" / "s.png")
    picture(tmp_path / "study" / "images" / "a.png")
    (tmp_path / "study" / "study.yaml").write_text(f"images: ['{pattern}']\npatient: none\n", encoding="utf-8")
    with pytest.raises(UserError, match="leads out of"):
        list_images(load_study(tmp_path / "study"))


def test_a_glob_does_not_leave_the_root_through_links(tmp_path: Path) -> None:
    picture(tmp_path / "secret" / "s.png")
    picture(tmp_path / "study" / "images" / "a.png")
    picture(tmp_path / "study" / "images" / ".hidden" / "h.png")
    (tmp_path / "study" / "images" / "out").symlink_to(tmp_path / "secret", target_is_directory=True)
    (tmp_path / "study" / "study.yaml").write_text(
        "images: ['images/*.png', 'images/*/*.png']\npatient: none\n", encoding="utf-8"
    )
    listing = list_images(load_study(tmp_path / "study"))
    assert [Path(image_id).name for image_id in listing.image_ids] == ["a.png"]
    assert listing.ignored == {"link out of the folder": 1}
