"""Two machines: two torchrun agents on the loopback address, and a stop that only one process is asked for."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study
from pellucid.pretrain.stage import pretrain as run_pretrain

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).parents[1] / "fake_pellucid.py"
Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def launch(*command: object, **variables: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    whole = [sys.executable, "-W", "ignore", *map(str, command)]
    return subprocess.Popen(whole, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_as_one_process(folder: Path, one: RunFolder) -> Path:
    """The finished run in `folder`, which has the metrics of `one`."""
    (path,) = (folder / "analysis" / "pretrain").glob("*/metrics.jsonl")
    for theirs, ours in zip(lines(one.path / "metrics.jsonl"), lines(path), strict=True):
        assert ours["step"] == theirs["step"]
        for key in ("loss", "feature_std", "effective_rank"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), (ours["step"], key)
    return path.parent


@pytest.mark.slow
def test_one_of_two_processes_is_asked_both_stop_at_the_same_step_and_one_alone_ends_it(
    cohort: Cohort, tiny: Tiny, tmp_path: Path
) -> None:
    one = run_pretrain(*cohort(tiny["dino"], "one"), device="cpu", progress=False)
    study, scan = cohort(tiny["dino"], "two")
    folder = study.path.parent
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"HOLD_AT": "4", "HOLD_RANKS": "1", "PELLUCID_PREEMPTED": str(tmp_path / "word")}
    children = [launch(PROGRAM, "pretrain", folder, RANK=rank, **shared) for rank in "01"]
    while not (folder / "ready.1").exists():
        assert children[1].poll() is None, children[1].communicate()
        time.sleep(0.02)
    os.kill(int((folder / "ready.1").read_text()), signal.SIGUSR2)
    first, second = (child.communicate(timeout=300)[1] for child in children)
    assert [child.returncode for child in children] == [75, 75], first + second
    assert "stopped after step 5 of 12 (stop requested in another process)" in first
    assert "stopped after step 5 of 12 (SIGUSR2)" in second
    assert "stopped after step 5 of 12" in (tmp_path / "word").read_text()

    # One process resumes the training of two: the same images and sums, and the run records what changed.
    run_pretrain(study, scan, device="cpu", progress=False)
    run = assert_as_one_process(folder, one)
    (said,) = lines(run / "resumed.jsonl")
    assert said["step"] == 5
    assert said["changed"].startswith(
        "2 processes before, 1 process from now on: the batches of 8 images and their order are unchanged"
    )


@pytest.mark.slow
def test_two_agents_give_the_single_process_result(cohort: Cohort, tiny: Tiny) -> None:
    one = run_pretrain(*cohort(tiny["mae"], "one"), device="cpu", progress=False)
    folder = cohort(tiny["mae"], "two")[0].path.parent
    endpoint = f"127.0.0.1:{free_port()}"
    agents = [
        launch(
            "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
            f"--rdzv-endpoint={endpoint}", "--rdzv-id=7", f"--rdzv-conf=is_host={host}", "--local-addr=127.0.0.1",
            PROGRAM, "pretrain", folder,
        )
        for host in ("true", "false")
    ]  # fmt: skip
    ends = [(agent.communicate(timeout=300)[1], agent.returncode) for agent in agents]
    assert [code for _, code in ends] == [0, 0], ends
    run = assert_as_one_process(folder, one)
    assert not (run / "resumed.jsonl").exists()
