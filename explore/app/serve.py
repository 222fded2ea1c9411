"""Start the explorer: Streamlit in a separate process, on this machine's loopback address only."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.study import Study
from pellucid.explore.study_findings import gather_newest
from pellucid.pretrain.monitor import PALETTE

APP = Path(__file__).with_name("main.py")
_THEME = {
    "base": "light",
    "primaryColor": PALETTE["blue"],
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f3f5f7",
    "textColor": PALETTE["ink"],
    "baseRadius": "small",
    "baseFontSize": "16",
}


def is_loopback(address: str | None) -> bool:
    """Whether only this machine can reach the address; no address means every interface."""
    if not address:
        return False
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


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
    options = {
        "server.address": address,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        **{f"theme.{key}": value for key, value in _THEME.items()},
    }
    flags = [part for key, value in options.items() for part in (f"--{key}", value)]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags, "--", str(study), *overrides]


def explore(study: Study, port: int = 8501, address: str = "127.0.0.1", overrides: Sequence[str] = ()) -> int:
    """Run the explorer until it is stopped (Ctrl-C); its exit code.

    Args:
        overrides: the `key=value` that `study` was loaded with, so that the explorer sees the same study.

    Raises:
        UserError: an address other than loopback, or nothing to show yet.
    """
    line = command(study.path, port, address, overrides)
    gather_newest(study)  # a study without a scan is refused here, not in the browser
    root = str(APP.parents[3])  # Streamlit runs a script by its path and would not find the packages of a checkout
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    _refuse_taken_port(address, port)
    process = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": paths})
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C ends the explorer
        process.terminate()
        process.wait(timeout=10)
        return 0


def _refuse_taken_port(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address.strip("[]"), port))
        except OSError:
            raise UserError(f"port {port} is in use, perhaps by another explorer: choose another with --port") from None
