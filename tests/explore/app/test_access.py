"""A request is answered under a name of this machine, from the explorer's own pages, with the cookie of the link."""

from __future__ import annotations

from typing import Any

import pytest

from pellucid.explore.app.access import (
    ADDRESS_SENTENCE,
    FOREIGN_SENTENCE,
    Access,
    offered_token,
    path_without_token,
)


def request(kind: str = "http", method: str = "GET", url: str = "/", **headers: str) -> dict[str, Any]:
    path, _, query = url.partition("?")
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": listed}
    return scope if kind == "websocket" else {**scope, "method": method}


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost:8501", "LOCALHOST", "[::1]:8501", "localhost:9000"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert Access().refusal(request(host=host)) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example:8501", "127.0.0.1.evil.example", "localhost.", "192.168.1.7", "user@localhost", "localhost:x", ""],
)
def test_other_names_are_refused(host: str) -> None:
    assert Access().refusal(request(host=host)) == ADDRESS_SENTENCE


def test_no_host_or_two_are_refused() -> None:
    twice = request(host="localhost")
    twice["headers"].append((b"host", b"evil.example"))
    assert Access().refusal(request()) == Access().refusal(twice) == ADDRESS_SENTENCE


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.5", "127.0.0.5:8501"), ("0:0:0:0:0:0:0:1", "[0:0:0:0:0:0:0:1]:1")]
)
def test_the_address_that_was_asked_for_is_answered(address: str, host: str) -> None:
    assert Access(address=address).refusal(request(host=host)) is None


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:3000", "https://localhost:8501", "http://127.0.0.1:8501"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_foreign_origin_is_refused(kind: str, origin: str) -> None:
    assert Access().refusal(request(kind, host="localhost:8501", origin=origin)) == FOREIGN_SENTENCE


def test_the_origin_is_needed_where_browsers_send_it() -> None:
    access = Access()
    assert access.refusal(request("websocket", host="localhost:8501")) == FOREIGN_SENTENCE
    assert access.refusal(request(method="PUT", host="localhost:8501")) == FOREIGN_SENTENCE
    for scope in (request("websocket", host="localhost:8501", origin="http://localhost:8501"), request(host="[::1]")):
        assert access.refusal(scope) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_embeds_no_picture_but_may_link(site: str) -> None:
    embedded = request(url="/media/x.jpg", host="localhost", sec_fetch_site=site, sec_fetch_mode="no-cors")
    linked = request(host="localhost", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="document")
    framed = request(host="localhost", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="iframe")
    assert Access().refusal(embedded) == Access().refusal(framed) == FOREIGN_SENTENCE
    assert Access().refusal(linked) is None


def test_a_token_opens_once() -> None:
    access = Access()
    first = access.token
    assert not access.redeem("")
    assert not access.redeem(first[:-1])
    assert access.redeem(first)
    assert not access.redeem(first)
    assert access.redeem(access.token)


def test_only_the_cookie_is_known() -> None:
    access = Access()
    good = f"{access.cookie_name}={access.cookie}"
    assert access.is_known(request(cookie=f'other="a;b"; {good}'))
    for bad in ("", f"{access.cookie_name}=", f"{access.cookie_name}={access.token}", f"x{good}", f"{good}é"):
        assert not access.is_known(request(cookie=bad))
    assert access.cookie not in (access.token, Access().cookie)
    assert access.set_cookie() == f"{good}; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize(
    ("url", "token", "rest"),
    [
        ("/?token=abc", "abc", "/"),
        ("/clusters?token=a&x=1%262", "a", "/clusters?x=1%262"),
        ("/?x=1", None, "/?x=1"),
        ("//evil.example/?token=a", "a", "/evil.example/"),
        ("/\\evil.example?token=", "", "/evil.example"),
        ('/a"><script>?token=a', "a", "/a%22%3E%3Cscript%3E"),
    ],
)
def test_the_token_is_taken_out_of_the_address(url: str, token: str | None, rest: str) -> None:
    assert offered_token(request(url=url)) == token
    assert offered_token(request(url=url, method="POST")) is None
    assert path_without_token(request(url=url)) == rest
