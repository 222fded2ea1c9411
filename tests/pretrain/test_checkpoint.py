"""Checkpoints: the newest that can be read, no more than asked for, and a sentence when the disk is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cohort.errors import UserError
from pretrain.checkpoint import checkpoint_path, list_checkpoints, load_newest, save_checkpoint

CPU = torch.device("cpu")


def test_round_trip_and_only_the_last_are_kept(tmp_path: Path) -> None:
    assert load_newest(tmp_path, CPU) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"method": {"w": torch.full((2,), float(step))}, "recent": [0.5]}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000002.pt", "step-00000003.pt"]
    state = load_newest(tmp_path, CPU)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["method"]["w"], torch.full((2,), 3.0))


def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.zeros(100)}, keep=2)
    newest = checkpoint_path(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:200])
    state = load_newest(tmp_path, CPU)
    assert state is not None
    assert state["step"] == 1
    checkpoint_path(tmp_path, 1).write_bytes(b"")
    with pytest.raises(UserError, match="none of 2 checkpoints can be read; delete them to restart"):
        load_newest(tmp_path, CPU)


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {}, keep=1)

    def full(content: Any, sink: Any) -> None:
        sink.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*step-00000001.pt is the last good checkpoint"):
        save_checkpoint(tmp_path, 2, {}, keep=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001.pt"]
