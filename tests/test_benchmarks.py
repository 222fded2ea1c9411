"""Benchmarks run as `python -m benchmarks.NAME`, and their names cannot be confused with those of the packages."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
PACKAGES = ("cohort", "embed", "pretrain", "probes", "explore")


def test_no_benchmark_is_named_like_a_package_or_a_room() -> None:
    rooms = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_dir()}
    assert not {path.stem for path in SCRIPTS} & {"pellucid", *PACKAGES, *rooms}


def test_no_benchmark_changes_the_path_and_each_gives_its_command() -> None:
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert "sys.path" not in text, path.name
        if "__main__" in text:
            assert f"python -m benchmarks.{path.stem}" in text, path.name


def test_every_benchmark_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # restored afterwards: audit_truth sets it for its process
    for path in SCRIPTS:
        importlib.import_module(f"benchmarks.{path.stem}")


@pytest.mark.slow
def test_killed_commands_end_whole_and_flipped_bits_are_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--kills", "5", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
