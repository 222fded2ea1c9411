"""The linkage file: where it may lie, who may read it, and what follows from its key."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from pellucid.cohort.deidentify import deidentify_study
from pellucid.cohort.errors import UserError
from pellucid.cohort.study import Study, load_study
from tests.cohort.deidentify.small_files import again


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


def test_a_wrong_linkage_name_leaves_no_second_key(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out" / ".deidentify").mkdir(parents=True)
    (tmp_path / "out" / ".deidentify" / "output.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not there, and .* was made with a linkage file"):
        again(study, tmp_path)
    assert not (tmp_path / "linkage.json").exists()
