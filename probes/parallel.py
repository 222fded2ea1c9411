"""Several questions at once, in processes: the interpreter's lock lets threads of many small products wait for each other.

Each question has its own seed and its own share of the arguments, so neither order nor company changes an answer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Progress = Callable[[int, int, str], None]
MOST_AT_ONCE = 4  # each holds a copy of the vectors in single precision
WORTH_PROCESSES = 5e7  # images × dimensions × permutations; with less, starting them (two seconds) is the longer part


@dataclass(frozen=True)
class Job:
    """A function of a module with its arguments, which can be sent to another process; arrays are shared, not copied."""

    what: str  # for people
    question: Callable[..., Any]
    arguments: tuple[Any, ...]


class Steps:
    """Counts the jobs for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def show(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, what)

    def count(self) -> None:
        self.done += 1
        if self.done == self.total:
            self.show("done")


def side_by_side(jobs: Sequence[Job], work: float, steps: Steps) -> list[Any]:
    """The answers in the order of the jobs, which are begun in that order; raises what a job raises.

    work: images × dimensions × permutations, by which it is decided whether processes are worth their start.
    """
    cores = int(joblib.cpu_count())
    at_once = min(cores, MOST_AT_ONCE, len(jobs))
    answers: list[Any] = [None] * len(jobs)
    if at_once < 2 or work < WORTH_PROCESSES:
        with threadpool_limits(1, user_api="blas"):
            for place, job in enumerate(jobs):
                steps.show(job.what)
                answers[place] = job.question(*job.arguments)
                steps.count()
        return answers
    steps.show(jobs[0].what)
    parallel = joblib.Parallel(
        at_once, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch="all"
    )
    threads, parent = max(1, cores // at_once), os.getpid()
    arriving = parallel(joblib.delayed(_answer)(place, job, threads, parent) for place, job in enumerate(jobs))
    try:
        for place, answer in arriving:
            answers[place] = answer
            steps.show(jobs[place].what)
            steps.count()
    finally:  # what is still waiting is not computed where one has failed, or the person has had enough
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have been cancelled")
            arriving.close()
    return answers


def _answer(place: int, job: Job, threads: int, parent: int) -> tuple[int, Any]:
    """In a worker, which is to use its share of the cores only, and to end where nobody waits for it any more."""
    if parent not in (os.getpid(), os.getppid()):
        os._exit(1)
    before = os.environ.get("LOKY_MAX_CPU_COUNT")
    os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)
    try:
        with threadpool_limits(1, user_api="blas"):
            return place, job.question(*job.arguments)
    finally:  # the worker may serve others later, and is this very process where processes cannot be had
        del os.environ["LOKY_MAX_CPU_COUNT"]
        if before is not None:
            os.environ["LOKY_MAX_CPU_COUNT"] = before


def shareable(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """The vectors as another process will see them: a file opened by name shows neither what was changed in memory nor, once
    deleted, anything."""
    backing: Any = vectors
    while backing is not None and not isinstance(backing, np.memmap):
        backing = getattr(backing, "base", None)
    if backing is None or (backing.mode == "r" and backing.filename and Path(backing.filename).exists()):
        return vectors
    return np.array(vectors)
