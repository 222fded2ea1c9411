"""Time of the parts of a step: wait for data, views, forward, backward, optimizer; measured by events on a GPU."""

from __future__ import annotations

import time

import torch

PARTS = ("wait", "views", "forward", "backward", "optimizer")


class Stopwatch:
    """Times the parts of one step. Switched off it costs nothing; switched on it synchronises a GPU once, at the end.

    GPU work runs asynchronously, so its parts are timed by events in the GPU's queue. The wait for data is measured on
    the CPU. It is an upper bound of the lost time, because the GPU may still be working meanwhile.
    """

    def __init__(self, device: torch.device, *, on: bool) -> None:
        self.on, self._cuda = on, device.type == "cuda"
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._began = self._last = time.perf_counter()
        self._mark: torch.cuda.Event | None = None
        if on and self._cuda:
            torch.cuda.synchronize()  # exclude queued work of earlier steps
            self._began = self._last = time.perf_counter()
            self._mark = self._event()

    def lap(self, part: str) -> None:
        """Assign the time since the last lap to `part`."""
        if not self.on:
            return
        now = time.perf_counter()
        if self._cuda and part != "wait":
            assert self._mark is not None
            end = self._event()
            self._events.append((part, self._mark, end))
            self._mark = end
        else:
            self._parts[part] += now - self._last
            if self._cuda:
                self._mark = self._event()
        self._last = now

    def seconds(self) -> dict[str, float]:
        """`wait_s`, `views_s` … and `step_s`, the total since this stopwatch was created; {} if it is off."""
        if not self.on:
            return {}
        if self._cuda:
            torch.cuda.synchronize()
            for part, start, end in self._events:
                self._parts[part] += start.elapsed_time(end) / 1000
        parts = {f"{part}_s": round(seconds, 6) for part, seconds in self._parts.items()}
        return {"step_s": round(time.perf_counter() - self._began, 6), **parts}

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
