"""The explorer's process connects to loopback addresses only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pellucid.explore.app.outside_calls import is_loopback

CALLS = """
import socket
from pellucid.explore.app.outside_calls import refuse_outside_calls
refuse_outside_calls()
def refused(call):
    try:
        call()
    except ConnectionRefusedError as error:
        return "no outside address" in str(error)
    return False
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert refused(lambda: socket.create_connection(("192.0.2.1", 80), timeout=1))
assert refused(lambda: udp.connect(("8.8.8.8", 1)))
assert refused(lambda: udp.sendto(b"x", ("192.0.2.1", 53)))
assert refused(lambda: socket.getaddrinfo("checkip.amazonaws.com", 80))
assert refused(lambda: socket.gethostbyname("checkip.amazonaws.com"))
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
from streamlit import net_util
assert net_util.get_external_ip() is None
assert net_util.get_internal_ip() == "127.0.0.1"
print("done")
"""


@pytest.mark.parametrize(
    ("address", "safe"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), (None, False), ("0.0.0.0", False)],
)
def test_loopback(address: str | None, safe: bool) -> None:
    assert is_loopback(address) is safe


def test_outside_addresses_are_refused_and_loopback_works() -> None:
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
