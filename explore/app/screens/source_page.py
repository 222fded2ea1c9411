"""The source page: who was imaged with what, when and how well, and what is missing, before any model."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from pellucid.explore import wording
from pellucid.explore.app.image_view import show_image
from pellucid.explore.sections.source_sections import Drawing, Section, sections
from pellucid.explore.study_findings import Findings

_CHART = {"displayModeBar": False}
_IN_A_ROW = 6


def show(findings: Findings) -> None:
    """The page."""
    st.title("Where the images come from")
    source = findings.source
    tiles = st.columns(4)
    tiles[0].metric("Patients", f"{source.get('n_patients', findings.images['patient'].nunique()):,}")
    tiles[1].metric("Images", f"{source.get('n_images', len(findings.images)):,}")
    tiles[2].metric("Unreadable files", f"{source.get('n_unreadable_files', source.get('n_unreadable', 0)):,}")
    tiles[3].metric("Images with burned-in text", f"{(source.get('burned_in') or {}).get('share', 0):.0%}")
    problems = source.get("problems") or []
    if problems:
        st.warning(
            "**Problems with the table**\n\n" + "\n".join("- " + wording.for_markdown(problem) for problem in problems)
        )
    reasons = findings.problem_images["reason"].replace("", "no row in the table").value_counts()
    for section in sections(source, {str(reason): int(n) for reason, n in reasons.items()}, findings.near):
        _section(section, findings)


def _section(section: Section, findings: Findings) -> None:
    st.subheader(section.title)
    if section.sentences:
        st.markdown("\n".join("- " + wording.for_markdown(sentence) for sentence in section.sentences))
    if section.lead:
        st.caption(wording.for_markdown(section.lead))
    _drawings(section.key, section.drawings[: section.n_open])
    rest = {drawing.title: drawing for drawing in section.drawings[section.n_open :]}
    if rest:
        chosen = st.selectbox(
            f"{len(rest)} more", list(rest), index=None, key=f"{section.key}-more", placeholder="Show …"
        )
        if chosen is not None:
            _drawings(f"{section.key}-chosen", [rest[chosen]])
    for n, row in enumerate(section.pictures):
        if row.title:
            st.markdown(f"**{wording.for_markdown(row.title)}**")
        columns = st.columns(_IN_A_ROW)
        for place, (image_id, caption) in enumerate(row.images):
            at = f"{section.key}-{n}-{place}"
            show_image(findings, image_id, 220, place=columns[place % _IN_A_ROW], caption=caption, at=at)
    for table in section.tables:
        if table.title:
            st.markdown(f"**{wording.for_markdown(table.title)}**")
        st.dataframe(pd.DataFrame(table.rows, columns=pd.Index(table.columns)), hide_index=True, width="stretch")


def _drawings(key: str, drawings: Sequence[Drawing]) -> None:
    for first in range(0, len(drawings), 2):  # row by row, so that titles are aligned
        for place, drawing in zip(st.columns(2, gap="large"), drawings[first : first + 2], strict=False):
            with place:
                st.markdown(f"**{wording.for_markdown(drawing.title)}**")
                st.plotly_chart(
                    drawing.figure(), width="stretch", theme=None, config=_CHART, key=f"{key}-{drawing.title}"
                )
