"""Damage in a run, or in one it was made from, is named before anything is computed from it; other times are none."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from pellucid.cohort.runs.checksums import SUMS, DamagedRun
from pellucid.cohort.runs.folder import RunFolder, begin_run, find_run
from pellucid.cohort.runs.history import finished_runs, list_runs, open_finished, parent_of
from pellucid.cohort.runs.integrity import VERIFIED, require_intact


def flip(path: Path, bit: int = 0, *, keep_times: bool = False) -> None:
    """Flip one bit of a file."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    bit %= 8 * len(content)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def made(analysis: Path, stage: str, *parents: RunFolder, config: dict[str, object] | None = None) -> RunFolder:
    with begin_run(analysis, stage, stage, config or {}, parents) as run:
        if not run.done:
            (run.path / "prepared").mkdir()
            (run.path / "prepared" / "shard-0.arrow").write_bytes(bytes(range(200)))
            (run.path / "result.json").write_text('{"score": 0.75}', encoding="utf-8")
    return run


def chain(analysis: Path) -> dict[str, RunFolder]:
    read = made(analysis, "read")
    scan = made(analysis, "scan", read)
    vectors = made(analysis, "embed", scan, config={"backbone": "pixels"})
    return {"read": read, "scan": scan, "embed": vectors, "audit": made(analysis, "audit", scan, vectors)}


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("file", ["result.json", "config.yaml", "run.json", "prepared/shard-0.arrow"])
@pytest.mark.parametrize("stage", ["read", "scan", "embed"])
def test_damage_in_an_ancestor_is_named_even_if_the_run_is_done(
    tmp_path: Path, stage: str, file: str, keep_times: bool
) -> None:
    runs = chain(tmp_path)
    damaged = runs[stage].path / file
    flip(damaged, 37, keep_times=keep_times)
    with pytest.raises(DamagedRun) as refused:
        made(tmp_path, "audit", runs["scan"], runs["embed"])
    assert str(refused.value).startswith(f"{damaged}: is damaged: SHA256SUMS records the sha256 ")
    with pytest.raises(DamagedRun, match="is damaged"):  # a new run is not begun on it either
        made(tmp_path, "cluster", runs["scan"], runs["embed"])
    assert not (tmp_path / "cluster").exists()


@pytest.mark.parametrize("file", ["result.json", "config.yaml", "run.json", "prepared/shard-0.arrow"])
def test_damage_in_the_finished_run_itself_is_named(tmp_path: Path, file: str) -> None:
    runs = chain(tmp_path)
    flip(runs["audit"].path / file, 90)
    with pytest.raises(DamagedRun, match=file.replace("/", ".")):
        made(tmp_path, "audit", runs["scan"], runs["embed"])


def test_of_two_damaged_runs_the_parent_is_named_first(tmp_path: Path) -> None:
    """It must be repaired first; the audit names its scan before the vectors that were made from the same scan."""
    runs = chain(tmp_path)
    for stage in ("scan", "embed"):
        flip(runs[stage].path / "result.json")
    for folders in ([runs["audit"].path], [runs["embed"].path, runs["scan"].path]):
        with pytest.raises(DamagedRun) as refused:
            require_intact(*folders)
        assert str(refused.value).startswith(str(runs["scan"].path / "result.json"))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    runs = chain(tmp_path)
    (runs["scan"].path / "result.json").unlink()
    with pytest.raises(DamagedRun, match=r"result\.json: is gone"):
        require_intact(runs["embed"].path)
    (runs["embed"].path / "run.json").unlink()
    with pytest.raises(DamagedRun, match=r"run\.json: is gone"):
        finished_runs(tmp_path)


@pytest.mark.parametrize("bit", [3, 8 * 70, 8 * 64 + 1])
def test_damage_in_the_list_of_checksums_is_named(tmp_path: Path, bit: int) -> None:
    runs = chain(tmp_path)
    flip(runs["embed"].path / SUMS, bit)
    with pytest.raises(DamagedRun, match=SUMS):
        made(tmp_path, "audit", runs["scan"], runs["embed"])


def test_the_message_has_the_commands_that_repair(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").touch()
    runs = chain(tmp_path / "analysis")
    for stage, command in (("embed", f'embed {tmp_path} --backbone "pixels"'), ("read", f"scan {tmp_path}")):
        flip(runs[stage].path / "result.json")
        with pytest.raises(DamagedRun) as refused:
            require_intact(runs["audit"].path)
        assert f"`pellucid tidy {tmp_path} --damaged --yes` and compute it again with `pellucid {command}`" in str(
            refused.value
        )


def test_every_reader_of_the_record_sees_its_damage(tmp_path: Path) -> None:
    runs = chain(tmp_path)
    flip(runs["scan"].path / "run.json", 800)
    for read in (
        lambda: open_finished(runs["scan"].path),
        lambda: finished_runs(tmp_path, "scan"),
        lambda: parent_of(runs["scan"].path, "read"),
        lambda: find_run(tmp_path, "scan", "scan", runs["scan"].key),
    ):
        with pytest.raises(DamagedRun, match=r"run\.json: is damaged"):
            read()
    assert {row["stage"]: row["state"] for row in list_runs(tmp_path)}["scan"] == "damaged"


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_a_copied_or_moved_run_is_intact_whatever_its_times(tmp_path: Path, copy: object) -> None:
    chain(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=copy)  # type: ignore[arg-type]
    shutil.move(tmp_path / "there", tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*"):
        os.utime(path, (1, 1))
    shutil.rmtree(tmp_path / "here")
    runs = {run.stage: run for run in finished_runs(tmp_path / "moved")}
    require_intact(runs["audit"].path)
    assert parent_of(runs["audit"].path, "embed") == runs["embed"].path
    assert made(tmp_path / "moved", "audit", runs["scan"], runs["embed"]).done


def test_many_files_are_hashed_again_only_if_size_or_times_differ(tmp_path: Path) -> None:
    """What the shortcut of the folders with many files sees and what it does not: each copy has a checksum as well."""
    chain(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there")  # which this process has not hashed
    run = finished_runs(tmp_path / "there", "read")[0].path
    shard = run / "prepared" / "shard-0.arrow"
    flip(shard)
    with pytest.raises(DamagedRun, match=r"shard-0\.arrow: is damaged"):
        require_intact(run)
    status = shard.stat()
    known = {"prepared/shard-0.arrow": [status.st_size, status.st_mtime_ns, status.st_ctime_ns]}
    (run / VERIFIED).write_text(json.dumps({"schema": "pellucid.verified/1", "files": known}), encoding="utf-8")
    require_intact(run)
    (run / VERIFIED).unlink()
    flip(shard)
    before = os.umask(0o022)
    require_intact(run)
    os.umask(before)
    assert stat.S_IMODE((run / VERIFIED).stat().st_mode) == 0o600
    flip(shard)
    (run / VERIFIED).write_text("{", encoding="utf-8")
    with pytest.raises(DamagedRun, match=r"shard-0\.arrow: is damaged"):
        require_intact(run)


def test_prepared_copies_may_be_deleted_to_save_space(tmp_path: Path) -> None:
    runs = chain(tmp_path)
    shutil.rmtree(runs["read"].path / "prepared")
    require_intact(runs["audit"].path)
