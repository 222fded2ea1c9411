"""Checkpoints: the whole state of a training after a number of steps, written so that a crash can only lose the newest."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from cohort.errors import UserError
from cohort.runs import atomic_path

SCHEMA = "pellucid.checkpoint/1"


def checkpoint_path(folder: Path, step: int) -> Path:
    """`checkpoints/step-00001200.pt` in a pretraining run."""
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.pt"))


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state after `step` steps, then remove all but the newest `keep`.

    Raises:
        UserError: it cannot be written; the earlier ones are untouched.
    """
    path = checkpoint_path(folder, step)
    try:
        path.parent.mkdir(exist_ok=True)
        for torn in path.parent.glob(".step-*.tmp"):  # left by a kill in the middle of a save
            torn.unlink()
        with atomic_path(path) as temporary, temporary.open("wb") as sink:
            torch.save({"schema": SCHEMA, "step": step, **state}, sink)
    except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
        last = list_checkpoints(folder)
        kept = f"{last[-1].name} is the last good checkpoint" if last else "there is no checkpoint yet"
        raise UserError(
            f"{path}: the checkpoint cannot be written ({error}); {kept}. Make room on the disk and repeat the command: "
            "it continues from there"
        ) from None
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None; an unreadable one is passed over for the one before it.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            continue
        if isinstance(state, dict) and state.get("schema") == SCHEMA:
            return state
    if paths:
        raise UserError(
            f"{folder / 'checkpoints'}: none of {len(paths)} checkpoints can be read; delete them to restart"
        )
    return None
