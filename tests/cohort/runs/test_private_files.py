"""Only the owner reads what is written, unless the study's folder is shared with a group."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pellucid.cohort.runs.folder import begin_run
from pellucid.cohort.runs.private_files import private_files, umask_for, writes_privately


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) & 0o777


@pytest.fixture(autouse=True)
def usual_umask() -> object:
    before = os.umask(0o022)
    yield
    assert os.umask(before) == 0o022, "nobody else's files change their mode"


def test_a_run_is_for_its_owner_alone(tmp_path: Path) -> None:
    with begin_run(tmp_path / "analysis", "scan", "scan", {"a": 1}) as run:
        (run.path / "sub").mkdir()
        (run.path / "sub" / "table.csv").write_text("x")
        subprocess.run([sys.executable, "-c", "open('child.txt', 'w')"], cwd=run.path, check=True)
    written = [tmp_path / "analysis", *(tmp_path / "analysis").rglob("*")]
    assert len(written) > 6
    assert {mode(path) & 0o077 for path in written} == {0}
    (tmp_path / "mine.txt").write_text("x")
    assert mode(tmp_path / "mine.txt") == 0o644


@pytest.mark.parametrize(
    ("folder_mode", "expected"), [(0o2770, 0o660), (0o2750, 0o640), (0o775, 0o600), (0o777, 0o600)]
)
def test_a_folder_with_the_setgid_bit_is_shared_with_its_group(tmp_path: Path, folder_mode: int, expected: int) -> None:
    study = tmp_path / "study"
    study.mkdir()
    study.chmod(folder_mode)
    with private_files(study / "analysis" / "scan"):
        (study / "file").write_text("x")
    assert mode(study / "file") == expected


def test_blocks_inside_each_other_keep_the_strictest(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2770)
    (tmp_path / "own").mkdir()
    with private_files(tmp_path / "shared"), private_files(tmp_path / "own"):
        (tmp_path / "inside").write_text("x")
    assert mode(tmp_path / "inside") == 0o600
    assert umask_for(tmp_path / "shared" / "not" / "there") == 0o007


def test_the_umask_is_never_looser_even_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may make a file between two lines of this one."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2770)
    passed: list[int] = []
    set_umask = os.umask
    with private_files(tmp_path), monkeypatch.context() as patch:
        patch.setattr(os, "umask", lambda mask: passed.append(mask) or set_umask(mask))  # type: ignore[func-returns-value]
        with private_files(tmp_path / "shared"):
            pass
    assert set(passed) == {0o077}


def test_a_function_that_fails_leaves_the_umask(tmp_path: Path) -> None:
    @writes_privately("out")
    def fails(what: int, out: Path) -> None:
        (out / "file").write_text("x")
        raise ValueError

    with pytest.raises(ValueError):
        fails(1, out=tmp_path)
    assert mode(tmp_path / "file") == 0o600
