"""Who computes the parts: threads of this process, processes of their own (one a core), a GPU; and who watches them.

On a CPU every worker computes with one thread: two threads in one product fall behind two products side by side
(benchmarks/LOG.md), and what one thread computes does not depend on how many workers there are.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.images import Pixels
from pellucid.cohort.intake.child_process import ChildProcess, pipe_to_parent, start_child
from pellucid.cohort.progress import Advance, cores_per_process
from pellucid.embed.backbones.backbone import Backbone, load_backbone
from pellucid.embed.backbones.compilation import COMPILED_FROM, compiled
from pellucid.embed.backbones.compute_choice import Compute, threads_of
from pellucid.embed.backbones.readout import Reading
from pellucid.embed.extract.chunks import Job, done_parts, work

# On a CPU: fewer pictures are computed by threads of this process. Another process takes some seconds to load torch and
# the weights (benchmarks/extraction_speed.py), but a file that kills its reader kills only that process.
PROCESSES_FROM = 10_000
_LOOK_EVERY_S = 0.1
_DEATHS = 3  # of workers, without any part finished in between, are no accident
T = TypeVar("T")


@dataclass(frozen=True)
class Named:
    """How a worker gets its backbone.

    Attributes:
        compute: the number type that the user wants, or the choice of the job's first process.
    """

    backbone: str
    device: str
    reading: Reading
    compute: Compute | str = "auto"

    def load(self) -> Backbone:
        return load_backbone(self.backbone, self.device, self.reading, self.compute)


def is_on_gpu(encoder: Backbone) -> bool:
    return encoder.model is not None and next(encoder.model.parameters()).is_cuda


def run_parts(
    job: Job, named: Named, encoder: Backbone, advance: Advance, *, workers: int = 0, processes: bool | None = None
) -> None:
    """Work until every part of the job is there, whoever computes it.

    Args:
        encoder: the backbone, loaded; on a GPU it does all the work.
        advance: told how many units more are done.
        workers: on a CPU; 0: one a core.
        processes: each worker a process; None: where there is enough to do.

    Raises:
        UserError: a worker could not load its backbone, or workers keep dying.
    """
    computing = encoder.computing
    on_gpu = is_on_gpu(encoder)
    workers = 1 if on_gpu else workers or cores_per_process()
    if on_gpu and job.pad and len(job.units) >= COMPILED_FROM:  # of the whole job: resumed, it is computed alike
        encoder = compiled(encoder, job.batch_size)
    else:
        encoder = encoder.packed()
    missing = job.n_parts - len(done_parts(job.folder))
    workers = max(1, min(workers, missing))
    n_left = missing * (len(job.units) / max(job.n_parts, 1))
    if processes is None:
        processes = not on_gpu and encoder.model is not None and n_left >= PROCESSES_FROM and workers > 1
    told: set[int] = set()
    crew: Crew | None = None
    threads = torch.get_num_threads()
    try:
        while True:
            there = done_parts(job.folder)
            if not job.folder.exists():  # the first process has put all of it together already
                return
            advance(sum(len(job.units_of(part)) for part in there - told))
            told = there
            if len(there) == job.n_parts:
                break
            if crew is None or crew.ended():
                if crew is not None:  # what is left is held by another rank, or was when we looked
                    time.sleep(_LOOK_EVERY_S)
                if processes:
                    crew = Processes(job, named, workers, computing)
                else:
                    if not on_gpu:
                        torch.set_num_threads(1)
                    crew = Threads(job, encoder, workers, decoders=cores_per_process() if on_gpu else 1)
            crew.look()
            time.sleep(_LOOK_EVERY_S)
    finally:
        if crew is not None:
            crew.end()
        torch.set_num_threads(threads)


def in_threads(encoder: Backbone, batches: Sequence[T], pixels: Callable[[T], Pixels]) -> list[NDArray[np.float32]]:
    """Vectors of batches of images, in order: a batch a core, each computed as extraction computes it.

    Args:
        pixels: batch → (n, size_px, size_px, 3) uint8 RGB.
    """
    encoder.computing  # noqa: B018 (chosen before there are threads)
    encoder, on_gpu = encoder.packed(), is_on_gpu(encoder)
    with (
        threads_of(torch.get_num_threads() if on_gpu else 1),
        ThreadPoolExecutor(1 if on_gpu else cores_per_process()) as pool,
    ):
        return list(pool.map(lambda batch: encoder(pixels(batch)), batches))


class Crew(Protocol):
    """The workers of this process."""

    def look(self) -> None:
        """Raise what a worker has raised; replace one that has died."""

    def ended(self) -> bool:
        """Whether all have found nothing more to claim."""

    def end(self) -> None:
        """Stop them."""


class Threads:
    """Workers that share one loaded backbone: what it computes releases the interpreter."""

    def __init__(self, job: Job, encoder: Backbone, workers: int, decoders: int) -> None:
        self._stop = threading.Event()
        self._raised: list[BaseException] = []

        def run() -> None:
            try:
                work(job, encoder.read, self._stop, decoders=decoders)
            except BaseException as error:
                self._raised.append(error)

        self._threads = [threading.Thread(target=run, name=f"embedding-{k}", daemon=True) for k in range(workers)]
        for thread in self._threads:
            thread.start()

    def look(self) -> None:
        if self._raised:
            raise self._raised[0]

    def ended(self) -> bool:
        self.look()
        return not any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Processes:
    """One single-threaded process a core; each loads the backbone itself and ends when this process does."""

    def __init__(self, job: Job, named: Named, workers: int, compute: Compute | str = "auto") -> None:
        """`compute`: how the backbone is computed; no worker times it for itself."""
        self._order = pickle.dumps((job, replace(named, device="cpu", compute=compute)))
        self._folder = job.folder
        self._deaths, self._done_at_death = 0, -1
        self._workers = [self._start() for _ in range(workers)]

    def _start(self) -> ChildProcess:
        worker = start_child(__name__)
        with suppress(BrokenPipeError):  # it died at once: its exit status is found by `look`
            worker.pipe.send_bytes(self._order)
        return worker

    def look(self) -> None:
        for place, worker in enumerate(self._workers):
            code = worker.child.poll()
            with suppress(EOFError, OSError):
                while worker.pipe.poll():
                    kind, text = worker.pipe.recv()
                    raise UserError(text) if kind == "user" else RuntimeError(f"a worker process failed:\n{text}")
            if code:
                self._workers[place] = self._replaced(worker, code)

    def _replaced(self, worker: ChildProcess, code: int) -> ChildProcess:
        worker.pipe.close()
        done = len(done_parts(self._folder))
        self._deaths = 1 if done != self._done_at_death else self._deaths + 1
        self._done_at_death = done
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        hint = {
            -signal.SIGKILL: "; the system ends processes so when memory is short",
            -signal.SIGALRM: "; a picture took longer than scan.time_limit_s",
        }.get(code, "")
        if self._deaths > _DEATHS:
            raise UserError(
                f"embedding: {self._deaths} worker processes one after the other ended {how}{hint}. What was done is "
                "kept: repeat the command, with fewer workers (pellucid.embed.extract.workers=1) if memory is short"
            )
        print(f"embedding: a worker process ended {how}{hint}; its part is repeated", file=sys.stderr, flush=True)
        return self._start()

    def ended(self) -> bool:
        self.look()
        return all(worker.child.poll() == 0 for worker in self._workers)

    def end(self) -> None:
        for worker in self._workers:
            worker.end()  # nothing is lost: a part is whole or absent


def serve() -> None:
    """The life of a worker process: one job, parts out, until none is left or the other end is closed."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pipe = pipe_to_parent()
    job, named = pickle.loads(pipe.recv_bytes())

    def until_parent_ends() -> None:
        with suppress(EOFError, OSError):
            pipe.recv_bytes()
        os._exit(0)

    answer: tuple[str, Any]
    try:
        threading.Thread(target=until_parent_ends, daemon=True).start()
        work(job, named.load().packed().read, threading.Event(), alone=True)
        os._exit(0)  # what torch still has to tidy up is of no interest
    except UserError as error:
        answer = "user", str(error)
    except BaseException:
        answer = "fault", traceback.format_exc()
    with suppress(OSError):
        pipe.send(answer)
    os._exit(1)
