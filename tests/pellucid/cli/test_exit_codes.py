"""What a failed command prints and its exit code (2 user error, 75 interrupted, 1 internal error), and who speaks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pellucid.api import data_functions
from pellucid.cli.options import say
from pellucid.cohort.errors import Preempted, UserError


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("study.yaml: unknown key"), 2, "study.yaml: unknown key\n"),
        (Preempted("checkpoint saved"), 75, "checkpoint saved\n"),
        (OSError(errno.ENOSPC, "full"), 2, "the disk is full: free some space, then repeat the command to resume\n"),
        (ZeroDivisionError("0"), 1, "internal error in Pellucid: please report it with the lines above\n"),
    ],
)
def test_exit_codes(
    pellucid: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(data_functions, "scan_study", fail)
    done = pellucid("scan", Path("nowhere"))
    assert done.returncode == code
    assert done.stderr.endswith(message)
    assert ("Traceback" in done.stderr) == (code == 1)


def test_only_the_first_process_of_a_distributed_run_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        say(f"process {rank}")
    assert capsys.readouterr().out == "process 0\n"
