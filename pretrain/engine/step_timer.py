"""Where the time of a step goes: wait for data, views, forward, backward, optimizer; on a GPU by its own clock."""

from __future__ import annotations

import time

import torch

PARTS = ("wait", "views", "forward", "backward", "optimizer")


class Stopwatch:
    """Adds up the parts of one step. Off, it costs nothing; on, a GPU is waited for once, at the end.

    What runs on a GPU is only asked for when Python passes a line, so that its parts are told apart by events in its own
    queue. The wait for data is the one part of the processor's: it counts as far as the queue is empty meanwhile, which
    a processor cannot know, so that it is an upper bound.
    """

    def __init__(self, device: torch.device, *, on: bool) -> None:
        self.on, self._cuda = on, device.type == "cuda"
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._began = self._last = time.perf_counter()
        self._mark: torch.cuda.Event | None = None
        if on and self._cuda:
            torch.cuda.synchronize()  # what earlier steps have left in the queue is not this step's
            self._began = self._last = time.perf_counter()
            self._mark = self._event()

    def lap(self, part: str) -> None:
        """All since the last lap belongs to `part`."""
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
        """`wait_s`, `views_s` … and `step_s`, the whole since this stopwatch was made; {} if it is off."""
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
