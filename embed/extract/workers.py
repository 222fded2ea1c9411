"""Workers that compute chunks: threads of this process, single-threaded processes (one per core), or a GPU.

On a CPU every worker computes with one thread: two threads in one matrix product are slower than two products in
parallel (benchmarks/LOG.md), and results of one thread do not depend on the number of workers.
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
from pellucid.embed.backbones.backbone import Backbone, load_backbone, pick_device
from pellucid.embed.backbones.compilation import COMPILED_FROM, compiled
from pellucid.embed.backbones.compute_choice import Compute, threads_of
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.extract.chunks import ExtractionJob, claim_and_compute, done_chunks
from pellucid.embed.extract.embed_config import EmbedConfig

# On a CPU, fewer pictures are computed by threads of this process. A worker process takes some seconds to load torch
# and the weights (benchmarks/extraction_speed.py). Files are decoded in reading processes either way.
PROCESSES_FROM = 10_000
_CHECK_EVERY_S = 0.1
_MAX_DEATHS = 3  # of workers, without any chunk finished in between
T = TypeVar("T")


@dataclass(frozen=True)
class BackboneRequest:
    """How a worker loads its backbone.

    Attributes:
        compute: the number type that the user asked for, or the choice of the first process of the job.
    """

    backbone: str
    device: str
    readout: ReadoutConfig
    compute: Compute | str = "auto"

    @classmethod
    def from_config(cls, backbone: str, config: EmbedConfig, device: str = "auto") -> BackboneRequest:
        """As the `embed:` section says; a device other than auto overrides its device."""
        return cls(backbone, config.device if device == "auto" else device, config.readout(), config.precision)

    def load(self) -> Backbone:
        """Load it, on the GPU of this process if torchrun started several."""
        if self.backbone != "pixels":
            device = pick_device(self.device)
            if device.type == "cuda":
                torch.cuda.set_device(device)
        return load_backbone(self.backbone, self.device, self.readout, self.compute)


def compute_chunks(
    job: ExtractionJob,
    request: BackboneRequest,
    encoder: Backbone,
    advance: Advance,
    *,
    workers: int = 0,
    processes: bool | None = None,
) -> None:
    """Work until every chunk of the job is finished, including those that other processes compute.

    Args:
        request: how worker processes load the backbone.
        encoder: the backbone, loaded; used by threads, and on a GPU.
        advance: called with the number of newly finished units.
        workers: on a CPU; 0: one per core.
        processes: use worker processes; None: if there is enough to do.

    Raises:
        UserError: a worker could not load its backbone, or workers keep dying.
    """
    computing = encoder.computing
    on_gpu = encoder.is_on_gpu
    workers = 1 if on_gpu else workers or cores_per_process()
    if on_gpu and job.pad and len(job.units) >= COMPILED_FROM:  # counts the whole job, so a resumed one compiles too
        encoder = compiled(encoder, job.batch_size)
    else:
        encoder = encoder.packed()
    missing = job.n_chunks - len(done_chunks(job.folder))
    workers = max(1, min(workers, missing))
    n_left = missing * (len(job.units) / max(job.n_chunks, 1))
    if processes is None:
        processes = not on_gpu and encoder.model is not None and n_left >= PROCESSES_FROM and workers > 1
    reported: set[int] = set()
    pool: WorkerPool | None = None
    threads = torch.get_num_threads()
    try:
        while True:
            done = done_chunks(job.folder)
            if not job.folder.exists():  # the first process has already collected all chunks
                return
            advance(sum(len(job.units_of(chunk)) for chunk in done - reported))
            reported = done
            if len(done) == job.n_chunks:
                break
            if pool is None or pool.ended():
                if pool is not None:  # the remaining chunks were claimed by another process when our workers ended
                    time.sleep(_CHECK_EVERY_S)
                if processes:
                    pool = Processes(job, request, workers, computing)
                else:
                    if not on_gpu:
                        torch.set_num_threads(1)
                    pool = Threads(job, encoder, workers, decoders=cores_per_process() if on_gpu else 1)
            pool.check()
            time.sleep(_CHECK_EVERY_S)
    finally:
        if pool is not None:
            pool.end()
        torch.set_num_threads(threads)


def in_threads(encoder: Backbone, batches: Sequence[T], pixels: Callable[[T], Pixels]) -> list[NDArray[np.float32]]:
    """Vectors of batches of images, in order: one batch per core, computed as in an extraction.

    Args:
        pixels: batch → (n, size_px, size_px, 3) uint8 RGB.

    Returns:
        (n, dim) float32 for each batch.
    """
    encoder.computing  # noqa: B018 (choose before threads start)
    encoder, on_gpu = encoder.packed(), encoder.is_on_gpu
    with (
        threads_of(torch.get_num_threads() if on_gpu else 1),
        ThreadPoolExecutor(1 if on_gpu else cores_per_process()) as pool,
    ):
        return list(pool.map(lambda batch: encoder(pixels(batch)), batches))


class WorkerPool(Protocol):
    """The workers of this process."""

    def check(self) -> None:
        """Raise the error of a worker; replace a worker that has died."""

    def ended(self) -> bool:
        """Whether all workers ended because no chunk was left to claim."""

    def end(self) -> None:
        """Stop the workers."""


class Threads:
    """Worker threads that share one backbone; its computations release the interpreter lock."""

    def __init__(self, job: ExtractionJob, encoder: Backbone, workers: int, decoders: int) -> None:
        self._stop = threading.Event()
        self._raised: list[BaseException] = []

        def run() -> None:
            try:
                claim_and_compute(job, encoder.read, self._stop, decoders=decoders)
            except BaseException as error:
                self._raised.append(error)

        self._threads = [threading.Thread(target=run, name=f"embedding-{k}", daemon=True) for k in range(workers)]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        if self._raised:
            raise self._raised[0]

    def ended(self) -> bool:
        self.check()
        return not any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Processes:
    """Single-threaded worker processes; each loads the backbone itself and ends when this process does."""

    def __init__(
        self, job: ExtractionJob, request: BackboneRequest, workers: int, compute: Compute | str = "auto"
    ) -> None:
        """`compute`: how the backbone is computed; workers do not time it themselves."""
        self._order = pickle.dumps((job, replace(request, device="cpu", compute=compute)))
        self._folder = job.folder
        self._deaths, self._done_at_death = 0, -1
        self._workers = [self._start() for _ in range(workers)]

    def _start(self) -> ChildProcess:
        worker = start_child(__name__)
        with suppress(BrokenPipeError):  # the child died at once; `check` reports its exit code
            worker.pipe.send_bytes(self._order)
        return worker

    def check(self) -> None:
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
        done = len(done_chunks(self._folder))
        self._deaths = 1 if done != self._done_at_death else self._deaths + 1
        self._done_at_death = done
        end = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        hint = {
            -signal.SIGKILL: "; the system does this when memory runs out",
        }.get(code, "")
        if self._deaths > _MAX_DEATHS:
            raise UserError(
                f"embedding: {self._deaths} worker processes in a row ended {end}{hint}. Finished work is kept: repeat "
                "the command, with fewer workers (embed.workers=1) if memory is short"
            )
        print(f"embedding: a worker process ended {end}{hint}; its images are repeated", file=sys.stderr, flush=True)
        return self._start()

    def ended(self) -> bool:
        self.check()
        return all(worker.child.poll() == 0 for worker in self._workers)

    def end(self) -> None:
        for worker in self._workers:
            worker.end()  # safe: chunks are written atomically


def serve() -> None:
    """Entry point of a worker process: compute chunks of one job until none is left or the parent ends."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pipe = pipe_to_parent()
    job, request = pickle.loads(pipe.recv_bytes())

    def until_parent_ends() -> None:
        with suppress(EOFError, OSError):
            pipe.recv_bytes()
        os._exit(0)

    answer: tuple[str, Any]
    try:
        threading.Thread(target=until_parent_ends, daemon=True).start()
        claim_and_compute(job, request.load().packed().read, threading.Event())
        os._exit(0)  # skips the slow cleanup of torch
    except UserError as error:
        answer = "user", str(error)
    except BaseException:
        answer = "fault", traceback.format_exc()
    with suppress(OSError):
        pipe.send(answer)
    os._exit(1)
