"""Run folders: same key, same folder; half-done work is continued; what is finished is never touched again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from pellucid.cohort.errors import Preempted, UserError
from pellucid.cohort.runs.atomic_files import atomic_path, write_json
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.runs.folder import begin_run, run_key
from pellucid.cohort.runs.history import list_runs, open_finished, parent_of


def finish(analysis: Path, stage: str = "embed", text: str = "x", **key: object):  # type: ignore[no-untyped-def]
    with begin_run(analysis, stage, "name", {"text": text}, **key) as run:  # type: ignore[arg-type]
        if not run.done:
            (run.path / "result.txt").write_text(text, encoding="utf-8")
    return run


def test_repeating_gives_the_same_folder_and_does_nothing(tmp_path: Path) -> None:
    first = finish(tmp_path)
    assert not first.done
    before = (first.path / "run.json").read_bytes()
    again = finish(tmp_path)
    assert again.done
    assert again.path == first.path
    assert (first.path / "run.json").read_bytes() == before
    assert finish(tmp_path, text="y").path != first.path


def test_record_and_checksums(tmp_path: Path) -> None:
    parent = finish(tmp_path, "scan")
    run = finish(tmp_path, parents=[parent], seed=3)
    record = run.read_json("run.json")
    assert record["schema"] == "pellucid.run/1"
    assert record["seed"] == 3
    assert record["parents"][0]["key"] == parent.key
    assert {"python", "numpy"} <= set(record["versions"])
    assert parent_of(run.path, "scan") == parent.path
    with pytest.raises(UserError, match="was not made from a read run"):
        parent_of(run.path, "read")
    assert verify(run.path) == []
    (run.path / "result.txt").write_text("changed", encoding="utf-8")
    assert len(verify(run.path)) == 1
    assert verify(run.path)[0].startswith(f"{run.path / 'result.txt'}: is damaged: SHA256SUMS records the sha256 ")


def test_exception_leaves_the_work_to_be_continued(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="halfway"), begin_run(tmp_path, "embed", "name", {}) as run:
        (run.path / "part").write_text("kept", encoding="utf-8")
        raise ValueError("halfway")
    assert [row["state"] for row in list_runs(tmp_path)] == ["failed"]
    with begin_run(tmp_path, "embed", "name", {}) as run:
        assert (run.path / "part").read_text(encoding="utf-8") == "kept"
    assert [row["state"] for row in list_runs(tmp_path)] == ["done"]
    assert not (run.path / "failure.json").exists()
    assert run.read_json("run.json")["resumed"]


def test_preemption_is_no_failure(tmp_path: Path) -> None:
    with pytest.raises(Preempted), begin_run(tmp_path, "pretrain", "name", {}) as run:
        raise Preempted("saved")
    assert not (run.path / "failure.json").exists()


def _work_and_hang(analysis: Path, ready: object) -> None:
    with begin_run(analysis, "embed", "name", {}) as run:
        (run.path / "part").write_text("kept", encoding="utf-8")
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


@pytest.mark.long
def test_second_process_is_refused_and_kill_frees_the_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_work_and_hang, args=(tmp_path, ready))
    worker.start()
    try:
        assert ready.wait(60)
        assert [row["state"] for row in list_runs(tmp_path)] == ["running"]
        with pytest.raises(UserError, match=rf"another process \(pid {worker.pid}\) is working on this run"):
            finish_key = begin_run(tmp_path, "embed", "name", {})
            finish_key.__enter__()
    finally:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    assert [row["state"] for row in list_runs(tmp_path)] == ["failed"]
    with begin_run(tmp_path, "embed", "name", {}) as run:
        assert (run.path / "part").exists()


def test_staleness_runs_down_the_line(tmp_path: Path) -> None:
    scan = finish(tmp_path, "scan")
    vectors = finish(tmp_path, "embed", parents=[scan])
    finish(tmp_path, "audit", parents=[vectors])
    states = {row["stage"]: row["state"] for row in list_runs(tmp_path, {"scan": scan.key})}
    assert states == {"scan": "done", "embed": "done", "audit": "done"}
    states = {row["stage"]: row["state"] for row in list_runs(tmp_path, {"scan": "another"})}
    assert states == {"scan": "stale", "embed": "stale", "audit": "stale"}


def test_key_depends_on_everything_that_matters(tmp_path: Path) -> None:
    parent = finish(tmp_path, "scan")
    keys = {
        run_key("embed", {"a": 1}),
        run_key("probe", {"a": 1}),
        run_key("embed", {"a": 2}),
        run_key("embed", {"a": 1}, [parent]),
        run_key("embed", {"a": 1}, inputs={"table": "hash"}),
    }
    assert len(keys) == 5
    assert run_key("embed", {"a": 1, "b": 2}) == run_key("embed", {"b": 2, "a": 1})


def test_unfinished_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a finished run"):
        open_finished(tmp_path)


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError), atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise ValueError
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"score": float("nan")})
