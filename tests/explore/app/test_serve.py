"""The explorer listens on loopback or not at all."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pellucid.cohort.errors import UserError
from pellucid.explore.app.serve import command, is_loopback


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.7", "::", "clinic.example", ""])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"has no sign-in yet, so it does not listen on"):
        command(Path("study.yaml"), 8501, address)


def test_the_command_listens_on_loopback_and_reports_no_usage() -> None:
    line = command(Path("study.yaml"), 8765, overrides=["split.seed=1"])
    flags = dict(itertools.pairwise(line))
    assert flags["--server.address"] == "127.0.0.1"
    assert flags["--server.port"] == "8765"
    assert flags["--browser.gatherUsageStats"] == "false"
    assert line[-3:] == ["--", "study.yaml", "split.seed=1"]


@pytest.mark.parametrize(
    ("address", "safe"), [("127.0.0.1", True), ("localhost", True), ("::1", True), (None, False), ("0.0.0.0", False)]
)
def test_loopback(address: str | None, safe: bool) -> None:
    assert is_loopback(address) is safe
