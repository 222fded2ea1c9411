"""The list of who withdrew: it names nobody, knows everybody on it, and is never passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.withdrawal_list import Withdrawn, refuse_pending


@pytest.fixture
def listed(tmp_path: Path) -> Withdrawn:
    withdrawn = Withdrawn.load(tmp_path / "annotation" / "withdrawn.json")
    entry = withdrawn.new(3)
    entry.patients.add(withdrawn.hash("patients", "Müller-1"))
    entry.files |= {withdrawn.hash("files", name) for name in ("a/one.jpg", "a/b#2.dcm")}
    entry.frames.add(withdrawn.hash("frames", "shared.tif#3"))
    entry.rows.add(withdrawn.hash("rows", "one"))
    entry.asked.add(withdrawn.hash("asked", "P0007"))
    entry.done = True
    withdrawn.save()
    return Withdrawn.load(withdrawn.path)


def test_the_list_names_nobody_but_knows_them(listed: Withdrawn) -> None:
    text = listed.path.read_text(encoding="utf-8")
    for secret in ("ller", "one", "b#2", "shared", "P0007"):
        assert secret not in text.replace("anyone", "").replace("done", "")
    assert listed.holds_patient("Müller-1")
    assert listed.holds_patient("Müller-1")  # ü as u and a diaeresis
    assert not listed.holds_patient("Müller-2")
    assert listed.was_asked("P0007") is not None
    assert listed.was_asked("P0008") is None
    assert listed.which_rows(["one", None, "two"]).tolist() == [True, False, False]


def test_frames_go_with_their_file_and_alone(listed: Withdrawn) -> None:
    ids = ["a/one.jpg", "a/one.jpg#4", "a/b#2.dcm", "a/b#2.dcm#7", "a/b", "shared.tif", "shared.tif#3", "shared.tif#30"]
    assert listed.which(ids).tolist() == [True, True, True, True, False, False, True, False]
    files = [name.partition("#")[0] if name.startswith("shared") else name for name in ids]
    assert listed.which_files(files, ids).tolist() == [True, False, True, False, False, False, True, False]


def test_the_same_id_has_another_hash_in_another_study(listed: Withdrawn, tmp_path: Path) -> None:
    other = Withdrawn.load(tmp_path / "elsewhere.json")
    assert other.hash("patients", "Müller-1") != listed.hash("patients", "Müller-1")
    assert not other.which(["a/one.jpg"]).any()


@pytest.mark.parametrize("damage", ["", "{}", '{"schema": "pellucid.withdrawn/9", "salt": "00", "withdrawals": []}'])
def test_a_damaged_list_is_refused(listed: Withdrawn, damage: str) -> None:
    listed.path.write_text(damage, encoding="utf-8")
    with pytest.raises(UserError, match=r"withdrawn\.json: (the list of withdrawn patients cannot be read|has schema)"):
        Withdrawn.load(listed.path)


def test_nothing_is_made_while_a_patient_is_half_forgotten(listed: Withdrawn, tmp_path: Path) -> None:
    refuse_pending(listed.path, tmp_path)
    listed.new(1)
    listed.save()
    assert json.loads(listed.path.read_text(encoding="utf-8"))["withdrawals"][1]["done"] is False
    with pytest.raises(UserError, match=r"`pellucid forget .*` brings it to its end"):
        refuse_pending(listed.path, tmp_path)
    assert [entry.images for entry in listed.without_pending().entries] == [3]
