"""The explorer's process calls no outside address: Streamlit asks one for this machine's address, for example."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

_CONNECTIONS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_NAMES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}  # a name server is outside too


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


def refuse_outside_calls() -> None:
    """From now on every connection of this process to another machine fails with `ConnectionRefusedError`.

    It cannot be undone. Sockets that are no network addresses (UNIX) are not concerned.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _CONNECTIONS:
        called = arguments[1]
        host = called[0] if isinstance(called, tuple) and called else None
    elif event in _NAMES:
        host = arguments[0]
    else:
        return
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if isinstance(host, str) and host and not is_loopback(host):
        raise ConnectionRefusedError(f"the explorer calls no outside address ({host})")
