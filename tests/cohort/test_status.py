"""Commands that are printed can be pasted into a shell, whatever the study's folder is called."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pellucid.cohort.runs.stages import STAGES
from pellucid.cohort.status import next_step


@pytest.mark.parametrize("name", ["study", "Studie Müller", "it's $HOME; ls", '"quoted" `x`', "-rf *"])
def test_the_next_command_is_one_for_the_shell(name: str) -> None:
    study = Path(name) / "study.yaml"
    one, whole = next_step([], study).removeprefix("next: ").removesuffix(" for all remaining steps").split(", or ")
    assert shlex.split(one) == ["pellucid", "scan", str(study)]
    assert shlex.split(whole) == ["pellucid", "run", str(study)]
    done = [{"stage": stage.name, "state": "done"} for stage in STAGES]
    assert shlex.split(next_step(done, study).partition(": ")[2]) == ["pellucid", "explore", str(study)]
    repair = next_step([{"stage": "scan", "state": "damaged"}], study).partition("`")[2].removesuffix("`")
    assert shlex.split(repair) == ["pellucid", "tidy", str(study), "--damaged", "--yes"]
