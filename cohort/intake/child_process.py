"""Start, feed and end a child Python process over a pipe: the sandbox of `scan` and the CPU workers of `embed`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Modules come from the folder of this package, never from the current folder (-P).
START_CODE = "import sys; r = sys.argv[2]; r in sys.path or sys.path.insert(0, r); from {module} import serve; serve()"


@dataclass
class ChildProcess:
    """A running child process and this process's end of the pipe to it."""

    child: subprocess.Popen[bytes]
    pipe: Connection

    def end(self, patience_s: float = 0) -> int:
        """Close the pipe and kill the process; its exit status.

        Args:
            patience_s: wait this long first for the process to exit by itself: its own exit status gives the reason.
        """
        self.pipe.close()
        if patience_s:
            with suppress(subprocess.TimeoutExpired):
                return self.child.wait(patience_s)
        if self.child.poll() is None:
            self.child.kill()
        return self.child.wait()


def start_child(module: str, *, capture_errors: bool = False) -> ChildProcess:
    """Start a Python process that calls `serve()` of a module, with one thread per numerical library.

    The standard output is discarded, because decoders print. The process must end when its end of the pipe is closed.

    Args:
        module: dotted name; its `serve` takes its end of the pipe from `pipe_to_parent`.
        capture_errors: give `child.stderr` as a pipe; otherwise errors go to this process's stderr.
    """
    ours, theirs = Pipe()
    root = str(Path(__file__).absolute().parents[3])  # holds the package `pellucid`; the links below it stay unresolved
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", START_CODE.format(module=module), str(theirs.fileno()), root],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if capture_errors else None,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        )
    return ChildProcess(child, ours)


def pipe_to_parent() -> Connection:
    """In the child: its end of the pipe. SIGINT is left to the parent; SIGALRM ends the process, even in C code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return Connection(int(sys.argv[1]))
