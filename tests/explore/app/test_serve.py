"""The explorer listens on loopback or not at all, and ends with the command that started it and with its terminal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.cohort.errors import UserError
from pellucid.explore.app.serve import command, environment

PATIENCE_S = 240  # of a loaded machine; nothing here takes longer than its imports


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.7", "::", "clinic.example", ""])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(UserError, match=r"has no sign-in yet, so it does not listen on"):
        command(Path("study.yaml"), 8501, address)


def test_the_command_names_the_study_by_its_whole_path_and_no_secret() -> None:
    line = command(Path("study.yaml"), 8765, "[::1]", overrides=["split.seed=1"])
    assert line[2:] == [
        *("--address", "::1", "--port", "8765", "--with-starter", "--"),
        *(str(Path("study.yaml").absolute()), "split.seed=1"),
    ]


def test_the_server_finds_modules_wherever_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", "/opt/x", ""]))
    found = environment()["PYTHONPATH"].split(os.pathsep)
    assert found[1:] == [str(Path("lib").absolute()), "/opt/x"]
    assert (Path(found[0]) / "pellucid").is_dir()


# A stand-in for the server that listens as it does and prints its port: Streamlit's start would be most of the test.
SERVER = """
import asyncio, signal, socket, sys
from pellucid.explore.app.lifetime import end_with_starter, server_lifetime
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
if "--with-starter" in sys.argv: end_with_starter()
listener = socket.create_server(("127.0.0.1", 0))
async def main():
    if STUCK: signal.signal(signal.SIGTERM, lambda number, frame: None)  # a connection that never ends
    async with server_lifetime():
        print(listener.getsockname()[1], flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""
STARTER = """
import signal, sys
from pellucid.explore.app.serve import run_until_ended
signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.exit(run_until_ended([sys.executable, "-c", sys.argv[1], "--with-starter"]))
"""


def ends(port: int) -> bool:
    """Whether nothing listens any more, waiting for the server's end."""
    for _ in range(PATIENCE_S * 10):
        with socket.socket() as trial:
            trial.settimeout(0.1)
            if trial.connect_ex(("127.0.0.1", port)) != 0:
                return True
        time.sleep(0.1)
    return False


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "stuck"),
    [
        (signal.SIGTERM, False),
        (signal.SIGHUP, False),
        (signal.SIGINT, False),
        (signal.SIGKILL, False),
        (signal.SIGHUP, True),
    ],
)
def test_no_listener_after_the_command_has_ended(number: signal.Signals, stuck: bool) -> None:
    server = SERVER.replace("STUCK", str(stuck))
    starter = subprocess.Popen([sys.executable, "-c", STARTER, server], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    port = int(starter.stdout.readline())
    starter.send_signal(number)
    assert starter.wait(PATIENCE_S) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert ends(port)
    starter.stdout.close()


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_server_ends_both(number: signal.Signals) -> None:
    server = SERVER.replace("STUCK", "False").replace("print(", "print(__import__('os').getpid(),")
    starter = subprocess.Popen([sys.executable, "-c", STARTER, server], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid, port = map(int, starter.stdout.readline().split())
    os.kill(pid, number)
    starter.wait(PATIENCE_S)
    assert ends(port)
    starter.stdout.close()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals of Linux")
def test_a_closed_terminal_ends_a_server_in_the_background() -> None:
    import pty

    script = """
import os, subprocess, sys, time
# A job in the background, in a process group of its own: the terminal's end sends it no signal.
subprocess.Popen([sys.executable, "-c", sys.argv[1]], process_group=0)
time.sleep(3600)
"""
    reading, writing = os.pipe()
    server = SERVER.replace("STUCK", "False").replace("flush=True", f"flush=True, file=open({writing}, 'w')")
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
        os.set_inheritable(writing, True)
        script = script.replace("process_group=0", f"process_group=0, pass_fds=[{writing}]")
        os.execv(sys.executable, [sys.executable, "-c", script, server])
    os.close(writing)
    with os.fdopen(reading) as pipe:
        port = int(pipe.readline())
        os.close(terminal)
        os.waitpid(child, 0)
        assert ends(port)
