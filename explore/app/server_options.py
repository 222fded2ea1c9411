"""Streamlit's options, all set by the explorer: a `.streamlit/config.toml` in the current folder changes none."""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

from streamlit import config

THEME = {  # colours of the report, written out: importing them would load PyTorch before the server starts
    "base": "light",
    "primaryColor": "#0b5a8f",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f3f5f7",
    "textColor": "#1f2933",
    "baseRadius": "small",
    "baseFontSize": 16,
    "font": "sans-serif",
    "headingFont": "sans-serif",
    "codeFont": "monospace",
    "fontFaces": [],  # fonts could come from another address
}
_PINNED: dict[str, Any] = {
    "global.developmentMode": False,
    "logger.level": "warning",
    "logger.hideWelcomeMessage": True,  # it shows the address without the token
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,  # links to search engines, with the error's text
    "client.allowedOrigins": [],
    "runner.magicEnabled": False,
    "server.headless": True,
    "server.showEmailPrompt": False,
    "server.runOnSave": False,
    "server.allowRunOnSave": False,
    "server.fileWatcherType": "none",
    "server.folderWatchList": [],
    "server.scriptHealthCheckEnabled": False,
    "server.baseUrlPath": "",
    "server.customComponentBaseUrlPath": "",
    "server.enableCORS": True,  # Streamlit's name for the check of the origin
    "server.corsAllowedOrigins": [],
    "server.enableXsrfProtection": True,
    "server.xsrfCookieSameSite": "strict",
    "server.maxUploadSize": 1,
    "server.enableWebsocketCompression": False,
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.trustedUserHeaders": {},
    "server.unsafeMetricsUserAttributes": [],
    "server.sslCertFile": "",
    "server.sslKeyFile": "",
    "browser.gatherUsageStats": False,
    "secrets.files": [],
    **{f"theme.{key}": value for key, value in THEME.items()},
}


def server_options(address: str, port: int) -> dict[str, Any]:
    """Every option that concerns security, what leaves the machine, or how the pages are drawn.

    An option that the installed Streamlit does not have is left out: no file can set it either.
    """
    pinned = {
        **_PINNED,
        "server.address": address,
        "server.port": port,
        "server.allowedHosts": ["localhost", "127.0.0.1", "::1", address],
        "browser.serverAddress": address,
        "browser.serverPort": port,
    }
    logging.getLogger("streamlit.config").disabled = True  # it would report that options have changed since this look
    known = config.get_config_options()
    return {name: value for name, value in pinned.items() if name in known}


def clean_environment() -> None:
    """Remove Streamlit's variables from the environment, which set options too; the key of its cookies is random."""
    for name in [name for name in os.environ if name.startswith("STREAMLIT_")]:
        del os.environ[name]
    os.environ["STREAMLIT_SERVER_COOKIE_SECRET"] = secrets.token_hex(32)  # cannot be given as an option
