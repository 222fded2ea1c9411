"""A copied study is current: the originals are recognised by their content, whatever their times."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.intake.file_listing import list_images
from pellucid.cohort.intake.known_originals import known_fingerprint
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.status import study_status
from pellucid.cohort.study import Study, load_study

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def scanned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scanned study of six images, one of them damaged. Read only."""
    folder = tmp_path_factory.mktemp("known") / "study"
    (folder / "images").mkdir(parents=True)
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.bmp")  # of one size in bytes
    (folder / "images" / "broken.bmp").write_bytes(b"BM" + bytes(100))
    text = "images: images\npatient: {from_path: '([0-9a-z]+).bmp'}\nscan: {max_unreadable: 0.5}\n"
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    scan(load_study(folder), progress=False)
    return folder


def states(study: Study) -> dict[str, str]:
    return {row["stage"]: row["state"] for row in study_status(study)}


def copied(source: Path, target: Path, copy: Callable[..., object] = shutil.copy) -> Study:
    """A copy whose files have new times, as of `cp -r`."""
    shutil.copytree(source, target, copy_function=copy)
    for path in (target / "images").iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return load_study(target)


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_a_copy_is_current_and_nothing_is_read_again(
    scanned_folder: Path, tmp_path: Path, copy: Callable[..., object]
) -> None:
    study = copied(scanned_folder, tmp_path / "elsewhere" / "copy", copy)
    assert list_images(study).fingerprint != list_images(load_study(scanned_folder)).fingerprint
    assert states(study) == {"read": "done", "scan": "done"}
    assert scan(study, progress=False).done
    assert current_scan(study).path.is_relative_to(tmp_path)


def test_a_moved_study_is_current(scanned_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(scanned_folder, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert states(load_study(tmp_path / "b")) == {"read": "done", "scan": "done"}


@pytest.mark.parametrize("what", ["one bit", "one more", "one less", "renamed"])
def test_a_copy_with_other_originals_is_stale(scanned_folder: Path, tmp_path: Path, what: str) -> None:
    study = copied(scanned_folder, tmp_path / "copy")
    assert states(study) == {"read": "done", "scan": "done"}
    image = study.image_root / "3.bmp"
    if what == "one bit":
        content = bytearray(image.read_bytes())
        content[-1] ^= 1
        image.write_bytes(content)
    elif what == "one more":
        shutil.copy(image, study.image_root / "9.bmp")
    elif what == "one less":
        image.unlink()
    else:
        image.rename(study.image_root / "9.bmp")
    assert states(study) == {"read": "stale", "scan": "stale"}
    with pytest.raises(UserError, match="changed since the last scan"):
        current_scan(study)
    shutil.copy(scanned_folder / "images" / "3.bmp", image)  # and back again
    (study.image_root / "9.bmp").unlink(missing_ok=True)
    assert states(study) == {"read": "done", "scan": "done"}


def test_the_originals_of_a_copy_are_hashed_once(scanned_folder: Path, tmp_path: Path) -> None:
    study = copied(scanned_folder, tmp_path / "copy")
    listing = list_images(study)
    known = known_fingerprint(study.analysis, listing)
    assert known == list_images(load_study(scanned_folder)).fingerprint
    for path in study.image_root.iterdir():
        path.unlink()  # a second comparison would fail
    assert known_fingerprint(study.analysis, listing) == known


def test_a_kept_answer_counts_only_for_runs_that_are_there(scanned_folder: Path, tmp_path: Path) -> None:
    study = copied(scanned_folder, tmp_path / "copy")
    listing = list_images(study)
    known_fingerprint(study.analysis, listing)
    for run in (study.analysis / "read").glob("read-*"):
        shutil.rmtree(run)
    assert known_fingerprint(study.analysis, listing) == listing.fingerprint
