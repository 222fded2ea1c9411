"""The gate in front of every route of the explorer: it checks the request, and puts security headers on each answer."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import re
from collections.abc import Callable
from pathlib import Path

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.explore.app.access import LINK_SENTENCE, Access, offered_token, path_without_token

_STARTS = {"http.response.start", "websocket.accept", "websocket.http.response.start"}


class Gate:
    """ASGI middleware around the whole server, so that no route is without it.

    Args:
        app: what answers the requests that are let through.
        access: the check.
        on_opened: called after a link was used.
    """

    def __init__(self, app: ASGIApp, access: Access, on_opened: Callable[[], None] = lambda: None) -> None:
        self.app, self.access, self.on_opened = app, access, on_opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or exchange a link's token for the cookie."""
        if scope["type"] not in {"http", "websocket"}:  # the server's own start and end
            await self.app(scope, receive, send)
            return
        send = _with_headers(scope, send, self.access.host(scope))
        if refusal := self.access.refusal(scope):
            await _refuse(refusal, scope, receive, send)
            return
        known, token = self.access.is_known(scope), offered_token(scope)
        if token is not None and (known or self.access.redeem(token)):
            await _opened(scope, None if known else self.access.set_cookie())(scope, receive, send)
            if not known:
                self.on_opened()
        elif known:
            await self.app(scope, receive, send)
        else:
            await _refuse(LINK_SENTENCE, scope, receive, send)


def failed(request: Request, error: Exception) -> Response:
    """The answer after an error of the server; it is sent outside the gate and carries the same headers."""
    return PlainTextResponse(
        "The explorer failed to answer. The terminal shows the error.", 500, _headers(request.scope, None)
    )


def security_headers(host: str | None) -> dict[str, str]:
    """The headers of every answer: nothing from or to another address, in no frame, in no cache on the disk."""
    sources = {
        "default-src": "'none'",
        # eval: Plotly compiles the drawing of large maps (WebGL)
        "script-src": f"'self' 'unsafe-eval'{_own_inline_scripts()}",
        "style-src": "'self' 'unsafe-inline'",  # Streamlit writes its styles into the page
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "media-src": "'self' blob:",
        "worker-src": "'self' blob:",
        "manifest-src": "'self'",
        "connect-src": f"'self' ws://{host}" if host else "'self'",  # older browsers: 'self' is not ws:
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {allowed}" for name, allowed in sources.items()),
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-DNS-Prefetch-Control": "off",
    }


@functools.cache
def _own_inline_scripts() -> str:
    """Hashes of the scripts inside Streamlit's page, for the policy; no other script inside a page runs."""
    page = Path(streamlit.__file__).parent / "static" / "index.html"
    scripts = re.findall(r"<script>(.*?)</script>", page.read_text(encoding="utf-8"), re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return "".join(f" 'sha256-{digest}'" for digest in digests)


def _headers(scope: Scope, host: str | None) -> dict[str, str]:
    kept = {} if scope["path"].startswith("/static/") else {"Cache-Control": "no-store"}  # no patient image on the disk
    return {**security_headers(host), **kept}


def _with_headers(scope: Scope, send: Send, host: str | None) -> Send:
    """`send` that adds the headers; a refused WebSocket is answered with a response, where the server can."""
    added, begun = _headers(scope, host), False
    denial = "websocket.http.response" in scope.get("extensions", {})

    async def headed(message: Message) -> None:
        nonlocal begun
        if message["type"] == "websocket.close" and not begun and denial:
            await headed({"type": "websocket.http.response.start", "status": 403, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        if message["type"] in _STARTS:
            begun = True
            message = {"headers": [], **message}
            headers = MutableHeaders(raw=list(message["headers"]))
            for name, value in added.items():
                if name != "Referrer-Policy" or name not in headers:
                    headers[name] = value
            message["headers"] = headers.raw
        await send(message)

    return headed


async def _refuse(sentence: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
    else:
        await PlainTextResponse(sentence + "\n", 403)(scope, receive, send)


def _opened(scope: Scope, cookie: str | None) -> Response:
    """A page that goes on to the same address without the token.

    Not a redirect: after a click on a link in another page (a mail, a terminal in the browser), the browser would not
    send a SameSite=Strict cookie along a redirect.
    """
    target = html.escape(path_without_token(scope))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Pellucid</title>'
        f'<meta http-equiv="refresh" content="0;url={target}"></head>'
        f'<body><p><a href="{target}">Open the explorer</a></p></body></html>'
    )
    headers = {"Referrer-Policy": "no-referrer", **({"Set-Cookie": cookie} if cookie else {})}
    return HTMLResponse(page, 200, headers)
