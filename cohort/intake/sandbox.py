"""Decode files in separate processes, so that a file that crashes or hangs a decoder costs one row and not the scan.

Decoders are C code that reads whatever an archive contains. A reading process has a time limit per image, enforced by
the kernel (SIGALRM with its default action ends even a loop in C), and a limit on its address space. If it dies, the
file it was reading gets a row with the reason, and a new process continues with the next file. `scan`, `init`, `embed`
and `search` all decode here; the processes are reused.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pellucid.cohort.intake.child_process import ChildProcess, pipe_to_parent, start_child
from pellucid.cohort.study import ScanConfig

_GRACE_S = 10  # beyond the kernel's own limit: a process that hangs in the file system cannot be killed by a signal
_READY = "ready"
_ANSWER, _ENDED, _RAISED = "answer", "ended", "raised"
_START_S = 120  # a cold file system may be slow
_OWN_EXIT_S = 0.5

idle_readers: list[ChildProcess] = []
_lock = threading.Lock()
T = TypeVar("T")
P = ParamSpec("P")


class ReaderDied(Exception):
    """The process that read a file crashed, or exceeded its limit of time or memory; the message is the reason."""


def read_files(root: Path, files: list[str], config: ScanConfig) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """`pellucid.cohort.intake.file_record.read_file` for each file in turn, in another process; at least one row per
    file."""
    from pellucid.cohort.intake.file_record import read_file

    for file in files:
        got_frames = 0
        try:
            for answer in run_apart(config, read_file, root, file, config):
                got_frames += 1
                yield answer
        except ReaderDied as reason:
            yield _lost(root, file, str(reason), got_frames), None
        except Exception as fault:  # an error of this program, not of the file
            fault.add_note(f"while reading {file}")
            raise


def run_apart(limits: ScanConfig, work: Callable[P, Iterable[T]], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
    """What `work(*args, **kwargs)` yields, computed in a reading process.

    Args:
        limits: `time_limit_s` for each answer and `memory_limit_gb`.
        work: a function of a module; it, its arguments and its answers must be picklable.

    Raises:
        ReaderDied: the process did not survive it.
        Exception: what `work` raised.
    """
    raised: BaseException | None = None
    with _borrowed() as process:
        try:
            process.pipe.send((work, args, kwargs, limits.time_limit_s, limits.memory_limit_gb))
            while True:
                if not process.pipe.poll(limits.time_limit_s + _GRACE_S):
                    raise TimeoutError
                kind, answer = process.pipe.recv()
                if kind != _ANSWER:
                    raised = answer
                    break
                yield answer
        except (EOFError, OSError) as death:
            late = process.end(_OWN_EXIT_S) == -signal.SIGALRM or isinstance(death, TimeoutError)
            reason = "its decoder crashed or ran out of memory"
            if late:
                reason = f"reading took longer than {limits.time_limit_s:g} s (scan.time_limit_s)"
            raised = ReaderDied(reason)
    if raised is not None:
        raise raised


def _lost(root: Path, file: str, reason: str, got_frames: int) -> dict[str, Any]:
    """The row of a file whose reading process died."""
    if got_frames:
        reason += f", after {got_frames} of its images"
    size = 0
    with suppress(OSError):
        size = (root / file).stat().st_size
    image_id = f"{file}#rest" if got_frames else file
    return {"image_id": image_id, "file": file, "frame": "rest" if got_frames else "", "status": "unreadable",
            "reason": reason, "sha256": "", "n_bytes": size}  # fmt: skip


@contextmanager
def _borrowed() -> Iterator[ChildProcess]:
    process = None
    while process is None:
        with _lock:
            process = idle_readers.pop() if idle_readers else None
        if process is None:
            process = start_reader()
        elif process.child.poll() is not None:  # it died while idle: the next file is not the cause
            process.pipe.close()
            process = None
    whole = False
    try:
        yield process
        whole = True
    finally:
        # A process that was left in the middle of a file still has answers in its pipe and cannot be reused.
        if not whole or process.pipe.closed:
            process.child.kill()
        else:
            with _lock:
                idle_readers.append(process)


def start_reader() -> ChildProcess:
    """A reading process that has reported that it is ready.

    Raises:
        RuntimeError: it did not start, because the installation is broken.
    """
    process = start_child(__name__, capture_errors=True)
    assert process.child.stderr is not None
    with process.child.stderr as errors:
        try:
            if process.pipe.poll(_START_S) and process.pipe.recv() == _READY:
                return process
        except EOFError:
            pass
        process.end(_OWN_EXIT_S)
        output = errors.read().decode(errors="replace").strip().splitlines() or ["no error output"]
    raise RuntimeError(f"the process that reads files did not start: {output[-1]}")


def start_ahead() -> None:
    """Start a reading process while this one loads its network; the first file then need not wait for it."""

    def start() -> None:
        with suppress(Exception):  # the first file that is read raises it again, where it can be reported
            process = start_reader()
            with _lock:
                idle_readers.append(process)

    if not idle_readers:
        threading.Thread(target=start, name="reader", daemon=True).start()


@atexit.register
def close_readers() -> None:
    """End the idle reading processes; they would also end with this process."""
    with _lock:
        processes, idle_readers[:] = idle_readers[:], []
    for process in processes:
        process.end()


def serve() -> None:
    """Main loop of a reading process: work in, answers out, until the other end of the pipe is closed."""
    import cv2

    cv2.setNumThreads(1)  # one process per core: more threads would only compete
    pipe = pipe_to_parent()
    pipe.send(_READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print a warning for every damaged stream
    while True:
        try:
            work, args, kwargs, time_limit_s, memory_limit_gb = pipe.recv()
        except EOFError:
            return
        _limit_memory(memory_limit_gb)
        signal.setitimer(signal.ITIMER_REAL, time_limit_s)
        last: tuple[str, Any] = _ENDED, None
        try:
            for answer in work(*args, **kwargs):
                signal.setitimer(signal.ITIMER_REAL, 0)  # only the reading is timed, not the receiver
                pipe.send((_ANSWER, answer))
                signal.setitimer(signal.ITIMER_REAL, time_limit_s)
        except BrokenPipeError:
            return
        except Exception as error:  # raised again in the parent
            last = _RAISED, error
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            pipe.send(last)
        except BrokenPipeError:
            return
        except Exception:  # an error that cannot be pickled
            pipe.send((_RAISED, RuntimeError("".join(traceback.format_exception(last[1])))))


def _limit_memory(gigabytes: float) -> None:
    """Limit the address space; a crash leaves no core file, which would hold patients' images."""
    with suppress(ImportError, ValueError, OSError):  # not every system has such a limit
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), hard))
