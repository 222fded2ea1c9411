"""`pellucid forget`: a dry run first, then the removal, and a second removal is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_forget_on_the_command_line(world: Any, pellucid: Callable[..., Any]) -> None:
    patient = world.a_patient()
    dry = pellucid("forget", world.study.path, patient)
    assert dry.returncode == 0, dry.stderr
    assert "nothing has been changed" in dry.stdout
    done = pellucid("forget", world.study.path, patient, "--yes")
    assert done.returncode == 0, done.stderr
    assert "for you to delete" in done.stdout
    again = pellucid("forget", world.study.path, patient, "--yes")
    assert again.returncode == 2
    assert "has been forgotten" in again.stderr
