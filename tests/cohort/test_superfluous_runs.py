"""`tidy` removes what nothing needs, and only that; killed at any step it leaves a whole study."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.checksums import SUMS
from pellucid.cohort.runs.folder import RunFolder, begin_run
from pellucid.cohort.runs.history import finished_runs
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study
from pellucid.cohort.superfluous_runs import find_superfluous, tidy

pytestmark = pytest.mark.long


def made(study: Study, stage: str, name: str, *parents: RunFolder, **config: object) -> RunFolder:
    with begin_run(study.analysis, stage, name, config, parents) as run:
        if not run.done:
            (run.path / "result.txt").write_text(f"{stage} {name} {config}", encoding="utf-8")
    return run


def write_image(study: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(study / "images" / f"p{number}.png")


@pytest.fixture(scope="module")
def scanned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scanned study of four images with an annotation. Read only."""
    folder = tmp_path_factory.mktemp("tidy") / "study"
    for part in ("images", "annotation"):
        (folder / part).mkdir(parents=True)
    for i in range(4):
        write_image(folder, i)
    (folder / "annotation" / "notes.jsonl").write_text("{}\n", encoding="utf-8")
    (folder / "study.yaml").write_text("images: images\npatient: {from_path: '(p[0-9]+)'}\n", encoding="utf-8")
    scan(load_study(folder), progress=False)
    return folder


@pytest.fixture
def study(scanned_folder: Path, tmp_path: Path) -> Study:
    shutil.copytree(scanned_folder, tmp_path / "study")
    return load_study(tmp_path / "study")


def scan_of(study: Study) -> RunFolder:
    return scan(study, progress=False)


def tidied(study: Study, **options: Any) -> tuple[list[str], list[str]]:
    """The names removed (or to be removed), and what was said."""
    said: list[str] = []
    return [item.path.name for item in tidy(study, say=said.append, **options)], said


def names(study: Study) -> set[str]:
    return {f"{run.stage}/{run.path.name}" for run in finished_runs(study.analysis)}


def everything(study: Study) -> set[str]:
    return {path.relative_to(study.path.parent).as_posix() for path in study.path.parent.rglob("*")}


def test_nothing_to_remove(study: Study) -> None:
    made(study, "embed", "pixels", scan_of(study))
    before = everything(study)
    assert tidied(study, yes=True) == ([], ["nothing to remove"])
    assert {name for name in before if not name.endswith(".lock")} <= everything(study)


def test_superseded_runs_go_unless_a_kept_run_was_made_from_them(study: Study) -> None:
    scanned = scan_of(study)
    first = made(study, "embed", "pixels", scanned, size=1)
    audit = made(study, "audit", first.name, scanned, first, permutations=99)
    second = made(study, "embed", "pixels", scanned, size=2)
    before = everything(study)
    assert tidied(study)[0] == []  # the newest audit was made from the first vectors
    newer = made(study, "audit", second.name, scanned, second, permutations=99)
    removed, said = tidied(study)
    assert removed == [audit.path.name, first.path.name], "children first"
    assert f"embed/{first.path.name} (" in "\n".join(said)
    assert f"superseded by {second.path.name}" in "\n".join(said)
    assert "nothing has been changed: repeat the command with --yes" in said[-1]
    assert before <= everything(study)
    report = made(study, "report", "report", scanned, first, audit)
    assert tidied(study)[0] == []
    kept = next(item for item in find_superfluous(study) if item.path == first.path)
    assert kept.kept.startswith(("audit/", "report/"))
    shutil.rmtree(report.path)
    assert tidied(study, yes=True)[0] == [audit.path.name, first.path.name]
    assert names(study) == {f"{r.stage}/{r.path.name}" for r in (scanned, second, newer)} | {
        f"read/{scanned.record['parents'][0]['name']}"
    }
    locks = {path.name for path in study.analysis.glob("embed/.*.lock")}
    assert locks == {f".{second.path.name}.lock"}
    assert (study.path.parent / "annotation" / "notes.jsonl").is_file()


def test_stale_runs_go_when_newer_ones_are_there(study: Study) -> None:
    old = scan_of(study)
    weights = made(study, "pretrain", "mae", old)
    vectors = made(study, "embed", "pixels", old)
    made(study, "cluster", vectors.name, vectors, old)
    write_image(study.path.parent, 7)
    new = scan_of(study)
    removed, said = tidied(study)
    assert [name.partition("-")[0] for name in removed] == ["pixels"], "the clusters; vectors can still be reused"
    assert "kept: no newer run replaces its vectors yet (--all removes it)" in "\n".join(said)
    assert f"kept: embed/{vectors.path.name} was made from it" in "\n".join(said)
    made(study, "embed", "pixels", new)
    assert vectors.path.name in tidied(study)[0]
    assert {weights.path.name, old.path.name}.isdisjoint(tidied(study)[0]), "the weights keep their scan"
    with study.path.open("a", encoding="utf-8") as file:
        file.write(f"pretrain: {{warm_start: {{weights: 'run:analysis/pretrain/{weights.path.name}'}}}}\n")
    named = load_study(study.path)
    assert old.path.name not in tidied(named, everything=True)[0], "study.yaml names the weights"


def test_all_removes_stale_weights(study: Study) -> None:
    old = scan_of(study)
    weights = made(study, "pretrain", "mae", old)
    write_image(study.path.parent, 7)
    new = scan_of(study)
    assert tidied(study)[0] == []
    removed, said = tidied(study, everything=True, yes=True)
    assert removed == [weights.path.name, old.path.name, old.record["parents"][0]["name"]]
    assert "stale: originals, table or settings have changed" in "\n".join(said)
    assert f"stale: made from scan/{old.path.name}, which is stale" in "\n".join(said)
    assert names(study) == {f"scan/{new.path.name}", f"read/{new.record['parents'][0]['name']}"}


def test_interrupted_work_stays_as_long_as_a_command_can_continue_it(study: Study) -> None:
    old = scan_of(study)

    def interrupted(name: str, parent: RunFolder) -> None:
        with pytest.raises(ZeroDivisionError), begin_run(study.analysis, "cluster", name, {}, [parent]) as run:
            (run.path / "half").write_text("x", encoding="utf-8")
            raise ZeroDivisionError

    interrupted("first", old)
    made(study, "embed", "pixels", old)
    torn = study.analysis / "embed" / ".images.parquet.123.tmp"
    torn.write_text("half", encoding="utf-8")
    removed, said = tidied(study)
    assert removed == [torn.name]
    assert "kept: `pellucid cluster` continues it" in "\n".join(said)
    write_image(study.path.parent, 7)
    interrupted("second", scan_of(study))
    removed, _ = tidied(study, everything=True, yes=True)
    left = [path.name.partition("-")[0] for path in (study.analysis / "cluster").glob(".*.partial")]
    assert left == [".second"]
    assert not torn.exists()
    assert [path.name.partition("-")[0] for path in (study.analysis / "cluster").glob(".*.lock")] == [".second"]


def test_nothing_is_removed_while_another_command_works(study: Study) -> None:
    old = scan_of(study)
    made(study, "embed", "pixels", old, size=1)
    made(study, "embed", "pixels", old, size=2)
    lock = study.analysis / "embed" / ".other-00000000.lock"
    with lock.open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            tidied(study, yes=True)
    assert len(tidied(study, yes=True)[0]) == 1
    assert not lock.exists()


def test_without_the_originals_nothing_is_called_stale(study: Study) -> None:
    made(study, "embed", "pixels", scan_of(study))
    study.image_root.rename(study.path.parent / "elsewhere")
    with pytest.raises(UserError, match="is not a folder"):
        tidied(study, yes=True)
    assert len(names(study)) == 3


def test_damaged_runs_are_quarantined_computed_again_and_then_removed(study: Study) -> None:
    scanned = scan_of(study)
    vectors = made(study, "embed", "pixels", scanned)
    made(study, "audit", "pixels", scanned, vectors)
    (vectors.path / "result.txt").write_text("changed", encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.txt: is damaged"):
        made(study, "embed", "pixels", scanned)
    removed, said = tidied(study, damaged=True)
    assert removed == [vectors.path.name]
    assert "result.txt: is damaged" in said[0]
    assert vectors.path.exists()
    tidied(study, damaged=True, yes=True)
    assert not vectors.path.exists()
    assert not made(study, "embed", "pixels", scanned).done
    assert made(study, "audit", "pixels", scanned, vectors).done, "the same inputs: still current"
    removed, _ = tidied(study, yes=True)
    assert [name.partition(".")[0] for name in removed] == [vectors.path.name]
    assert tidied(study, damaged=True)[1] == ["every file of every run is as it was written"]


def test_a_damaged_record_can_be_quarantined(study: Study) -> None:
    vectors = made(study, "embed", "pixels", scan_of(study))
    (vectors.path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json: is damaged"):
        tidied(study)
    assert tidied(study, damaged=True, yes=True)[0] == [vectors.path.name]
    assert tidied(study)[0][0].startswith(vectors.path.name)


class Killed(BaseException):
    pass


def test_killed_at_any_step_the_study_is_whole_and_the_same_command_ends_it(study: Study, tmp_path: Path) -> None:
    old = scan_of(study)
    for size in (1, 2):
        vectors = made(study, "embed", "pixels", old, size=size)
        made(study, "near", "pixels", vectors, old, size=size)
        made(study, "audit", "pixels", vectors, old, size=size)
    write_image(study.path.parent, 7)
    new = scan_of(study)
    newest = made(study, "embed", "pixels", new, size=2)
    whole = names(study)
    kept = {f"{r.stage}/{r.path.name}" for r in (new, newest)} | {f"read/{new.record['parents'][0]['name']}"}
    operations = {name: getattr(Path, name) for name in ("rename", "unlink", "rmdir")}
    for step in range(200):
        copy = tmp_path / f"copy-{step}"
        shutil.copytree(study.path.parent, copy)
        there = load_study(copy)
        count = 0

        def dying(name: str, step: int = step) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal count
                count += 1
                if count > step:
                    raise Killed
                return operations[name](*arguments, **more)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in operations:
                patch.setattr(Path, name, dying(name))
            try:
                tidied(there, yes=True)
                died = False
            except Killed:
                died = True
        left = {run.key: run for run in finished_runs(there.analysis)}
        assert kept <= names(there) <= whole
        for run in left.values():
            assert {parent["key"] for parent in run.record["parents"]} <= set(left), "no run has lost its parent"
        tidied(there, yes=True)
        assert names(there) == kept
        assert not [path for path in there.analysis.glob("*/.*") if path.name.endswith(".gone")]
        assert {path.parent.name for path in there.analysis.glob(f"*/*/{SUMS}")} == {n.partition("/")[2] for n in kept}
        shutil.rmtree(copy)
        if not died:
            break
    assert step > 5
