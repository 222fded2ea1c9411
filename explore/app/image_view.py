"""An image on a page of the explorer; one with signs of text or a face is obscured until a click."""

from __future__ import annotations

import hashlib
from typing import Any

import streamlit as st

from pellucid.explore.app.cache import picture
from pellucid.explore.study_findings import Findings

_REVEALED = "revealed images"


def show_image(
    findings: Findings,
    image_id: str,
    size_px: int = 0,
    *,
    place: Any = st,
    caption: str | None = None,
    alt: str | None = None,
    at: str = "",
) -> None:
    """Draw one image of the study.

    Args:
        size_px: side of the square around it; 0: as prepared.
        place: where to draw: a column, or the page.
        caption: text below the image.
        alt: text for those who do not see it.
        at: distinguishes two places of the page that show the same image.
    """
    revealed: set[str] = st.session_state.setdefault(_REVEALED, set())
    obscured = image_id in findings.hidden and image_id not in revealed
    place.image(picture(findings.scan.path, image_id, size_px, obscured), caption=caption, alt=alt, width="stretch")
    if obscured:
        place.button(
            "Show the image: it has signs of text or a face",
            icon=":material/visibility:",
            key=f"reveal-{at}-{hashlib.sha256(image_id.encode()).hexdigest()[:16]}",  # a path may hold a name
            type="tertiary",
            on_click=revealed.add,
            args=(image_id,),
        )
