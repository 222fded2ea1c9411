"""The real server, started in a folder with a hostile `.streamlit`: no route answers without the cookie of the link."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pellucid.explore.app.serve import SERVER, environment

CONFIG = """
[global]
developmentMode = false
[server]
address = "0.0.0.0"
port = 1
baseUrlPath = "elsewhere"
enableCORS = false
corsAllowedOrigins = ["http://evil.example"]
allowedHosts = ["*"]
enableXsrfProtection = false
enableAgentApi = true
enableStaticServing = true
scriptHealthCheckEnabled = true
[client]
allowedOrigins = ["http://evil.example"]
[browser]
gatherUsageStats = true
serverAddress = "evil.example"
"""
ROUTES = [
    "/",
    "/clusters",
    "/index.html",
    "/favicon.png",
    "/static/js/index.js",
    "/app/static/x",
    "/media/0123.jpg",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/script-health-check",
    "/_stcore/stream",
    "/_stcore/upload_file/session/file",
    "/_stcore/bidi-components/x/y.js",
    "/_stcore/agent/openapi.json",
    "/_stcore/agent/interact",
    "/_stcore/agent/mcp",
    "/component/x/index.html",
    "/auth/login",
    "/oauth2callback",
    "/..%2fsecret",
    "//evil.example/%2e%2e",
]


@dataclass
class Served:
    """A running server, and the cookie of its link."""

    host: str
    cookie: str
    first_link: str
    process: subprocess.Popen[str]

    def ask(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        connection.close()
        return answer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text(CONFIG)
    (folder / ".streamlit" / "secrets.toml").write_text('[auth]\ncookie_secret = "known"\nredirect_uri = "http://x"\n')
    variables = {
        "STREAMLIT_SERVER_ENABLE_CORS": "false",
        "STREAMLIT_SERVER_ENABLE_AGENT_API": "true",
        "HOME": str(folder),
    }
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "--port", "0", "--", str(folder / "study.yaml")],
        cwd=folder,  # worse than `pellucid explore`, which starts it elsewhere
        env={**os.environ, **environment(), **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().split()[-1]
        first = Served(urlsplit(link).netloc, "", link, process)
        answer = first.ask(f"/?{urlsplit(link).query}")
        assert answer.status == 200
        first.cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]
        yield first
    finally:
        process.terminate()
        process.wait(60)


def headers_are_right(answer: http.client.HTTPResponse) -> None:
    assert "frame-ancestors 'none'" in str(answer.getheader("Content-Security-Policy"))
    assert answer.getheader("X-Frame-Options") == "DENY"
    assert answer.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_checks_host_origin_and_cookie(served: Served, path: str) -> None:
    refused = [
        served.ask(path),
        served.ask(path, Cookie=served.cookie, Host="evil.example"),
        served.ask(path, Cookie=served.cookie, Origin="http://evil.example"),
        served.ask(path, Cookie=served.cookie, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"),
        *(served.ask(path, method, Cookie=served.cookie) for method in ("POST", "PUT", "DELETE", "OPTIONS")),
    ]
    for answer in refused:
        assert answer.status == 403
        headers_are_right(answer)
    headers_are_right(served.ask(path, Cookie=served.cookie, Origin=f"http://{served.host}"))


def test_a_websocket_needs_host_origin_and_cookie(served: Served) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    own = f"http://{served.host}"
    for headers in (
        {"Origin": own},
        {"Cookie": served.cookie},
        {"Origin": "http://evil.example", "Cookie": served.cookie},
        {"Origin": "http://evil.example", "Host": "evil.example", "Cookie": served.cookie},
    ):
        answer = served.ask("/_stcore/stream", **upgrade, **headers)
        assert answer.status == 403
        headers_are_right(answer)
    connection = http.client.HTTPConnection(served.host, timeout=60)
    connection.request("GET", "/_stcore/stream", headers={**upgrade, "Origin": own, "Cookie": served.cookie})
    accepted = connection.getresponse()
    assert accepted.status == 101
    headers_are_right(accepted)
    connection.close()


def test_the_page_and_the_agent_interface(served: Served) -> None:
    page = served.ask("/", Cookie=served.cookie)
    assert page.status == 200
    assert b"<title>Streamlit</title>" in page.body  # type: ignore[attr-defined]
    own = {"Cookie": served.cookie, "Origin": f"http://{served.host}"}
    assert b'"disabled"' in served.ask("/_stcore/agent/openapi.json", **own).body  # type: ignore[attr-defined]
    assert served.ask("/_stcore/agent/interact", "POST", **own).status == 403
    assert b"evil" not in served.ask("/_stcore/host-config", **own).body  # type: ignore[attr-defined]


def test_a_link_works_once_and_the_terminal_shows_the_next(served: Served) -> None:
    assert served.ask(f"/?{urlsplit(served.first_link).query}").status == 403
    assert served.process.stdout is not None
    following = served.process.stdout.readline()
    assert following.startswith("The explorer is open. A link for another browser: http://127.0.0.1:")
    assert re.search(r"\?token=[\w-]{43}$", following.strip())
    assert served.ask(f"/?{urlsplit(following.split()[-1]).query}").status == 200


def test_streamlits_own_inline_script_runs_and_no_other(served: Served) -> None:
    page = served.ask("/", Cookie=served.cookie)
    policy = str(page.getheader("Content-Security-Policy"))
    scripts = re.findall(rb"<script>(.*?)</script>", page.body, re.DOTALL)  # type: ignore[attr-defined]
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "script-src 'self' 'unsafe-inline'" not in policy


OPTIONS = """
import streamlit as st
from pellucid.explore.app.server_options import THEME, clean_environment, server_options
from streamlit.web.bootstrap import load_config_options
clean_environment()
pinned = server_options("127.0.0.1", 8501)
load_config_options(pinned)
assert {name: st.get_option(name) for name in pinned} == pinned
assert st.get_option("server.cookieSecret") != "known"
print(*sorted(pinned))
"""


def test_a_configuration_in_the_folder_or_environment_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".streamlit").mkdir()
    hostile = CONFIG.replace("[server]", '[server]\ncookieSecret = "known"')
    (tmp_path / ".streamlit" / "config.toml").write_text(hostile)
    variables = {"STREAMLIT_SERVER_ENABLE_CORS": "false", "STREAMLIT_SERVER_COOKIE_SECRET": "known"}
    done = subprocess.run(
        [sys.executable, "-c", OPTIONS],
        cwd=tmp_path,
        env={**os.environ, **environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("server.enableAgentApi", "server.allowedHosts", "browser.gatherUsageStats", "server.enableCORS"):
        assert name in done.stdout.split()
