"""Checkpoints: the complete state of a training after a step, written atomically.

They contain no generator state: everything random in a step is seeded from (seed, step, rank) when the step begins.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path

SCHEMA = "pellucid.checkpoint/1"
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError)


def checkpoint_path(folder: Path, step: int) -> Path:
    """`checkpoints/step-00001200.pt` in a pretraining run."""
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """The regular checkpoints, oldest first; `best-….pt` is not included."""
    return sorted((folder / "checkpoints").glob("step-*.pt"))


def best_checkpoint(folder: Path) -> Path | None:
    """`checkpoints/best-00000800.pt`, or None if no checkpoint has a score.

    If the process was killed between saving a better one and removing its predecessor there are two: the later is
    better.
    """
    return max((folder / "checkpoints").glob("best-*.pt"), default=None)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int, score: float | None = None) -> Path:
    """Save the state after `step` steps, update the best checkpoint, then remove all but the newest `keep`.

    Args:
        state: tensors, numbers, strings and their containers, which `torch.load` reads without running code.
        score: quality of the features (RankMe; higher is better). None for a checkpoint that must not become the best,
            as when a stop was requested: the best step must not depend on the time of an interruption.

    Raises:
        UserError: it cannot be written; earlier checkpoints are unchanged.
    """
    path = checkpoint_path(folder, step)
    try:
        path.parent.mkdir(exist_ok=True)
        for torn in path.parent.glob(".*.tmp"):  # left by a process that was killed while saving
            torn.unlink()
        with atomic_path(path) as temporary, temporary.open("wb") as sink:
            torch.save({"schema": SCHEMA, **state, "step": step, "score": score}, sink)
        _keep_best(folder)
    except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
        last = [saved for saved in list_checkpoints(folder) if saved != path]
        kept = f"the newest complete checkpoint is {last[-1].name}" if last else "there is no checkpoint yet"
        raise UserError(
            f"{path}: the checkpoint cannot be written ({error}); {kept}. Free disk space and rerun the command: "
            "it continues from there"
        ) from None
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def _keep_best(folder: Path) -> None:
    """Give the best checkpoint a second name, so that it is not pruned.

    All checkpoints are compared, not only the newest: the process may have been killed after saving a better one.
    """
    earlier = sorted((folder / "checkpoints").glob("best-*.pt"))
    best = earlier[-1] if earlier else None
    best_score = _score(best) if best else None
    for path in list_checkpoints(folder):
        score = _score(path)
        if score is not None and (best_score is None or score > best_score):  # the earliest of equals
            best, best_score = path, score
    if best is None or best_score is None:
        return
    kept = best.with_name(best.name.replace("step-", "best-"))
    if kept != best:
        with atomic_path(kept) as temporary:
            try:
                os.link(best, temporary)  # two names of one file: no copy
            except OSError:  # a file system without hard links
                shutil.copyfile(best, temporary)
    for old in earlier:
        if old != kept:
            old.unlink()


def _score(path: Path) -> float | None:
    """The score of a checkpoint, read without loading its tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except _UNREADABLE:
        return None
    score = state.get("score") if isinstance(state, dict) else None
    return score if score is not None and math.isfinite(score) else None


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None if there is none; unreadable ones are skipped.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        state = _load(path, device)
        if state is not None:
            return state
    if paths:
        raise UserError(
            f"{folder / 'checkpoints'}: none of the {len(paths)} checkpoints can be read; delete them to restart the "
            "training"
        )
    return None


def load_best(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint with the highest score, or None if there is none or it cannot be read."""
    path = best_checkpoint(folder)
    return None if path is None else _load(path, device)


def _load(path: Path, device: torch.device) -> dict[str, Any] | None:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except _UNREADABLE:
        return None
    return state if isinstance(state, dict) and state.get("schema") == SCHEMA else None


def finish_checkpoints(folder: Path) -> None:
    """Keep only the last checkpoint of a finished run; the best has been exported."""
    for old in list_checkpoints(folder)[:-1]:
        old.unlink()
    for best in (folder / "checkpoints").glob("best-*.pt"):
        best.unlink()
    for torn in (folder / "checkpoints").glob(".*.tmp"):
        with contextlib.suppress(OSError):
            torn.unlink()
