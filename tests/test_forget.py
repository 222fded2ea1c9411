"""Withdrawn consent: nothing of a patient is left in a study's folders, nothing comes back, and nothing else is lost."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import pellucid.cohort.scan
from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.runs.folder import begin_run
from pellucid.cohort.runs.history import list_runs, open_finished
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.study import Study, load_study
from pellucid.cohort.withdrawal_list import Withdrawn
from pellucid.embed.extract.stage import embed
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.store.catalogue import newest_vectors
from pellucid.embed.store.vectors import load_vectors
from pellucid.pretrain.stage import pretrain
from pellucid.withdrawal import forget_patients

TINY = {
    "recipe": "mae-tiny-cpu", "backbone": "test_vit", "img_size": 32, "source_px": 40, "batch_size": 8, "images_seen": 32,
    "precision": "fp32", "mae": {"decoder_dim": 32, "decoder_depth": 1},
    "machine": {"checkpoint_every": 4, "workers": 1}, "watch": {"every": 4, "images": 60},
}  # fmt: skip


def silent(sentence: str) -> None:
    """Say nothing."""


@dataclass
class Traces:
    """What must not be found again, as it would stand in files."""

    words: list[bytes]
    images: list[bytes]
    vectors: list[bytes]

    def found(self, *folders: Path) -> list[str]:
        """`file: what`, for everything that stands anywhere below the folders, also inside Parquet."""
        said = []
        for folder in folders:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                content = path.read_bytes()
                if path.suffix == ".parquet":
                    frame = pd.read_parquet(path)
                    content += frame.to_csv().encode()
                for kind in ("words", "images", "vectors"):
                    if any(thing in content for thing in getattr(self, kind)):
                        said.append(f"{path.relative_to(folder).as_posix()}: {kind}")
        return said


def write_annotations(study: Study, manifest: pd.DataFrame) -> None:
    folder = study.withdrawn.parent
    folder.mkdir(exist_ok=True)
    rows = [
        [image_id, "overall", "poor", "A. Reader", "2026-01-02T03:04:05+00:00"] for image_id in manifest["image_id"]
    ]
    frame = pd.DataFrame(rows, columns=["image_id", "measure", "grade", "author", "time"])
    frame.to_csv(folder / "quality.csv", index=False)
    lines = [json.dumps({"image_id": image_id, "said": "look"}) + "\n" for image_id in manifest["image_id"]]
    (folder / "notes.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a run of every stage that stores something. Read only."""
    folder = tmp_path_factory.mktemp("forget") / "study"
    write_phantom(folder, PhantomConfig(patients=16, images_per_patient=(2, 3), width_px=128, height_px=128))
    said = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    said |= {"pretrain": TINY, "scan": {"shard_images": 8, "size_px": 128}}
    (folder / "study.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    study = load_study(folder)
    write_annotations(study, pd.DataFrame({"image_id": []}))
    scanned = scan(study, progress=False)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    write_annotations(study, manifest[manifest["status"] == "ok"])
    scanned = scan(study, progress=False)
    trained = pretrain(study, scanned, device="cpu", progress=False)
    embed(study, scanned, "pixels", device="cpu", progress=False)
    vectors = embed(study, scanned, f"run:{trained.path}", device="cpu", progress=False)
    prepared = PreparedImages.open(scanned.path)
    with begin_run(study.analysis, "cluster", vectors.name, {}, [vectors, scanned]) as run:
        load_vectors(vectors.path).images.to_parquet(run.path / "clusters.parquet")
    with begin_run(study.analysis, "report", "report", {}, [scanned, vectors, run]) as run:
        pictures = [f"<img src='data:image/jpeg;base64,{base64.b64encode(prepared.encoded(i)).decode()}'>"
                    for i in range(len(prepared))]  # fmt: skip
        (run.path / "report.html").write_text("".join(pictures), encoding="utf-8")
    for name in (".half-00000000.partial", "old-00000000.damaged-1"):
        shutil.copytree(vectors.path, study.analysis / "embed" / name)
        (study.analysis / "embed" / name / "SHA256SUMS").unlink()
    half = study.analysis / "pretrain" / ".mae-00000000.partial"
    shutil.copytree(trained.path, half)
    (half / "SHA256SUMS").unlink()
    (half / "failure.json").write_text(
        json.dumps({"error": f"{manifest['image_id'].iloc[0]}: damaged"}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Study:
    """A copy of the study to forget in."""
    shutil.copytree(made, tmp_path / "study")
    return load_study(tmp_path / "study")


def a_patient(study: Study, split: str = "train") -> str:
    manifest = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    chosen = manifest[(manifest["status"] == "ok") & (manifest["split"] == split)]
    return str(chosen["patient_source_id"].mode().iloc[0])


def traces_of(study: Study, patient: str) -> Traces:
    scanned = current_scan(study)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    theirs = manifest[manifest["patient_source_id"] == patient]
    usable = theirs[theirs["status"] == "ok"]["image_id"].tolist()
    prepared = PreparedImages.open(scanned.path, usable)
    pictures = [prepared.encoded(i) for i in range(len(prepared))]
    rows = []
    for run in newest_vectors(study.analysis, scanned).values():
        stored = load_vectors(run.path)
        values = np.asarray(stored.values)[stored.images["image_id"].isin(usable).to_numpy()]
        rows += [row.tobytes() for part in (values, normalised(values)) for row in part]
    names = [patient, *theirs["image_id"], *(name.rpartition("/")[2] for name in theirs["image_id"])]
    return Traces([name.encode() for name in names], [*pictures, *(base64.b64encode(p)[:200] for p in pictures)], rows)


def tree(folder: Path) -> dict[str, str]:
    """Every file and its hash, locks aside (they hold the number of the process that had them last)."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def sound(study: Study) -> list[str]:
    return [
        wrong for row in list_runs(study.analysis) if row["state"] != "failed" for wrong in verify(Path(row["path"]))
    ]


@pytest.mark.long
def test_a_dry_run_says_what_would_go_and_changes_nothing(study: Study) -> None:
    before = tree(study.path.parent)
    said: list[str] = []
    assert not forget_patients(study, [a_patient(study)], say=said.append)
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
    assert tree(study.path.parent) == before


def test_no_trace_is_left(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    patient = a_patient(study)
    traces = traces_of(study, patient)
    folders = (study.analysis, study.withdrawn.parent)
    before = traces.found(*folders)
    for stage in ("read/", "scan/", "embed/", "cluster/", "report/"):
        assert any(said.startswith(stage) for said in before), f"the test would not see what {stage} holds"
    assert any(said.endswith(": vectors") for said in before)
    assert any(said.startswith("quality.csv") for said in before)
    page = next(study.analysis.glob("pretrain/mae*/training.html"))
    assert "data:image/" in page.read_text(encoding="utf-8")

    said: list[str] = []
    assert forget_patients(study, [patient], yes=True, say=said.append)

    assert traces.found(*folders) == []
    assert not any("still contains an id" in sentence for sentence in said)
    assert sound(study) == []
    assert not list(study.analysis.glob("*/*/.forgetting"))
    for page in study.analysis.glob("pretrain/*/training.html"):
        assert "data:image/" not in page.read_text(encoding="utf-8")
        assert "Course of the training" in page.read_text(encoding="utf-8")
    assert not list(study.analysis.glob("*/.half*")) + list(study.analysis.glob("*/*.damaged-*"))
    assert list(study.analysis.glob("pretrain/.mae*/checkpoints/*.pt"))


def test_weights_are_kept_and_say_whom_they_have_seen(study: Study) -> None:
    patient = a_patient(study)
    manifest = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    n = int(((manifest["patient_source_id"] == patient) & (manifest["status"] == "ok")).sum())
    folder = next(study.analysis.glob("pretrain/mae*"))
    weights = (folder / "backbone.safetensors").read_bytes()
    forget_patients(study, [patient], yes=True, say=silent)
    assert (folder / "backbone.safetensors").read_bytes() == weights
    assert json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))["n_images_withdrawn"] == n
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{n} images of these (at most) are of patients who withdrew consent later" in card


def test_records_say_when_and_how_many_and_parents_still_fit(study: Study) -> None:
    patient = a_patient(study)
    forget_patients(study, [patient], yes=True, say=silent)
    for row in list_runs(study.analysis):
        if row["state"] == "failed":
            continue
        run = open_finished(Path(row["path"]))
        assert [entry["images"] > 0 for entry in run.record["forgotten"]] == [True], run.path
        assert run.path.name.endswith(run.key[:8])
        for parent in run.record["parents"]:
            sums = study.analysis / parent["path"] / "SHA256SUMS"
            assert hashlib.sha256(sums.read_bytes()).hexdigest() == parent["sha256"], (run.path, parent["path"])


def without(study: Study, patient: str, folder: Path) -> Study:
    """The study as if the patient had never been in it."""
    table = pd.read_csv(study.data / "clinical.csv", dtype=str, keep_default_na=False)
    manifest = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    shutil.copytree(study.path.parent, folder, ignore=shutil.ignore_patterns("analysis"))
    for image_id in manifest.loc[manifest["patient_source_id"] == patient, "image_id"]:
        (folder / "images" / image_id).unlink()
    table[table["patient_id"] != patient].to_csv(folder / "clinical.csv", index=False)
    annotations = pd.read_csv(folder / "annotation" / "quality.csv", dtype=str)
    gone = set(manifest.loc[manifest["patient_source_id"] == patient, "image_id"])
    annotations[~annotations["image_id"].isin(gone)].to_csv(folder / "annotation" / "quality.csv", index=False)
    return load_study(folder)


@pytest.mark.long
def test_what_follows_equals_a_study_without_her_and_nothing_is_decoded_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = a_patient(study)
    other = without(study, patient, tmp_path / "without")
    expected = pd.read_parquet(scan(other, progress=False).path / "manifest.parquet")
    wanted = load_vectors(embed(other, current_scan(other), "pixels", device="cpu", progress=False).path)
    forget_patients(study, [patient], yes=True, say=silent)

    def again(*_: object) -> Iterator[int]:
        raise AssertionError("the originals were read again")

    monkeypatch.setattr(pellucid.cohort.scan, "read_all", again)
    scanned = scan(study, progress=False)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    places = ["shard", "shard_row"]
    pd.testing.assert_frame_equal(manifest.drop(columns=places), expected.drop(columns=places))
    source = scanned.read_json("source.json")
    assert not any("name an image that is not there" in said for said in source["problems"])
    assert any("withdrew consent" in said for said in source["problems"])
    found = load_vectors(embed(study, scanned, "pixels", device="cpu", progress=False).path)
    assert found.spec["taken_over"] == len(found.images)  # no vector was computed again either
    assert found.images["image_id"].tolist() == wanted.images["image_id"].tolist()
    np.testing.assert_array_equal(np.asarray(found.values), np.asarray(wanted.values))
    mine, theirs = (PreparedImages.open(current_scan(s).path) for s in (study, other))
    assert [mine.encoded(i) for i in range(len(mine))] == [theirs.encoded(i) for i in range(len(theirs))]


@pytest.mark.long
def test_originals_may_be_removed_first(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = a_patient(study)
    manifest = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    for image_id in manifest.loc[manifest["patient_source_id"] == patient, "image_id"]:
        (study.image_root / image_id).unlink()
    forget_patients(study, [patient], yes=True, say=silent)
    monkeypatch.setattr(pellucid.cohort.scan, "read_all", lambda *_: pytest.fail("the originals were read again"))
    left = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    assert len(left) == len(manifest) - (manifest["patient_source_id"] == patient).sum()


@pytest.mark.long
@pytest.mark.parametrize("tries", [6, pytest.param(10**6, marks=pytest.mark.slow)])
def test_killed_anywhere_the_repeated_command_finishes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """Stopped before a rename: nothing is half done afterwards, and the end is that of an undisturbed call.

    Args:
        tries: before how many of the renames, spread over the whole call.
    """

    class Killed(BaseException):
        pass

    for stage in ("cluster", "report", "pretrain"):
        shutil.rmtree(study.analysis / stage)
    for path in (study.analysis / "embed").iterdir():
        if path.is_dir() and not path.name.startswith("pixels"):
            shutil.rmtree(path)
    patient = a_patient(study)
    traces = traces_of(study, patient)
    calls = 0
    deadly = 10**9
    renames: dict[str, Callable[..., Any]] = {name: getattr(Path, name) for name in ("replace", "rename", "unlink")}

    def deadly_call(name: str) -> Callable[..., Any]:
        def call(self: Path, *arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > deadly:  # like a dead process, it never comes back
                raise Killed
            return renames[name](self, *arguments, **more)

        return call

    for name in renames:
        monkeypatch.setattr(Path, name, deadly_call(name))

    def attempt(folder: Path, limit: int) -> int:
        nonlocal calls, deadly
        calls, deadly = 0, limit
        try:
            forget_patients(load_study(folder), [patient], yes=True, say=silent)
        finally:
            used, deadly = calls, 10**9
        return used

    def state(folder: Path) -> tuple[list[str], list[str]]:
        there = load_study(folder)
        names = sorted(p.relative_to(folder).as_posix() for p in there.analysis.glob("*/[!.]*"))
        stored = next(there.analysis.glob("embed/pixels*"))
        return names, load_vectors(stored).images["image_id"].tolist()

    shutil.copytree(study.path.parent, tmp_path / "whole")
    whole = attempt(tmp_path / "whole", 10**9)
    assert whole > 20
    for limit in sorted(set(np.linspace(0, whole - 1, min(tries, whole)).astype(int).tolist())):
        folder = tmp_path / f"killed-{limit}"
        shutil.copytree(study.path.parent, folder)
        with pytest.raises(Killed):
            attempt(folder, limit)
        there = load_study(folder)
        if Withdrawn.load(there.withdrawn).pending:
            with pytest.raises(UserError, match="brings it to its end"):
                scan(there, progress=False)
        listed = Withdrawn.load(there.withdrawn)
        if listed.pending or not listed.entries:  # else it was killed when all was done
            attempt(folder, 10**9)
        assert traces.found(there.analysis, there.withdrawn.parent) == [], limit
        assert sound(there) == [], limit
        assert state(folder) == state(tmp_path / "whole"), limit
        shutil.rmtree(folder)


@pytest.mark.long
def test_a_run_that_somebody_works_on_is_waited_for(study: Study) -> None:
    before = tree(study.path.parent)
    lock = study.analysis / "embed" / f".{next(study.analysis.glob('embed/pixels*')).name}.lock"
    with lock.open("a+", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process .* is working on this run"):
            forget_patients(study, [a_patient(study)], yes=True, say=silent)
    assert tree(study.path.parent) == before


@pytest.mark.long
def test_images_that_turn_up_later_stay_out(study: Study) -> None:
    patient = a_patient(study)
    forget_patients(study, [patient], yes=True, say=silent)
    scan(study, progress=False)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(
        study.image_root / "late_arrival.png"
    )
    table = pd.read_csv(study.data / "clinical.csv", dtype=str, keep_default_na=False)
    row = table[table["patient_id"] == patient].iloc[[0]].assign(file_name="late_arrival.png")
    pd.concat([table, row]).to_csv(study.data / "clinical.csv", index=False)
    scanned = scan(study, progress=False)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    assert patient not in set(manifest["patient_source_id"])
    assert not manifest["image_id"].str.contains("late_arrival").any()
    late = Traces([b"late_arrival", patient.encode()], [], [])
    assert late.found(study.analysis, study.withdrawn.parent) == []
    assert sound(study) == []
    assert not Withdrawn.load(study.withdrawn).pending
    assert scan(study, progress=False).done


@pytest.mark.long
def test_a_research_id_means_nobody_else_the_second_time(study: Study) -> None:
    manifest = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    research = str(manifest.loc[manifest["patient_source_id"] == a_patient(study), "patient"].iloc[0])
    forget_patients(study, [research], yes=True, say=silent)
    left = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    with pytest.raises(UserError, match=rf"`{research}` has been forgotten"):
        forget_patients(study, [research], yes=True, say=silent)
    assert len(pd.read_parquet(current_scan(study).path / "manifest.parquet")) == len(left)


def test_nobody_is_forgotten_by_a_wrong_name(study: Study) -> None:
    patient = a_patient(study)
    with pytest.raises(UserError, match="no scan knows a patient `PHX`"):
        forget_patients(study, [patient, "PHX"], yes=True, say=silent)
    assert not study.withdrawn.exists()


@pytest.mark.long
def test_one_patient_of_a_file_that_others_share(tmp_path: Path) -> None:
    """Pages of one file that are of two patients: hers go, the file and the other's stay."""
    rng = np.random.default_rng(1)
    pages = [Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)) for _ in range(4)]
    (tmp_path / "images").mkdir()
    pages[0].save(tmp_path / "images" / "shared.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "study.yaml").write_text("images: images\ntable: t.csv\nimage: f\npatient: p\n", encoding="utf-8")
    study = load_study_of_pages(tmp_path)
    before = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    forget_patients(study, ["hers-1"], yes=True, say=silent)
    after = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")
    assert set(before["patient_source_id"]) == {"hers-1", "his-01"}
    assert after["image_id"].tolist() == before.loc[before["patient_source_id"] == "his-01", "image_id"].tolist()
    shutil.rmtree(study.analysis)
    assert scan(study, progress=False).path.is_dir()  # read anew, her pages are left out again
    again = pd.read_parquet(current_scan(study).path / "manifest.parquet")
    assert again["image_id"].tolist() == after["image_id"].tolist()


def load_study_of_pages(folder: Path) -> Study:
    (folder / "look.yaml").write_text("images: images\npatient: none\nanalysis: look\n", encoding="utf-8")
    study = load_study(folder / "look.yaml")
    ids = pd.read_parquet(scan(study, progress=False).path / "manifest.parquet")["image_id"]
    owners = ["hers-1" if i < 2 else "his-01" for i in range(len(ids))]
    pd.DataFrame({"f": ids, "p": owners}).to_csv(folder / "t.csv", index=False)
    return load_study(folder)


def test_the_command_line(study: Study, pellucid: Callable[..., Any]) -> None:
    patient = a_patient(study)
    dry = pellucid("forget", study.path, patient)
    assert dry.returncode == 0, dry.stderr
    assert "nothing has been changed" in dry.stdout
    done = pellucid("forget", study.path, patient, "--yes")
    assert done.returncode == 0, done.stderr
    assert "for you to delete" in done.stdout
    again = pellucid("forget", study.path, patient, "--yes")
    assert again.returncode == 2
    assert "has been forgotten" in again.stderr
