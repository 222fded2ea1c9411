"""Checkpoints: the newest that can be read, the best kept apart, no more than asked for, and nothing lost on a full
disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.compute_choice import Compute
from pellucid.pretrain.engine.checkpoint import (
    best_checkpoint,
    checkpoint_path,
    finish_checkpoints,
    list_checkpoints,
    load_best,
    load_newest,
    save_checkpoint,
)
from pellucid.pretrain.engine.resume_check import changes, conditions

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_round_trip_and_only_the_last_are_kept(tmp_path: Path) -> None:
    assert load_newest(tmp_path, CPU) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"method": {"w": torch.full((2,), float(step))}, "recent": [0.5]}, keep=2)
    assert names(tmp_path) == ["step-00000002.pt", "step-00000003.pt"]
    state = load_newest(tmp_path, CPU)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["method"]["w"], torch.full((2,), 3.0))
    assert load_best(tmp_path, CPU) is None  # nothing was scored


def test_a_damaged_checkpoint_is_skipped(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.zeros(100)}, keep=2)
    newest = checkpoint_path(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:200])
    state = load_newest(tmp_path, CPU)
    assert state is not None
    assert state["step"] == 1
    checkpoint_path(tmp_path, 1).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 checkpoints can be read; delete them to restart the training"):
        load_newest(tmp_path, CPU)


def save_scored(folder: Path, scores: dict[int, float | None], keep: int = 2) -> None:
    for step, score in scores.items():
        save_checkpoint(folder, step, {"x": torch.tensor([float(step)])}, keep=keep, score=score)


def best_step(folder: Path) -> int | None:
    state = load_best(folder, CPU)
    return None if state is None else int(state["step"])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1.0, 2.0, 3.0, 4.0], 4),
        ([4.0, 3.0, 2.0, 1.0], 1),
        ([1.0, 4.0, 2.0, 3.0, 1.0, 1.0], 2),
        ([2.0, 2.0, 2.0], 1),  # of equals the earliest
        ([None, 1.0, None, None, None], 2),
        ([float("nan"), 5.0, None, 4.0], 2),
    ],
)
def test_the_best_survives_pruning(tmp_path: Path, scores: list[float | None], best: int) -> None:
    save_scored(tmp_path, dict(enumerate(scores, start=1)))
    assert best_step(tmp_path) == best
    last = [f"step-{step:08d}.pt" for step in range(len(scores) - 1, len(scores) + 1)]
    assert names(tmp_path) == [f"best-{best:08d}.pt", *last]


@pytest.mark.parametrize("killed_at", ["before the link", "between the link and the removal of its forerunner"])
def test_a_kill_between_checkpoint_and_best_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    save_scored(tmp_path, {1: 1.0, 2: 0.5})

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    unlink = Path.unlink

    def die_at_the_forerunner(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("best-"):
            raise Killed
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        if killed_at == "before the link":
            patch.setattr(os, "link", die)
        else:
            patch.setattr(Path, "unlink", die_at_the_forerunner)
        with pytest.raises(Killed):
            save_scored(tmp_path, {3: 9.0})
    assert best_step(tmp_path) == (1 if killed_at == "before the link" else 3)
    state = load_newest(tmp_path, CPU)  # the training takes up here …
    assert state is not None
    assert state["step"] == 3
    save_scored(tmp_path, {4: 2.0})  # … and the next save mends it, before step 3 is pruned
    save_scored(tmp_path, {5: 2.0})
    save_scored(tmp_path, {6: 2.0})
    assert names(tmp_path) == ["best-00000003.pt", "step-00000005.pt", "step-00000006.pt"]
    assert best_step(tmp_path) == 3


def test_the_best_takes_no_room_beside_the_last_and_is_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scored(tmp_path, {1: 1.0})
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert best.samefile(checkpoint_path(tmp_path, 1))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    save_scored(tmp_path, {2: 2.0})
    best = best_checkpoint(tmp_path)
    assert best is not None
    assert not best.samefile(checkpoint_path(tmp_path, 2))
    assert best_step(tmp_path) == 2


def test_a_finished_run_keeps_the_last_alone(tmp_path: Path) -> None:
    save_scored(tmp_path, {1: 9.0, 2: 2.0, 3: 1.0})
    (tmp_path / "checkpoints" / ".step-00000009.pt.77.tmp").write_bytes(b"torn")
    finish_checkpoints(tmp_path)
    assert names(tmp_path) == ["step-00000003.pt"]


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {}, keep=1)

    def full(content: Any, sink: Any) -> None:
        sink.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*the newest complete checkpoint is step-00000001.pt"):
        save_checkpoint(tmp_path, 2, {}, keep=1)
    assert names(tmp_path) == ["step-00000001.pt"]


# Saves ever larger states until the disk, or what it may write, ends; says the sentence and leaves with 2.
FILL = """
import sys
from pathlib import Path
import torch
from pellucid.cohort.errors import UserError
from pellucid.pretrain.engine.checkpoint import save_checkpoint
folder = Path(sys.argv[1])
try:
    for step in range(1, 40):
        save_checkpoint(folder, step, {"x": torch.full((step * 10_000,), float(step))}, keep=2, score=float(step == 2))
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["largest file", "full file system"])
def test_where_the_disk_really_ends(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FILL, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if how == "largest file":  # RLIMIT_FSIZE, as a quota does it: EFBIG
        command = ["bash", "-c", 'ulimit -f 400; exec "$@"', "limited", *command]
    else:  # ENOSPC from a tmpfs of 1 MB in a name space of its own; looked at before it vanishes
        mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
        if subprocess.run(["unshare", "-rm", "bash", "-c", mount], capture_output=True, check=False).returncode:
            pytest.skip("this system lets nobody mount a tmpfs")
        look = f'"$@"; code=$?; cp -r {tmp_path}/checkpoints {tmp_path}.after; exit $code'
        command = ["unshare", "-rm", "bash", "-c", f"{mount}; {look}", "mounted", *command]
    child = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 2, child.stderr
    folder = tmp_path
    if how == "full file system":
        folder = tmp_path / "looked-at"
        folder.mkdir()
        Path(f"{tmp_path}.after").rename(folder / "checkpoints")
    assert "the checkpoint cannot be written" in child.stdout
    assert "Free disk space and rerun the command" in child.stdout
    last = list_checkpoints(folder)[-1]
    assert f"the newest complete checkpoint is {last.name}" in child.stdout
    state = load_newest(folder, CPU)
    assert state is not None
    assert state["step"] == int(last.stem.removeprefix("step-")) >= 3
    assert torch.equal(state["x"], torch.full((state["step"] * 10_000,), float(state["step"])))
    assert not list((folder / "checkpoints").glob(".*"))  # nothing half-written
    assert best_step(folder) == 2


RECIPE = {"batch_size": 8, "seed": 0}


def now(**changed: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"world": 1, "steps": 12, "device": CPU, "compute": Compute(), **changed}
    return conditions(arguments.pop("recipe", RECIPE), **arguments)


def test_conditions_survive_a_checkpoint_and_nothing_changed_is_nothing_said(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"conditions": now()}, keep=1)
    state = load_newest(tmp_path, CPU)
    assert state is not None
    assert state["conditions"]["world"] == 1
    assert state["conditions"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert changes(state["conditions"], now()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"world": 2},
            "1 process before, 2 processes from now on: the batches of 8 images and their order are unchanged, each "
            "process now computes 4 instead of 8 images",
        ),
        ({"steps": 24}, "number of training steps: 12 before, 24 from now on; the schedules use"),
        ({"compute": Compute("bfloat16")}, "precision: fp32 before, bfloat16 from now on"),
        ({"recipe": {**RECIPE, "seed": 1}}, "the recipe differs from the one of the checkpoint"),
        ({"recipe": {**RECIPE, "batch_size": 4}}, "batch size: 8 before, 4 from now on"),
    ],
)
def test_each_changed_condition_is_a_sentence(changed: dict[str, Any], said: str) -> None:
    sentences = changes(now(), now(**changed))
    assert any(sentence.startswith(said) for sentence in sentences), sentences


def test_another_version_and_an_old_checkpoint_are_reported() -> None:
    before = now()
    before["versions"] = {**before["versions"], "timm": "0.1"}
    (sentence,) = changes(before, now())
    assert sentence.startswith("timm: 0.1 before, ")
    assert changes(None, now()) == ["the checkpoint does not record the conditions under which it was written"]
