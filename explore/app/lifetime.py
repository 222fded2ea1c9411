"""When the explorer ends: with a signal, with its terminal, and with the command that started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType

GRACE_S = 4.0  # for open connections; then the process ends without them
_POLL_S = 1.0
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ended(BaseException):
    """A signal asks the command to end."""


@contextlib.contextmanager
def signals_as_exception() -> Iterator[None]:
    """Raise `Ended` in the block for Ctrl-C, SIGTERM and SIGHUP; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended

    earlier = {number: signal.signal(number, end) for number in (signal.SIGINT, *ENDING)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextlib.asynccontextmanager
async def server_lifetime() -> AsyncIterator[None]:
    """While the block runs, SIGTERM, SIGHUP and a closed terminal end the server, whatever its connections do.

    For use inside the server's event loop, in the main thread: uvicorn's handler of SIGTERM is in place then, and is
    called first. SIGHUP is honoured even where it was ignored (`nohup`): patients' images are not served on without a
    terminal.
    """
    graceful = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        _end_after(GRACE_S)
        if callable(graceful):
            graceful(signal.SIGTERM, frame)

    for number in ENDING:
        signal.signal(number, end)
    watch = asyncio.create_task(_end_with_terminal())
    try:
        yield
    finally:
        watch.cancel()


def end_with_starter() -> None:
    """End this process when its standard input ends: the command that started it holds the other end of the pipe."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        stop_this_process()

    threading.Thread(target=wait, daemon=True, name="starter").start()


def stop_this_process() -> None:
    """End the server as SIGTERM does."""
    _end_after(GRACE_S)
    os.kill(os.getpid(), signal.SIGTERM)


def has_terminal() -> bool:
    """Whether the process has a controlling terminal; it loses it when the terminal is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True


async def _end_with_terminal(present: Callable[[], bool] = has_terminal) -> None:
    """A job in the background of a closed terminal receives no signal: it must notice."""
    if not present():
        return
    while present():
        await asyncio.sleep(_POLL_S)
    stop_this_process()


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [0])
    timer.daemon = True
    timer.start()
