"""Stop requests: a signal from a scheduler or user, or a file named PREEMPT."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PREEMPT = "PREEMPT"  # a file of this name in the run folder makes the training save a checkpoint and stop


class StopRequests:
    """Whether a stop of the training was requested, and how."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PREEMPT
        self._request: str | None = None

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if number == signal.SIGINT and self._request is not None:  # the second Ctrl-C stops immediately
            raise KeyboardInterrupt
        self._request = signal.Signals(number).name

    def reason(self) -> str | None:
        """What requested the stop; None if nothing did."""
        if self._request is None and self._file.exists():
            self._request = f"a file named {PREEMPT}"
        return self._request


@contextlib.contextmanager
def stop_requests(folder: Path) -> Iterator[StopRequests]:
    """Listen for SIGTERM, SIGUSR2, Ctrl-C and the PREEMPT file while the block runs."""
    requests = StopRequests(folder)
    earlier = {}
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            earlier[number] = signal.signal(number, requests.on_signal)
    try:
        yield requests
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
