"""Which requests the explorer answers: those of the browser in which the link from the terminal was opened."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

from starlette.types import Scope

_LOOPBACK = r"(?:localhost|127\.0\.0\.1|\[::1\])"
_READING = {"GET", "HEAD"}
ADDRESS_SENTENCE = (
    "This explorer answers only under a name of this computer: 127.0.0.1 or localhost. Open the link that "
    "`pellucid explore` printed in the terminal."
)
FOREIGN_SENTENCE = "This request comes from another web page. The explorer answers only its own pages."
LINK_SENTENCE = (
    "This page opens only with the link that `pellucid explore` printed in the terminal. Each link works once; after "
    "that the terminal shows the next one."
)


@dataclass
class Access:
    """The link's token, the cookie that replaces it, and the check of a request.

    The token opens the explorer once. It is answered with a cookie of another value, so that a token in the history of
    a browser is worth nothing.
    """

    address: str = "127.0.0.1"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    # Cookies are shared by all ports of an address: two explorers must not overwrite each other's.
    cookie_name: str = field(default_factory=lambda: f"pellucid_{secrets.token_hex(4)}")

    def redeem(self, token: str) -> bool:
        """Whether it is the present token; a new one replaces it then."""
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            return False
        self.token = secrets.token_urlsafe(32)
        return True

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is refused whatever its cookie: its Host or Origin, or another page embeds it.

        Host stops a foreign name that was made to point to this machine (DNS rebinding); Origin and Sec-Fetch-Site stop
        other pages, also those that another port of this machine serves.
        """
        host = self.host(scope)
        if host is None:
            return ADDRESS_SENTENCE
        origins = values(scope, b"origin")
        needed = scope["type"] == "websocket" or scope["method"] not in _READING  # browsers send it with these
        if (origins or needed) and [origin.lower() for origin in origins] != [f"http://{host}"]:
            return FOREIGN_SENTENCE
        sites = set(values(scope, b"sec-fetch-site"))
        if not sites <= {"same-origin", "none"} and not _is_navigation(scope):
            return FOREIGN_SENTENCE
        return None

    def host(self, scope: Scope) -> str | None:
        """The Host of a request, if it names this machine; any port, because an SSH tunnel may begin at another."""
        hosts = values(scope, b"host")
        own = re.escape(f"[{self.address}]" if ":" in self.address else self.address)
        if len(hosts) == 1 and re.fullmatch(rf"(?:{_LOOPBACK}|{own})(?::[0-9]{{1,5}})?", hosts[0].lower()):
            return hosts[0].lower()
        return None

    def is_known(self, scope: Scope) -> bool:
        """Whether the request carries the cookie."""
        found = [
            value
            for header in values(scope, b"cookie")
            for name, _, value in (part.strip().partition("=") for part in header.split(";"))
            if name == self.cookie_name
        ]
        return any(secrets.compare_digest(value.encode(), self.cookie.encode()) for value in found)

    def set_cookie(self) -> str:
        """The value of Set-Cookie. Without an expiry: the cookie ends with the browser, its meaning with the server."""
        return f"{self.cookie_name}={self.cookie}; Path=/; HttpOnly; SameSite=Strict"


def values(scope: Scope, name: bytes) -> list[str]:
    """All values of a header of the request."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def offered_token(scope: Scope) -> str | None:
    """The token in the URL of a page that is opened."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    return parse_qs(_query(scope), keep_blank_values=True).get("token", [None])[-1]


def path_without_token(scope: Scope) -> str:
    """Path and query of the request without the token; always a path of this server."""
    kept = [(key, value) for key, value in parse_qsl(_query(scope), keep_blank_values=True) if key != "token"]
    path = "/" + quote(scope["path"].lstrip("/\\"))  # two slashes would name another server
    return f"{path}?{urlencode(kept)}" if kept else path


def _query(scope: Scope) -> str:
    return bytes(scope["query_string"]).decode("latin-1")


def _is_navigation(scope: Scope) -> bool:
    """Whether a browser opens the address as a page of its own: a link in another page, typed, or from a mail."""
    return (
        scope["type"] == "http"
        and scope["method"] in _READING
        and values(scope, b"sec-fetch-mode") == ["navigate"]
        and values(scope, b"sec-fetch-dest") == ["document"]
    )
