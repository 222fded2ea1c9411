"""Several processes: what they agree on, what they hear of each other's end, and the word that is left for the
launcher."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pellucid.cohort.errors import Preempted
from pellucid.pretrain.distributed.process_group import Ranks, join_ranks

ROOT = Path(__file__).parents[3]

# Each scene is played by two processes, forked from one that has imported PyTorch once; what they say goes to files.
SCENES = """
import os, signal, sys, time
from pathlib import Path
import torch
from pellucid.cohort.errors import Preempted, UserError
from pellucid.pretrain.distributed.process_group import join_ranks

def agree(ranks):
    print(ranks.any(ranks.rank == 1), ranks.any(False), ranks.broadcast(f"from {ranks.rank}"))
    print(ranks.mean(torch.tensor(float(ranks.rank))).item())
    done = []
    ranks.first_does(lambda: done.append(ranks.rank))
    print(done)
    def fail():
        raise UserError("no room on the disk")
    ranks.first_does(fail)

def preempted(ranks):
    raise Preempted("stopped after step 5 of 12")

def killed(ranks):
    if ranks.rank == 1:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.mean(torch.zeros(3))

def own_fault(ranks):
    if ranks.rank == 1:
        raise ValueError("a fault of its own")
    ranks.mean(torch.zeros(3))

def silent(ranks):
    if ranks.rank == 1:
        while not Path("silent.0").read_text():  # says nothing until the other has given up
            time.sleep(0.05)
        os._exit(0)
    ranks.mean(torch.zeros(3))

def play(scene, rank, port):
    os.dup2(os.open(f"{scene}.{rank}", os.O_WRONLY | os.O_CREAT), 1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ["PELLUCID_PREEMPTED"] = f"{scene}.word"
    code = 0
    try:
        with join_ranks("cpu", timeout_s=2 if scene == "silent" else 60) as ranks:
            globals()[scene](ranks)
    except UserError as error:
        print("UserError:", error)
        code = 2
    except Preempted:
        print("word:", Path(f"{scene}.word").read_text().strip())
        code = 75
    except ValueError:
        code = 1
    sys.stdout.flush()
    os._exit(code)

for scene, port in zip(sys.argv[1::2], sys.argv[2::2]):
    Path(f"{scene}.0").touch()
    children = []
    for rank in "01":
        child = os.fork()
        if not child:
            play(scene, rank, port)
        children.append(child)
    for rank, child in enumerate(children):
        Path(f"{scene}.{rank}.code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
NAMES = ("agree", "preempted", "killed", "own_fault", "silent")


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str]]]:
    """Scene → exit code and words of each of its two processes."""
    folder = tmp_path_factory.mktemp("scenes")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [word for name in NAMES for word in (name, free_port())]
    command = [sys.executable, "-W", "ignore", "-c", SCENES, *arguments]
    subprocess.run(command, env=env, cwd=folder, check=True, timeout=300, stderr=subprocess.DEVNULL)
    return {
        name: [
            (int((folder / f"{name}.{rank}.code").read_text()), (folder / f"{name}.{rank}").read_text())
            for rank in range(2)
        ]
        for name in NAMES
    }


Played = dict[str, list[tuple[int, str]]]


@pytest.mark.long
def test_they_agree_and_a_failure_of_the_first_is_everybodys(played: Played) -> None:
    first, second = played["agree"]
    assert first == (2, "True False from 0\n0.5\n[0]\nUserError: no room on the disk\n")
    assert second == (2, "True False from 0\n0.5\n[]\nUserError: no room on the disk\n")


def test_the_word_is_written_before_anybody_leaves(played: Played) -> None:
    """torchrun ends all as soon as one has left, so the second may not leave before the first has written."""
    assert played["preempted"] == [(75, "word: stopped after step 5 of 12\n")] * 2


@pytest.mark.parametrize(("scene", "end"), [("killed", -signal.SIGKILL), ("own_fault", 1)])
def test_when_one_dies_the_other_says_so_and_ends(played: Played, scene: str, end: int) -> None:
    (code, said), (other, _) = played[scene]
    assert other == end
    assert code == 2
    assert "process 0 of 2: another process of this training ended, or did not respond for 60 s" in said
    assert "rerun the command to continue from the newest" in said


def test_when_one_falls_silent_the_other_does_not_wait_for_ever(played: Played) -> None:
    (code, said), (other, _) = played["silent"]
    assert other == 0  # it lived until the first had given up
    assert code == 2
    assert "did not respond for 2 s" in said


def test_alone_nothing_waits_and_errors_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Ranks(0, 1, torch.device("cpu"))
    done = []
    alone.first_does(lambda: done.append(1))
    assert done == [1]
    assert (alone.any(True), alone.any(False), alone.broadcast("x")) == (True, False, "x")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match="timed out"), join_ranks("cpu"):
        raise RuntimeError("a socket timed out")
    monkeypatch.setenv("PELLUCID_PREEMPTED", str(tmp_path / "word"))
    with pytest.raises(Preempted), join_ranks("cpu"):
        raise Preempted("stopped after step 1 of 2")
    assert (tmp_path / "word").read_text() == "stopped after step 1 of 2\n"
