"""Start the explorer: a server in a separate process, on this machine's loopback address only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid.cohort.errors import UserError
from pellucid.explore.app.lifetime import GRACE_S, Ended, signals_as_exception
from pellucid.explore.app.outside_calls import is_loopback

if TYPE_CHECKING:
    from pellucid.cohort.study import Study

SERVER = Path(__file__).with_name("server.py")


def refusal(address: str | None) -> str:
    """Why the explorer refuses to listen on an address."""
    return (
        f"the explorer shows patients' images and has no sign-in yet, so it does not listen on "
        f"{address or 'every interface'}: keep the address 127.0.0.1, and use an SSH tunnel from another machine"
    )


def command(study: Path, port: int, address: str = "127.0.0.1", overrides: Sequence[str] = ()) -> list[str]:
    """The command line that starts the explorer.

    Raises:
        UserError: the address can be reached from other machines.
    """
    if not is_loopback(address):
        raise UserError(refusal(address))
    place = ["--address", address.strip("[]"), "--port", str(port)]
    return [sys.executable, str(SERVER), *place, "--with-starter", "--", str(study.absolute()), *overrides]


def environment() -> dict[str, str]:
    """The environment of the server; Python runs a script by its path and would not find the packages of a checkout."""
    root = str(SERVER.parents[3])
    earlier = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *earlier])}


def explore(study: Study, port: int = 8501, address: str = "127.0.0.1", overrides: Sequence[str] = ()) -> int:
    """Run the explorer until it is stopped (Ctrl-C, SIGTERM, SIGHUP, a closed terminal); its exit code.

    The server ends with this process whatever ends it: it reads a pipe that only this process holds.

    Args:
        overrides: the `key=value` that `study` was loaded with, so that the explorer sees the same study.

    Raises:
        UserError: an address other than loopback, or nothing to show yet.
    """
    from pellucid.explore.study_findings import gather_newest  # loads PyTorch, which the server does later

    line = command(study.path, port, address, overrides)
    gather_newest(study)  # a study without a scan is refused here, not in the browser
    _refuse_taken_port(address, port)
    return run_until_ended(line)


def run_until_ended(line: Sequence[str]) -> int:
    """Run the server until it ends or a signal asks for it; its exit code, 0 after a signal."""
    process = None
    try:
        with signals_as_exception():
            # Not in the current folder: neither its `.streamlit` nor its modules belong to the explorer.
            process = subprocess.Popen(line, env=environment(), cwd=SERVER.parent, stdin=subprocess.PIPE)
            return process.wait()
    except (Ended, KeyboardInterrupt, SystemExit):
        if process is not None:
            end(process)
        return 0


def end(process: subprocess.Popen[bytes]) -> None:
    """End the server, if need be by force."""
    process.terminate()
    try:
        process.wait(timeout=GRACE_S + 1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _refuse_taken_port(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address.strip("[]"), port))
        except OSError:
            raise UserError(f"port {port} is in use, perhaps by another explorer: choose another with --port") from None
