"""Files are decoded in processes of their own: one that hangs, crashes or eats memory costs a row, not the scan.

Decoders are C code fed with whatever an archive holds. A reading process has a time limit for each picture, kept by the
kernel (SIGALRM with its default action ends even a loop in C), and a limit on its address space. If it dies, the file
that it was reading becomes a row that says so, and a new process goes on with the next file.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pellucid.cohort.study import ScanConfig

_GRACE_S = 10  # beyond the kernel's own limit: a process stuck in the file system does not even die
# Its modules come from where ours do, never from the folder that one happens to stand in (-P).
_START = "import sys; r = sys.argv[2]; r in sys.path or sys.path.insert(0, r); from pellucid.cohort.intake.sandbox import serve; serve()"
_READY = "ready"
_START_S = 120  # a cold file system may take its time
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class _Process:
    child: subprocess.Popen[bytes]
    pipe: Connection

    def end(self) -> int:
        """Kill it; the exit status that it had, or now has."""
        self.pipe.close()
        with suppress(subprocess.TimeoutExpired):  # it may be on its way out by itself, which says why
            return self.child.wait(0.5)
        self.child.kill()
        return self.child.wait()


_idle: list[_Process] = []
_lock = threading.Lock()


def read_files(root: Path, files: list[str], config: ScanConfig) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """As `pellucid.cohort.intake.file_record.read_file` for each file in turn, but in another process; every file gives at least a row."""
    for file in files:
        got_frames = 0
        with _borrowed() as process:
            try:
                process.pipe.send((root, file, config))
                while (answer := _receive(process, config)) is not None:
                    got_frames += 1
                    yield answer
            except (EOFError, OSError) as death:
                late = process.end() == -signal.SIGALRM or isinstance(death, TimeoutError)
                yield _lost(root, file, config, got_frames, late), None


def _receive(process: _Process, config: ScanConfig) -> Any:
    if not process.pipe.poll(config.time_limit_s + _GRACE_S):
        raise TimeoutError
    answer = process.pipe.recv()
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _lost(root: Path, file: str, config: ScanConfig, got_frames: int, late: bool) -> dict[str, Any]:
    """The row of a file whose reader died on it."""
    reason = "its decoder crashed or ran out of memory on it"
    if late:
        reason = f"reading took longer than {config.time_limit_s:g} s (scan.time_limit_s)"
    if got_frames:
        reason += f", after {got_frames} of its pictures"
    size = 0
    with suppress(OSError):
        size = (root / file).stat().st_size
    image_id = f"{file}#rest" if got_frames else file
    return {"image_id": image_id, "file": file, "frame": "rest" if got_frames else "", "status": "unreadable",
            "reason": reason, "sha256": "", "n_bytes": size}  # fmt: skip


@contextmanager
def _borrowed() -> Iterator[_Process]:
    process = None
    while process is None:
        with _lock:
            process = _idle.pop() if _idle else None
        if process is None:
            process = _start()
        elif process.child.poll() is not None:  # it died while it waited: no fault of the next file
            process.pipe.close()
            process = None
    whole = False
    try:
        yield process
        whole = True
    finally:
        # A reader that was left in the middle of a file still has answers on the way: it is of no further use.
        if not whole or process.pipe.closed:
            process.child.kill()
        else:
            with _lock:
                _idle.append(process)


def _start() -> _Process:
    """A reading process that has said that it is ready.

    Raises:
        RuntimeError: it did not start: an installation that is broken is no fault of the files.
    """
    ours, theirs = Pipe()
    root = str(Path(__file__).absolute().parents[3])  # holds the package `pellucid`; the links below it stay unresolved
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(theirs.fileno()), root],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # decoders print
            stderr=subprocess.PIPE,  # until it is ready
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        )
    process = _Process(child, ours)
    assert child.stderr is not None
    with child.stderr as errors:
        try:
            if ours.poll(_START_S) and ours.recv() == _READY:
                return process
        except EOFError:
            pass
        process.end()
        said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    raise RuntimeError(f"the process that reads files did not start: {said[-1]}")


@atexit.register
def close_readers() -> None:
    """End the idle reading processes; they would end by themselves when this one does."""
    with _lock:
        processes, _idle[:] = _idle[:], []
    for process in processes:
        process.pipe.close()
        process.child.kill()
        process.child.wait()


def serve() -> None:
    """The life of a reading process: files in, rows out, until the other end is closed."""
    import cv2

    from pellucid.cohort.intake.file_record import read_file

    cv2.setNumThreads(1)  # one process per core; more threads would only push each other aside
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pipe = Connection(int(sys.argv[1]))
    pipe.send(_READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders complain there of every damaged stream
    while True:
        try:
            root, file, config = pipe.recv()
        except EOFError:
            return
        _limit_memory(config.memory_limit_gb)
        signal.setitimer(signal.ITIMER_REAL, config.time_limit_s)
        answer: Any
        try:
            for answer in read_file(root, file, config):
                signal.setitimer(signal.ITIMER_REAL, 0)  # it is the reader's time that counts, not the listener's
                pipe.send(answer)
                signal.setitimer(signal.ITIMER_REAL, config.time_limit_s)
            answer = None
        except BrokenPipeError:
            return
        except Exception as fault:  # ours, not the file's: it is raised where the scan was asked for
            fault.add_note(f"while reading {file}")
            answer = fault
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)


def _limit_memory(gigabytes: float) -> None:
    with suppress(ImportError, ValueError, OSError):  # not every system knows such a limit
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30), hard))
