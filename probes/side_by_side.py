"""Several questions at once, in processes: the interpreter's lock lets threads of many small products wait for each other.

Each question has its own seed and its own share of the arguments, so neither order nor company changes an answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
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
    calls = (joblib.delayed(_answer)(place, job, max(1, cores // at_once)) for place, job in enumerate(jobs))
    for place, answer in parallel(calls):
        answers[place] = answer
        steps.show(jobs[place].what)
        steps.count()
    return answers


def _answer(place: int, job: Job, threads: int) -> tuple[int, Any]:
    """In a worker, which is to use its share of the cores only."""
    os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)
    with threadpool_limits(1, user_api="blas"):
        return place, job.question(*job.arguments)
