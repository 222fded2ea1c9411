"""A withdrawal that is killed at any moment is completed by the same command; nothing is changed while others work."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study
from pellucid.cohort.withdrawal_list import Withdrawn
from pellucid.embed.store.vectors import load_vectors
from pellucid.withdrawal import forget_patients

pytestmark = pytest.mark.long


def silent(sentence: str) -> None:
    """Say nothing."""


@pytest.mark.parametrize("tries", [6, pytest.param(10**6, marks=pytest.mark.slow)])
def test_killed_anywhere_the_repeated_command_finishes(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """Stopped before a rename: nothing is half done afterwards, and the end is that of an undisturbed call.

    Args:
        tries: before how many of the renames, spread over the whole call.
    """

    class Killed(BaseException):
        pass

    for stage in ("cluster", "report", "pretrain"):
        shutil.rmtree(world.study.analysis / stage)
    for path in (world.study.analysis / "embed").iterdir():
        if path.is_dir() and not path.name.startswith("pixels"):
            shutil.rmtree(path)
    patient = world.a_patient()
    traces = world.traces_of(patient)
    calls = 0
    deadly = 10**9
    renames: dict[str, Callable[..., Any]] = {name: getattr(Path, name) for name in ("replace", "rename", "unlink")}

    def deadly_call(name: str) -> Callable[..., Any]:
        def call(self: Path, *arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > deadly:  # like a dead process, it never comes back
                raise Killed
            return renames[name](self, *arguments, **more)

        return call

    for name in renames:
        monkeypatch.setattr(Path, name, deadly_call(name))

    def attempt(folder: Path, limit: int) -> int:
        nonlocal calls, deadly
        calls, deadly = 0, limit
        try:
            forget_patients(load_study(folder), [patient], yes=True, say=silent)
        finally:
            used, deadly = calls, 10**9
        return used

    def state(folder: Path) -> tuple[list[str], list[str]]:
        there = load_study(folder)
        names = sorted(p.relative_to(folder).as_posix() for p in there.analysis.glob("*/[!.]*"))
        stored = next(there.analysis.glob("embed/pixels*"))
        return names, load_vectors(stored).images["image_id"].tolist()

    shutil.copytree(world.study.path.parent, tmp_path / "whole")
    whole = attempt(tmp_path / "whole", 10**9)
    assert whole > 20
    for limit in sorted(set(np.linspace(0, whole - 1, min(tries, whole)).astype(int).tolist())):
        folder = tmp_path / f"killed-{limit}"
        shutil.copytree(world.study.path.parent, folder)
        with pytest.raises(Killed):
            attempt(folder, limit)
        there = load_study(folder)
        if Withdrawn.load(there.withdrawn).pending:
            with pytest.raises(UserError, match="brings it to its end"):
                scan(there, progress=False)
        listed = Withdrawn.load(there.withdrawn)
        if listed.pending or not listed.entries:  # else it was killed when all was done
            attempt(folder, 10**9)
        assert traces.found(there.analysis, there.withdrawn.parent) == [], limit
        assert replace(world, study=there).wrong_checksums() == [], limit
        assert state(folder) == state(tmp_path / "whole"), limit
        shutil.rmtree(folder)


def test_a_run_that_somebody_works_on_is_waited_for(world: Any) -> None:
    before = world.tree()
    lock = world.study.analysis / "embed" / f".{next(world.study.analysis.glob('embed/pixels*')).name}.lock"
    with lock.open("a+", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another process .* is working on this run"):
            world.withdraw(world.a_patient())
    assert world.tree() == before
