"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_S = 15.0


class Advance(Protocol):
    """Says that `count` more are done, and perhaps how many there are in all."""

    def __call__(self, count: int, total: int | None = None, /) -> None: ...


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
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
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
            print(f"{what}: {done}/{total} {unit}, about {left:.0f} s left", file=sys.stderr, flush=True)

    yield advance
