"""Progress of a training: a bar on a terminal, a line every few seconds in a log file, or nothing."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pellucid.cohort.progress import TimeLeft, duration

LINE_EVERY_S = 10.0


class Show(Protocol):
    """Called after each step."""

    def __call__(self, step: int, loss: float, images_per_s: float) -> None: ...


class Pace:
    """Images per second over the last few dozen steps."""

    def __init__(self, batch_size: int, window: int = 32) -> None:
        self.batch_size = batch_size
        self._ends: deque[float] = deque([time.perf_counter()], maxlen=window + 1)

    def tick(self) -> float:
        """Record the end of a step; returns images per second."""
        self._ends.append(time.perf_counter())
        return self.batch_size * (len(self._ends) - 1) / max(1e-9, self._ends[-1] - self._ends[0])


@contextlib.contextmanager
def show_progress(name: str, start: int, steps: int, batch_size: int, *, wanted: bool) -> Iterator[Show]:
    """Yield a function that shows the progress.

    Args:
        start: number of steps already done.
        wanted: False shows nothing.
    """
    if not wanted:
        yield lambda step, loss, images_per_s: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeLeft(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"pretrain {name}", total=steps, completed=start, rate="")

            def draw(step: int, loss: float, images_per_s: float) -> None:
                bar.update(task, completed=step, rate=f"{images_per_s:,.0f} images/s, loss {loss:.3f},")

            yield draw
    else:
        said = time.monotonic()

        def say(step: int, loss: float, images_per_s: float) -> None:
            nonlocal said
            if time.monotonic() - said < LINE_EVERY_S and step < steps:
                return
            said = time.monotonic()
            left = duration((steps - step) * batch_size / max(images_per_s, 1e-9))
            print(
                f"pretrain {name}: step {step:,} of {steps:,}, loss {loss:.3f}, {images_per_s:,.0f} images/s, {left} "
                "left",
                file=sys.stderr,
                flush=True,
            )

        yield say
