"""Several questions of an audit at once, in processes: many small matrix products in threads would wait for the
interpreter lock.

Each question has a separate seed and separate arguments, so that the order in which questions run changes no answer.
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
MOST_AT_ONCE = 4  # processes; each holds a copy of the vectors in single precision
WORTH_PROCESSES = 5e7  # images × dimensions × permutations; below it, starting processes (two seconds) takes longer


@dataclass(frozen=True)
class Question:
    """A module-level function with its arguments, which can be sent to another process; arrays are shared, not
    copied."""

    label: str  # for the progress bar
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Steps:
    """Counts the answered questions for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def show(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, what)

    def count(self) -> None:
        self.done += 1
        if self.done == self.total:
            self.show("done")


def answer_questions(questions: Sequence[Question], work: float, steps: Steps) -> list[Any]:
    """The answers in the order of the questions; an exception of a question is raised.

    Args:
        work: images × dimensions × permutations; from WORTH_PROCESSES on, several processes are used.
    """
    cores = int(joblib.cpu_count())
    at_once = min(cores, MOST_AT_ONCE, len(questions))
    answers: list[Any] = [None] * len(questions)
    if at_once < 2 or work < WORTH_PROCESSES:
        with threadpool_limits(1, user_api="blas"):
            for place, question in enumerate(questions):
                steps.show(question.label)
                answers[place] = question.function(*question.arguments)
                steps.count()
        return answers
    steps.show(questions[0].label)
    parallel = joblib.Parallel(
        at_once, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch="all"
    )
    threads, parent = max(1, cores // at_once), os.getpid()
    arriving = parallel(
        joblib.delayed(answer_in_worker)(place, question, threads, parent) for place, question in enumerate(questions)
    )
    try:
        for place, answer in arriving:
            answers[place] = answer
            steps.show(questions[place].label)
            steps.count()
    finally:  # after a failure or Ctrl-C, do not compute the questions that still wait
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have been cancelled")
            arriving.close()
    return answers


def answer_in_worker(place: int, question: Question, threads: int, parent: int) -> tuple[int, Any]:
    """Runs in a worker process: uses only its share of the cores, and ends if the audit that started it has ended."""
    if parent not in (os.getpid(), os.getppid()):
        os._exit(1)
    before = os.environ.get("LOKY_MAX_CPU_COUNT")
    os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)
    try:
        with threadpool_limits(1, user_api="blas"):
            return place, question.function(*question.arguments)
    finally:  # loky reuses the worker, and runs this in the main process where no processes are available
        del os.environ["LOKY_MAX_CPU_COUNT"]
        if before is not None:
            os.environ["LOKY_MAX_CPU_COUNT"] = before


def shareable(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors that another process can read: a copy in memory unless they are an unchanged file that still exists."""
    backing: Any = vectors
    while backing is not None and not isinstance(backing, np.memmap):
        backing = getattr(backing, "base", None)
    if backing is None or (backing.mode == "r" and backing.filename and Path(backing.filename).exists()):
        return vectors
    return np.array(vectors)
