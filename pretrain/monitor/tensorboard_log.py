"""TensorBoard by flag: the numbers of metrics.jsonl and watch.jsonl once more, as event files. Optional, nothing reads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pellucid.cohort.errors import UserError

FOLDER = "tensorboard"


class Writer(Protocol):
    """What is used of torch.utils.tensorboard.SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def close(self) -> None: ...


class Events:
    """Event files in a run's `tensorboard/`; with `wanted=False` nothing happens."""

    def __init__(self, folder: Path, *, wanted: bool) -> None:
        """
        Raises:
            UserError: it is wanted, and the package is not installed.
        """
        self._writer: Writer | None = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "`machine.tensorboard: true` needs the package tensorboard: install the extra (pip install "
                "'pellucid[tensorboard]'), or leave it out: training.html in the run's folder shows the same curves"
            ) from None
        shutil.rmtree(folder / FOLDER, ignore_errors=True)  # an interrupted run's events are written again by `replay`
        self._writer = SummaryWriter(str(folder / FOLDER))

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, or of watch.jsonl."""
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
        """The lines that an interrupted run has written before."""
        for line in lines:
            self.line(line)

    def close(self) -> None:
        """Flush; before the run's checksums are written."""
        if self._writer is not None:
            self._writer.close()
