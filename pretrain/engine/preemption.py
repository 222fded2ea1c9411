"""How a training is asked to stop: a signal of the scheduler's or a person's, or a file named PREEMPT."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PREEMPT = "PREEMPT"  # a file of this name in the run's folder asks the training to save itself and stop


class StopRequests:
    """Whether somebody has asked the training to stop, and how."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PREEMPT
        self._heard: str | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._heard is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self._heard = signal.Signals(number).name

    def reason(self) -> str | None:
        if self._heard is None and self._file.exists():
            self._heard = f"a file named {PREEMPT}"
        return self._heard


@contextlib.contextmanager
def stop_requests(folder: Path) -> Iterator[StopRequests]:
    """Listen for SIGTERM, SIGUSR2, Ctrl-C and the PREEMPT file while the block runs."""
    requests = StopRequests(folder)
    earlier = {}
    if threading.current_thread() is threading.main_thread():  # only there may Python set handlers
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            earlier[number] = signal.signal(number, requests.hear)
    try:
        yield requests
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
