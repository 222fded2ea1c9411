"""Optional TensorBoard event files with the numbers of metrics.jsonl and watch.jsonl (`machine.tensorboard: true`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pellucid.cohort.errors import UserError

FOLDER = "tensorboard"


class Writer(Protocol):
    """The part of torch.utils.tensorboard.SummaryWriter that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


class Events:
    """Event files in a run's `tensorboard/`; with `wanted=False` nothing is written."""

    def __init__(self, folder: Path, *, wanted: bool) -> None:
        """
        Raises:
            UserError: `wanted`, but the package tensorboard is not installed.
        """
        self._writer: Writer | None = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "`machine.tensorboard: true` needs the package tensorboard: install it with pip install "
                "'pellucid[tensorboard]', or remove the setting: training.html in the run's folder shows the same "
                "curves"
            ) from None
        shutil.rmtree(folder / FOLDER, ignore_errors=True)  # `replay` writes the events of an interrupted run again
        self._writer = SummaryWriter(str(folder / FOLDER))

    def line(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl or watch.jsonl."""
        if self._writer is None:
            return
        step = int(line["step"])
        if "variable" in line:
            if line.get("score") is not None:
                self._writer.add_scalar(f"watch/{line['role']}/{line['variable']}", float(line["score"]), step)
            return
        for name, value in line.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(f"train/{name}", float(value), step)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add the lines that an interrupted run has already written."""
        for line in lines:
            self.line(line)

    def close(self) -> None:
        """Flush. Must be called before the run's checksums are written."""
        if self._writer is not None:
            self._writer.close()
