"""The sbatch files: what Slurm would make of them, what the programs in them are given, and a turn that ends and goes
on.

Slurm's commands and, where no training is needed, torchrun and pellucid are stood in for by small scripts on PATH.
"""

from __future__ import annotations

import json
import os
import re
import signal
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

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "slurm"
SCRIPTS = sorted(path.name for path in SLURM.glob("*.sbatch"))
TRAININGS = [name for name in SCRIPTS if name.startswith("pretrain-")]

# `man sbatch`; True: wants a value.
OPTIONS = {
    "job-name": True, "account": True, "partition": True, "nodes": True, "ntasks": True, "ntasks-per-node": True,
    "gpus-per-node": True, "cpus-per-task": True, "mem": True, "time": True, "requeue": False, "open-mode": True,
    "output": True, "signal": True, "array": True,
}  # fmt: skip
VALUES = {
    "nodes": r"\d+", "ntasks": r"\d+", "ntasks-per-node": r"\d+", "gpus-per-node": r"\d+", "cpus-per-task": r"\d+",
    "mem": r"\d+[MG]", "time": r"(\d+-)?\d{2}:\d{2}:\d{2}", "open-mode": "append|truncate", "signal": r"(B:)?USR2@\d+",
    "array": r"\d+(-\d+)?(%\d+)?", "output": r"[\w%-]*%[jA][\w%.-]*", "account": "CHANGE", "partition": "CHANGE",
    "job-name": r"[\w-]+",
}  # fmt: skip


def directives(text: str) -> dict[str, str]:
    """Option → value, as Slurm reads them: comments at the end of a line dropped, nothing after the first command."""
    found = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            option = line.removeprefix("#SBATCH").partition("#")[0].strip()
            name, _, value = option.removeprefix("--").partition("=")
            assert option.startswith("--"), line
            assert name not in found, f"twice: {line}"
            found[name] = value
        elif line.strip() and not line.startswith("#"):
            break
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_and_slurm_can_read_it(name: str) -> None:
    text = (SLURM / name).read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n")  # sbatch refuses a script without
    assert subprocess.run(["bash", "-n", SLURM / name], check=False).returncode == 0
    found = directives(text)
    assert len(found) == len(re.findall(r"^#SBATCH", text, flags=re.M)), (
        "a directive after the first command is not read"
    )
    for option, value in found.items():
        assert option in OPTIONS, f"sbatch has no --{option}"
        assert bool(value) == OPTIONS[option], option
        assert not value or re.fullmatch(VALUES[option], value), f"--{option}={value}"
    assert {"account", "partition", "time", "requeue", "open-mode", "output"} <= found.keys()
    marked = [line for line in text.splitlines() if "CHANGE:" in line]  # what a user has to edit is marked, and no more
    assert len(marked) == (3 if name == "scan-embed-audit.sbatch" else 2)
    assert all("CHANGE" in line.partition("# CHANGE:")[0] for line in marked)
    assert len(text.splitlines()) <= 75


def test_the_three_trainings_end_a_turn_in_the_same_way() -> None:
    texts = [(SLURM / name).read_text(encoding="utf-8") for name in TRAININGS]
    assert len(texts) == 3
    for start in ("# Three minutes before the time limit", "training=$!"):
        blocks = {text[text.index(start) :].split("\n\n")[0] for text in texts}
        assert len(blocks) == 1
    assert all(directives(text)["signal"] == "B:USR2@180" for text in texts)
    assert all("TORCH_ELASTIC_SHUTDOWN_TIMEOUT=160" in text for text in texts)  # below --signal's 180


# --- stand-ins ---

FAKES = {
    # Runs the command once per node, one after the other, as tasks with Slurm's variables; passes USR2 on to them.
    "srun": """
        printf '%s\\n' "$*" >> calls/srun
        while [ "${1#--}" != "$1" ]; do shift; done
        pids=()
        for ((node = 0; node < SLURM_NNODES; node++)); do
          SLURM_NODEID=$node SLURM_PROCID=$node SLURM_LOCALID=0 "$@" & pids+=($!)
        done
        trap 'kill -USR2 "${pids[@]}"' USR2
        trap 'kill -KILL "${pids[@]}"' TERM   # srun forces its tasks to end when it is terminated
        code=0
        for pid in "${pids[@]}"; do
          while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
          wait "$pid" || code=$?
        done
        exit $code
    """,
    "scontrol": """
        printf '%s\\n' "$*" >> calls/scontrol
        [ "$1 $2" = "show hostnames" ] && printf '%s\\n' ${3//,/ }
        exit 0
    """,
    "sbatch": """
        printf '%s\\n' "$*" >> calls/sbatch
        n=$(wc -l < calls/sbatch); echo $((100 + n))
    """,
    "torchrun": """
        { printf '%s\\n' "$*"; env; } > "calls/torchrun.${SLURM_NODEID:-0}"
        stop() { echo USR2 >> calls/heard; [ -z "${WORD:-}" ] || echo "$STOPPED" > "$PELLUCID_PREEMPTED"; exit 1; }
        STOPPED="stopped after step 5"
        trap stop USR2
        touch calls/running
        for ((i = 0; i < ${TENTHS:-0}; i++)); do sleep 0.1; done
        exit "${CODE:-0}"
    """,
    "pellucid": """
        printf '%s\\n' "$*" >> calls/pellucid
        [ "$1" != "${FAIL:-}" ]
    """,
}
REAL = {
    "torchrun": f'exec "{sys.executable}" -W ignore -m torch.distributed.run "$@"',
    "pellucid": f'exec "{sys.executable}" -W ignore "{Path(__file__).with_name("fake_pellucid.py")}" "$@"',
}
JOB = {
    "SLURM_JOB_ID": "4711", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "localhost,localhost", "SLURM_GPUS_ON_NODE": "1",
    "SLURM_CPUS_PER_TASK": "3", "SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "2",
}  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """job(script, *arguments, real=False, **variables) → the running script, in `tmp_path`, as Slurm would start it."""
    (tmp_path / "calls").mkdir()

    def start(name: str, *arguments: object, real: bool = False, **variables: str) -> subprocess.Popen[str]:
        bin_folder = tmp_path / "bin"
        bin_folder.mkdir(exist_ok=True)
        for program, body in {**FAKES, **(REAL if real else {})}.items():
            (bin_folder / program).write_text(f"#!/bin/bash\n{body}\n")
            (bin_folder / program).chmod(0o755)
        env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        env |= {**JOB, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **variables}
        command = ["bash", str(SLURM / name), *map(str, arguments)]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    return start


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = child.communicate(timeout=300)
    return child.returncode, out, error


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)


def calls(folder: Path, program: str) -> list[str]:
    path = folder / "calls" / program
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


# --- what the programs are given ---


def test_one_node_starts_one_process_per_gpu(tmp_path: Path, job: Callable[..., Any]) -> None:
    code, _, error = ended(job("pretrain-1node.sbatch", "study.yaml", "pretrain.seed=1 2", SLURM_GPUS_ON_NODE="4"))
    assert (code, error) == (0, "")
    command, *env = calls(tmp_path, "torchrun.0")
    assert command == (
        "--standalone --nproc-per-node=4 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2 --no-python "
        "pellucid pretrain study.yaml pretrain.seed=1 2"
    )
    assert {"OMP_NUM_THREADS=1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=160"} <= set(env)
    assert f"PELLUCID_PREEMPTED={tmp_path}/.preempted-4711" in env
    assert calls(tmp_path, "scontrol") == []


def test_several_nodes_meet_at_the_first(tmp_path: Path, job: Callable[..., Any]) -> None:
    variables = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu07,gpu08", "SLURM_RESTART_COUNT": "3"}
    code, _, error = ended(job("pretrain-multinode.sbatch", "study.yaml", **variables))
    assert (code, error) == (0, "")
    assert calls(tmp_path, "srun")[0].startswith("--kill-on-bad-exit=1 --cpus-per-task=3 bash -c")
    for node, first in enumerate(("true", "false")):
        assert calls(tmp_path, f"torchrun.{node}")[0] == (
            "--nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=gpu07:24711 --rdzv-id=4711-3 "
            f"--rdzv-conf=is_host={first},read_timeout=600 "
            "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2 --no-python pellucid pretrain study.yaml"
        )


def test_a_sweep_takes_its_line(tmp_path: Path, job: Callable[..., Any]) -> None:
    (tmp_path / "sweep.txt").write_text(
        "# rates\npretrain.seed=1\n\npretrain.seed=2 pellucid.pretrain.engine.optimizer.base_lr=1e-4\n"
    )
    code, out, _ = ended(job("pretrain-sweep.sbatch", "study.yaml", "sweep.txt"))
    assert code == 0
    assert "line 2: pretrain.seed=2 pellucid.pretrain.engine.optimizer.base_lr=1e-4" in out
    assert calls(tmp_path, "torchrun.0")[0].endswith(
        "pellucid pretrain study.yaml pretrain.seed=2 pellucid.pretrain.engine.optimizer.base_lr=1e-4"
    )
    code, _, error = ended(job("pretrain-sweep.sbatch", "study.yaml", "sweep.txt", SLURM_ARRAY_TASK_ID="3"))
    assert code == 2
    assert "sweep.txt has no line 3: give --array=1-N" in error


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_arguments_it_says_how_it_is_used(job: Callable[..., Any], name: str) -> None:
    code, _, error = ended(job(name))
    assert code == 2
    assert error.startswith("usage: ")
    assert name in error


def test_scan_embed_audit_are_three_jobs_in_a_row(tmp_path: Path, job: Callable[..., Any]) -> None:
    name = "scan-embed-audit.sbatch"
    code, out, _ = ended(job(name, "study.yaml", SLURM_JOB_ID=""))
    assert code == 0
    assert "scan 101, embed 102, audit 103" in out
    scan, embed, audit = (line.replace(str(SLURM / name), "SCRIPT") for line in calls(tmp_path, "sbatch"))
    assert scan == "--parsable --job-name=pellucid-scan SCRIPT scan study.yaml"
    assert embed == (
        "--parsable --kill-on-invalid-dep=yes --dependency=afterok:101 --job-name=pellucid-embed --partition=CHANGE "
        "--gpus-per-node=1 SCRIPT embed study.yaml"
    )
    assert "afterok:102" in audit
    assert "gpus" not in audit
    for part in ("scan", "embed", "audit"):
        assert ended(job(name, part, "study.yaml", BACKBONE="timm:x"))[0] == 0
    assert calls(tmp_path, "pellucid") == [
        "scan study.yaml", "embed --backbone pixels study.yaml", "embed --backbone timm:x study.yaml",
        "cluster study.yaml", "probe study.yaml", "audit study.yaml", "report study.yaml",
    ]  # fmt: skip
    assert ended(job(name, "audit", "study.yaml", FAIL="probe"))[0] == 1  # and what comes after it is not run
    assert calls(tmp_path, "pellucid")[-1] == "probe study.yaml"


# --- the end of a turn ---


@pytest.mark.parametrize(("name", "requeued"), list(zip(TRAININGS, ("4711", "4711", "4700_2"), strict=True)))
@pytest.mark.parametrize("how", ["time is nearly up", "cancelled", "fails", "fails when time is nearly up"])
def test_the_next_turn_is_asked_for_when_time_is_up_and_only_then(
    tmp_path: Path, job: Callable[..., Any], name: str, requeued: str, how: str
) -> None:
    (tmp_path / "sweep.txt").write_text("a=1\nb=2\n")
    variables = {"CODE": "1"} if how == "fails" else {"TENTHS": "600"}
    if how in {"time is nearly up", "cancelled"}:
        variables["WORD"] = "yes"
    child = job(name, "study.yaml", "sweep.txt", **variables)
    if how != "fails":
        wait_for(tmp_path / "calls" / "running", child)
        child.send_signal(signal.SIGTERM if how == "cancelled" else signal.SIGUSR2)  # B: to the script alone
    code, out, _ = ended(child)
    assert code == (1 if "fails" in how else 75)
    assert ("stopped after step 5" in out) == (how in {"time is nearly up", "cancelled"})
    assert calls(tmp_path, "heard") == ([] if how == "fails" else ["USR2"])
    asked = [line for line in calls(tmp_path, "scontrol") if line.startswith("requeue")]
    assert asked == ([f"requeue {requeued}"] if "time" in how else [])
    assert not list(tmp_path.glob(".preempted-*"))


# --- real trainings ---

Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]


def assert_as_one_process(folder: Path, one: RunFolder) -> None:
    (path,) = (folder / "analysis" / "pretrain").glob("*/metrics.jsonl")
    expected = [json.loads(line) for line in (one.path / "metrics.jsonl").read_text().splitlines()]
    ours = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    for theirs, mine in zip(expected, ours, strict=True):
        for key in ("loss", "feature_std", "effective_rank"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-4), (mine["step"], key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain-1node.sbatch", "pretrain-multinode.sbatch"])
def test_time_is_up_it_saves_and_the_next_turn_ends_it_with_the_result_of_one_process(
    tmp_path: Path, job: Callable[..., Any], cohort: Cohort, tiny: Tiny, name: str
) -> None:
    """torchrun and two processes, on one node or one on each of two: signal → save → word → requeue → continued."""
    one = run_pretrain(*cohort(tiny["mae"], "one"), device="cpu", progress=False)
    study, _ = cohort(tiny["mae"], "two")
    folder = study.path.parent
    nodes, each = (1, 2) if name == "pretrain-1node.sbatch" else (2, 1)
    number = str(os.getpid())  # the port is made of it
    variables = {"SLURM_JOB_ID": number, "SLURM_NNODES": str(nodes), "SLURM_GPUS_ON_NODE": str(each)}
    child = job(name, folder, real=True, HOLD_AT="4", HOLD_RANKS="0,1", **variables)
    for rank in "01":
        wait_for(folder / f"ready.{rank}", child)
    child.send_signal(signal.SIGUSR2)
    code, out, error = ended(child)
    assert code == 75, error
    assert "stopped after step 5 of 12 (SIGUSR2); a checkpoint is saved" in out
    assert calls(tmp_path, "scontrol")[-1] == f"requeue {number}"
    (working,) = (folder / "analysis" / "pretrain").glob(".*.partial")
    assert (working / "checkpoints" / "step-00000005.pt").exists()
    code, out, error = ended(job(name, folder, real=True, **{**variables, "SLURM_RESTART_COUNT": "1"}))
    assert code == 0, error
    assert sum(line.startswith("requeue") for line in calls(tmp_path, "scontrol")) == 1
    assert_as_one_process(folder, one)
