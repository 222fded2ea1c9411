"""Withdrawn consent: nothing of a patient is left in a study's folders, nothing comes back, and nothing else is
lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pellucid.cohort.scan
from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.runs.history import list_runs, open_finished
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.study import Study, load_study
from pellucid.cohort.withdrawal_list import Withdrawn
from pellucid.embed.extract.stage import embed
from pellucid.embed.store.vectors import load_vectors
from pellucid.withdrawal import forget_patients

pytestmark = pytest.mark.long


def silent(sentence: str) -> None:
    """Say nothing."""


def test_a_dry_run_says_what_would_go_and_changes_nothing(world: Any) -> None:
    before = world.tree()
    said: list[str] = []
    assert not forget_patients(world.study, [world.a_patient()], say=said.append)
    text = "\n".join(said)
    for stage in (
        "read/read-",
        "scan/scan-",
        "embed/pixels-",
        "cluster/",
        "report/report-",
        "pretrain/",
        "annotation/",
    ):
        assert stage in text
    assert "cannot unlearn" in text
    assert "repeat the command with --yes" in text
    assert world.tree() == before


def test_no_trace_is_left(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    patient = world.a_patient()
    traces = world.traces_of(patient)
    folders = (world.study.analysis, world.study.withdrawn.parent)
    before = traces.found(*folders)
    for stage in ("read/", "scan/", "embed/", "cluster/", "report/"):
        assert any(said.startswith(stage) for said in before), f"the test would not see what {stage} holds"
    assert any(said.endswith(": vectors") for said in before)
    assert any(said.startswith("quality.csv") for said in before)
    page = next(world.study.analysis.glob("pretrain/mae*/training.html"))
    assert "data:image/" in page.read_text(encoding="utf-8")

    said: list[str] = []
    assert forget_patients(world.study, [patient], yes=True, say=said.append)

    assert traces.found(*folders) == []
    assert not any("still contains an id" in sentence for sentence in said)
    assert world.wrong_checksums() == []
    assert not list(world.study.analysis.glob("*/*/.forgetting"))
    for page in world.study.analysis.glob("pretrain/*/training.html"):
        assert "data:image/" not in page.read_text(encoding="utf-8")
        assert "Training curves" in page.read_text(encoding="utf-8")
    assert not list(world.study.analysis.glob("*/.half*")) + list(world.study.analysis.glob("*/*.damaged-*"))
    assert list(world.study.analysis.glob("pretrain/.mae*/checkpoints/*.pt"))


def test_weights_are_kept_and_say_whom_they_have_seen(world: Any) -> None:
    patient = world.a_patient()
    manifest = pd.read_parquet(current_scan(world.study).path / "manifest.parquet")
    n = int(((manifest["patient_source_id"] == patient) & (manifest["status"] == "ok")).sum())
    folder = next(world.study.analysis.glob("pretrain/mae*"))
    weights = (folder / "backbone.safetensors").read_bytes()
    world.withdraw(patient)
    assert (folder / "backbone.safetensors").read_bytes() == weights
    assert json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))["n_images_withdrawn"] == n
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"Up to {n} images of these are of patients who later withdrew consent" in card


def test_records_say_when_and_how_many_and_parents_still_fit(world: Any) -> None:
    patient = world.a_patient()
    world.withdraw(patient)
    for row in list_runs(world.study.analysis):
        if row["state"] == "failed":
            continue
        run = open_finished(Path(row["path"]))
        assert [entry["images"] > 0 for entry in run.record["forgotten"]] == [True], run.path
        assert run.path.name.endswith(run.key[:8])
        for parent in run.record["parents"]:
            sums = world.study.analysis / parent["path"] / "SHA256SUMS"
            assert hashlib.sha256(sums.read_bytes()).hexdigest() == parent["sha256"], (run.path, parent["path"])


def without(world: Any, patient: str, folder: Path) -> Study:
    """The study as if the patient had never been in it."""
    table = pd.read_csv(world.study.data / "clinical.csv", dtype=str, keep_default_na=False)
    manifest = pd.read_parquet(current_scan(world.study).path / "manifest.parquet")
    shutil.copytree(world.study.path.parent, folder, ignore=shutil.ignore_patterns("analysis"))
    for image_id in manifest.loc[manifest["patient_source_id"] == patient, "image_id"]:
        (folder / "images" / image_id).unlink()
    table[table["patient_id"] != patient].to_csv(folder / "clinical.csv", index=False)
    annotations = pd.read_csv(folder / "annotation" / "quality.csv", dtype=str)
    gone = set(manifest.loc[manifest["patient_source_id"] == patient, "image_id"])
    annotations[~annotations["image_id"].isin(gone)].to_csv(folder / "annotation" / "quality.csv", index=False)
    return load_study(folder)


def test_what_follows_equals_a_study_without_the_patient_and_nothing_is_decoded_again(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = world.a_patient()
    other = without(world, patient, tmp_path / "without")
    expected = pd.read_parquet(scan(other, progress=False).path / "manifest.parquet")
    wanted = load_vectors(embed(other, current_scan(other), "pixels", device="cpu", progress=False).path)
    world.withdraw(patient)

    def again(*_: object) -> Iterator[int]:
        raise AssertionError("the originals were read again")

    monkeypatch.setattr(pellucid.cohort.scan, "read_all", again)
    scanned = scan(world.study, progress=False)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    places = ["shard", "shard_row"]
    pd.testing.assert_frame_equal(manifest.drop(columns=places), expected.drop(columns=places))
    source = scanned.read_json("source.json")
    assert not any("name an image that is not there" in said for said in source["problems"])
    assert any("withdrew consent" in said for said in source["problems"])
    found = load_vectors(embed(world.study, scanned, "pixels", device="cpu", progress=False).path)
    assert found.spec["taken_over"] == len(found.images)  # no vector was computed again either
    assert found.images["image_id"].tolist() == wanted.images["image_id"].tolist()
    np.testing.assert_array_equal(np.asarray(found.values), np.asarray(wanted.values))
    mine, theirs = (PreparedImages.open(current_scan(s).path) for s in (world.study, other))
    assert [mine.encoded(i) for i in range(len(mine))] == [theirs.encoded(i) for i in range(len(theirs))]


def test_originals_may_be_removed_first(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = world.a_patient()
    manifest = pd.read_parquet(current_scan(world.study).path / "manifest.parquet")
    for image_id in manifest.loc[manifest["patient_source_id"] == patient, "image_id"]:
        (world.study.image_root / image_id).unlink()
    world.withdraw(patient)
    monkeypatch.setattr(pellucid.cohort.scan, "read_all", lambda *_: pytest.fail("the originals were read again"))
    left = pd.read_parquet(scan(world.study, progress=False).path / "manifest.parquet")
    assert len(left) == len(manifest) - (manifest["patient_source_id"] == patient).sum()


def test_images_that_turn_up_later_stay_out(world: Any) -> None:
    patient = world.a_patient()
    world.withdraw(patient)
    scan(world.study, progress=False)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(
        world.study.image_root / "late_arrival.png"
    )
    table = pd.read_csv(world.study.data / "clinical.csv", dtype=str, keep_default_na=False)
    row = table[table["patient_id"] == patient].iloc[[0]].assign(file_name="late_arrival.png")
    pd.concat([table, row]).to_csv(world.study.data / "clinical.csv", index=False)
    scanned = scan(world.study, progress=False)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    assert patient not in set(manifest["patient_source_id"])
    assert not manifest["image_id"].str.contains("late_arrival").any()
    late = replace(world.traces_of(patient), words=[b"late_arrival", patient.encode()])
    assert late.found(world.study.analysis, world.study.withdrawn.parent) == []
    assert world.wrong_checksums() == []
    assert not Withdrawn.load(world.study.withdrawn).pending
    assert scan(world.study, progress=False).done


def test_a_research_id_means_nobody_else_the_second_time(world: Any) -> None:
    manifest = pd.read_parquet(current_scan(world.study).path / "manifest.parquet")
    research = str(manifest.loc[manifest["patient_source_id"] == world.a_patient(), "patient"].iloc[0])
    world.withdraw(research)
    left = pd.read_parquet(scan(world.study, progress=False).path / "manifest.parquet")
    with pytest.raises(UserError, match=rf"`{research}` has been forgotten"):
        world.withdraw(research)
    assert len(pd.read_parquet(current_scan(world.study).path / "manifest.parquet")) == len(left)


def test_nobody_is_forgotten_by_a_wrong_name(world: Any) -> None:
    patient = world.a_patient()
    with pytest.raises(UserError, match="no scan knows a patient `PHX`"):
        world.withdraw(patient, "PHX")
    assert not world.study.withdrawn.exists()


def test_one_patient_of_a_file_that_others_share(tmp_path: Path) -> None:
    """Pages of one file belong to two patients: the pages of one are removed, the file and the other pages stay."""
    rng = np.random.default_rng(1)
    pages = [Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)) for _ in range(4)]
    (tmp_path / "images").mkdir()
    pages[0].save(tmp_path / "images" / "shared.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "study.yaml").write_text("images: images\ntable: t.csv\nimage: f\npatient: p\n", encoding="utf-8")
    study = study_of_pages(tmp_path)
    before = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    forget_patients(study, ["first-1"], yes=True, say=silent)
    after = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    assert set(before["patient_source_id"]) == {"first-1", "second-1"}
    assert after["image_id"].tolist() == before.loc[before["patient_source_id"] == "second-1", "image_id"].tolist()
    shutil.rmtree(study.analysis)
    assert scan(study, progress=False).path.is_dir()  # read again, the removed pages stay excluded
    again = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    assert again["image_id"].tolist() == after["image_id"].tolist()


def study_of_pages(folder: Path) -> Study:
    (folder / "survey.yaml").write_text("images: images\npatient: none\nanalysis: survey\n", encoding="utf-8")
    ids = pd.read_parquet(scan(load_study(folder / "survey.yaml"), progress=False).path / "manifest.parquet")[
        "image_id"
    ]
    owners = ["first-1" if i < 2 else "second-1" for i in range(len(ids))]
    pd.DataFrame({"f": ids, "p": owners}).to_csv(folder / "t.csv", index=False)
    return load_study(folder)
