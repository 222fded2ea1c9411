"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

_LINE_EVERY_S = 15.0


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def cores_per_process() -> int:
    """Cores that this process may use: its share where torchrun has started several processes on this machine."""
    import joblib

    return max(1, int(joblib.cpu_count()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Advance(Protocol):
    """Says that `count` more are done, and perhaps how many there are in all."""

    def __call__(self, count: int, total: int | None = None, /) -> None: ...


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`: the one form in which time is shown."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class TimeLeft(ProgressColumn):
    """The time left, as in a log."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        return Text("" if task.time_remaining is None else f"{duration(task.time_remaining)} left")


@contextlib.contextmanager
def track(what: str, total: int, unit: str, shown: bool = True) -> Iterator[Advance]:
    """Give a function that says how many more are done.

    Args:
        what: the work, as a person would name it.
        total: how many in all, as far as is known; the function given takes a better number.
        unit: plural noun for the count.
        shown: False keeps silent.
    """
    if not shown:
        yield lambda count, total=None: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeLeft(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count, total=None: bar.update(task, advance=count, total=total)
    else:
        with _lines(what, total, unit) as advance:
            yield advance


@contextlib.contextmanager
def _lines(what: str, total: int, unit: str) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int, better: int | None = None) -> None:
        nonlocal done, last, total
        total = better or total
        done += count
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            left = (total - done) * (now - start) / max(done, 1)
            print(f"{what}: {done}/{total} {unit}, {duration(left)} left", file=sys.stderr, flush=True)

    yield advance
