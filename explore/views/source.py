"""The source audit: who was imaged with what, what is missing, what could not be read — all before any model."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from explore import figures, words
from explore.gather import Findings

_CHART = {"displayModeBar": False}


def show(findings: Findings) -> None:
    """The page."""
    st.title("Where the images come from")
    source = findings.source
    tiles = st.columns(4)
    tiles[0].metric("Images", f"{source.get('n_images', len(findings.images)):,}")
    tiles[1].metric("Patients", f"{source.get('n_patients', findings.images['patient'].nunique()):,}")
    tiles[2].metric("Could not be read", f"{source.get('n_unreadable', 0):,}")
    tiles[3].metric("With burned-in marks", f"{(source.get('burned_in') or {}).get('share', 0):.0%}")
    st.markdown("\n".join("- " + words.for_markdown(sentence) for sentence in source.get("sentences") or []))
    problems = source.get("problems") or []
    if problems:
        st.warning("**In the table**\n\n" + "\n".join("- " + words.for_markdown(problem) for problem in problems))
    factors = source.get("factors") or []
    if factors:
        st.subheader("Patients per acquisition factor")
        columns = st.columns(2, gap="large")
        for place, factor in enumerate(factors):
            with columns[place % 2]:
                st.markdown(f"**{words.for_markdown(words.humane(factor['name']))}**")
                st.plotly_chart(
                    figures.factor_figure(factor),
                    width="stretch",
                    theme=None,
                    config=_CHART,
                    key=f"factor-{factor['name']}",
                )
    tables = [item for item in source.get("associations") or [] if item.get("table")]
    if tables:
        st.subheader("Who was imaged with what")
        names = {f"{words.humane(t['clinical'])} by {words.humane(t['acquisition'])}": t for t in tables}
        chosen = names[st.selectbox("Show", list(names), key="crossing")]
        figure = figures.shares_figure(chosen["table"], chosen["clinical"], chosen["acquisition"])
        st.plotly_chart(figure, width="stretch", theme=None, config=_CHART, key="crossing-figure")
        st.caption("Rows that look alike: the factor says nothing of the patients. Numbers are patients.")
    missing = [item for item in source.get("missing") or [] if item.get("n_images")]
    if missing:
        st.subheader("What is missing")
        table = pd.DataFrame(missing)[["variable", "role", "n_images", "n_patients"]]
        table["variable"] = table["variable"].map(words.humane)
        table.columns = pd.Index(["Variable", "Role", "Images", "Patients"])
        st.dataframe(table, hide_index=True, width="stretch")
    if len(findings.problem_images):
        st.subheader("Set aside")
        reasons = findings.problem_images["reason"].value_counts().rename_axis("Reason").reset_index(name="Files")
        st.dataframe(reasons, hide_index=True, width="stretch")
