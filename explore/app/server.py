"""The explorer's server: `python explore/app/server.py STUDY_YAML [key=value …]`, started by `pellucid explore`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import streamlit as st
import uvicorn.config
from starlette.middleware import Middleware

from pellucid.explore.app.access import Access
from pellucid.explore.app.gate import Gate, failed
from pellucid.explore.app.lifetime import end_with_starter, server_lifetime
from pellucid.explore.app.outside_calls import is_loopback, refuse_outside_calls
from pellucid.explore.app.served_study import ServedStudy, serve_study
from pellucid.explore.app.server_options import clean_environment, server_options

_PAGES = Path(__file__).with_name("main.py")


def guarded_app(access: Access) -> st.App:
    """The pages behind the gate; each link is printed when it becomes valid."""

    def say(sentence: str) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"{sentence} {link(access)}", flush=True)

    @contextlib.asynccontextmanager
    async def lifespan(app: st.App) -> AsyncIterator[None]:
        async with server_lifetime():
            say("Open the explorer with this link, which works once (Ctrl-C ends it):")
            yield

    gate = Middleware(Gate, access=access, on_opened=lambda: say("The explorer is open. A link for another browser:"))
    return st.App(_PAGES, middleware=[gate], lifespan=lifespan, exception_handlers={Exception: failed})


def link(access: Access) -> str:
    """The address with the token; the port that the system chose, if 0 was asked for."""
    host = f"[{access.address}]" if ":" in access.address else access.address
    return f"http://{host}:{st.get_option('server.port')}/?token={access.token}"


def main(arguments: Sequence[str]) -> None:
    """Serve until a signal, the end of the terminal, or (--with-starter) the end of standard input."""
    parser = argparse.ArgumentParser(prog="server.py")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--with-starter", action="store_true")
    parser.add_argument("study", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args(arguments)
    if not is_loopback(given.address):
        parser.error("the explorer listens on a loopback address only")
    if given.with_starter:
        end_with_starter()
    clean_environment()
    refuse_outside_calls()
    serve_study(ServedStudy(given.study, tuple(given.overrides)))
    uvicorn.config.LOGGING_CONFIG["loggers"]["uvicorn"]["level"] = "WARNING"  # no address without the token
    app = guarded_app(Access(address=given.address))
    app.run(config=server_options(given.address, given.port))


if __name__ == "__main__":
    main(sys.argv[1:])
