"""Nothing behind the gate is reached without the cookie, and every answer carries the headers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from pellucid.explore.app.access import Access
from pellucid.explore.app.gate import Gate, failed

HOST, ORIGIN = (b"host", b"localhost:8501"), (b"origin", b"http://localhost:8501")


class Inside:
    """What the gate protects; it notes what reaches it."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.reached: list[str] = []
        self.answers = answers or (
            {"type": "http.response.start", "status": 200, "headers": [(b"content-security-policy", b"weak")]},
            {"type": "http.response.body", "body": b"patients"},
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])
        for answer in self.answers:
            await send(answer)


def ask(gate: Gate, kind: str = "http", url: str = "/", headers: Any = (HOST, ORIGIN)) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}

    path, _, query = url.partition("?")
    scope = {"type": kind, "method": "GET", "path": path, "query_string": query.encode(), "headers": list(headers)}
    scope["extensions"] = {"websocket.http.response": {}}
    asyncio.run(gate(scope, receive, send))
    return sent


def header(message: dict[str, Any], name: str) -> str:
    found = [value.decode() for key, value in message["headers"] if key.decode().lower() == name]
    assert len(found) <= 1
    return "".join(found)


def cookie(access: Access) -> tuple[bytes, bytes]:
    return b"cookie", f"{access.cookie_name}={access.cookie}".encode()


def protected(answer: dict[str, Any]) -> None:
    policy = header(answer, "content-security-policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "https:" not in policy
    assert "*" not in policy
    assert header(answer, "x-frame-options") == "DENY"
    assert header(answer, "x-content-type-options") == "nosniff"


def test_without_the_cookie_nothing_is_reached() -> None:
    inside = Inside()
    for url in ("/", "/media/a.jpg", "/_stcore/health", "/?token=wrong", "/?token="):
        answer, body = ask(Gate(inside, Access()), url=url)
        assert answer["status"] == 403
        assert b"opens only with the link" in body["body"]
        protected(answer)
    assert inside.reached == []


def test_the_link_is_exchanged_for_a_cookie_once() -> None:
    inside, access, opened = Inside(), Access(), []
    gate = Gate(inside, access, lambda: opened.append(access.token))
    first = access.token
    answer, body = ask(gate, url=f"/clusters?token={first}")
    assert answer["status"] == 200
    assert header(answer, "set-cookie") == access.set_cookie()
    assert header(answer, "referrer-policy") == "no-referrer"
    assert b'content="0;url=/clusters"' in body["body"]
    assert first.encode() not in body["body"]
    protected(answer)
    assert inside.reached == []
    assert opened == [access.token]
    assert access.token != first
    assert ask(gate, url=f"/?token={first}")[0]["status"] == 403  # used up

    again, _ = ask(gate, url=f"/?token={first}", headers=(HOST, cookie(access)))  # the same browser: goes on
    assert again["status"] == 200
    assert header(again, "set-cookie") == ""
    assert len(opened) == 1


def test_with_the_cookie_the_answer_is_passed_on_with_headers() -> None:
    inside, access = Inside(), Access()
    answer, body = ask(Gate(inside, access), url="/media/a.jpg", headers=(HOST, cookie(access)))
    assert body["body"] == b"patients"
    assert inside.reached == ["/media/a.jpg"]
    protected(answer)
    assert "connect-src 'self' ws://localhost:8501;" in header(answer, "content-security-policy")
    assert header(answer, "cache-control") == "no-store"


@pytest.mark.parametrize(
    "headers", [[(b"host", b"evil.example")], [HOST, (b"origin", b"http://evil.example")], [HOST, (b"origin", b"null")]]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_host_and_origin_are_checked_whatever_the_cookie(kind: str, headers: list[tuple[bytes, bytes]]) -> None:
    inside, access = Inside(), Access()
    answer = ask(Gate(inside, access), kind, f"/?token={access.token}", [*headers, cookie(access)])[0]
    assert answer["type"] == ("http.response.start" if kind == "http" else "websocket.http.response.start")
    assert answer["status"] == 403
    assert "evil" not in header(answer, "content-security-policy")
    protected(answer)
    assert inside.reached == []


def test_a_websocket_needs_the_cookie_and_carries_headers() -> None:
    access = Access()
    inside = Inside({"type": "websocket.accept"}, {"type": "websocket.close", "code": 1000})
    assert ask(Gate(inside, access), "websocket", "/_stcore/stream")[0]["status"] == 403
    accepted, closed = ask(Gate(inside, access), "websocket", "/_stcore/stream", (HOST, ORIGIN, cookie(access)))
    assert accepted["type"] == "websocket.accept"
    assert closed["type"] == "websocket.close"
    protected(accepted)
    assert inside.reached == ["/_stcore/stream"]


def test_a_failure_of_the_server_carries_the_headers_too() -> None:
    answer = failed(Request({"type": "http", "path": "/", "headers": []}), ValueError("/home/x/patient"))
    assert answer.status_code == 500
    assert b"patient" not in bytes(answer.body)
    protected({"headers": answer.raw_headers})
