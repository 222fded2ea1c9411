"""Child processes: fed over a pipe, with one thread, ended with the reason why they ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pellucid.cohort.intake.child_process import start_child

ECHO = """
import os
from pellucid.cohort.intake.child_process import pipe_to_parent

def serve():
    pipe = pipe_to_parent()
    print("decoders print")
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order == "exit":
            os._exit(3)
        pipe.send((order, os.environ["OMP_NUM_THREADS"]))
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module whose `serve` answers each order with the order and its number of threads."""
    (tmp_path / "echoing.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "echoing"


@pytest.mark.long
def test_orders_go_in_and_answers_come_out(echo: str) -> None:
    process = start_child(echo)
    process.pipe.send("a")
    assert process.pipe.recv() == ("a", "1")
    assert process.end(10) == 0  # the closed pipe ends it


@pytest.mark.long
def test_its_own_exit_status_is_the_reason(echo: str) -> None:
    process = start_child(echo)
    process.pipe.send("exit")
    with pytest.raises(EOFError):
        process.pipe.recv()
    assert process.end(10) == 3


def test_a_process_that_does_not_answer_is_killed(echo: str) -> None:
    process = start_child(echo)
    process.child.send_signal(signal.SIGSTOP)
    assert process.end() == -signal.SIGKILL
