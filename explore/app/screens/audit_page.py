"""The audit page: verdict sentences first, then the figures and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from pellucid.explore import wording
from pellucid.explore.figures import probe_figures
from pellucid.explore.sections import verdict_cards
from pellucid.explore.sections.audit_tables import further_tables
from pellucid.explore.study_findings import Findings

_CHART = {"displayModeBar": False}


def show(findings: Findings) -> None:
    """The page."""
    st.title("What this model has learned")
    audit = findings.audit
    found = verdict_cards.verdicts(audit)
    if found:
        st.markdown("\n".join(f"**{wording.for_markdown(line)}**  " for line in verdict_cards.headline(found)))
        for verdict in found:
            if verdict.tone in verdict_cards.CONFOUNDED:
                st.html(verdict_cards.card(verdict))
        _folded("No evidence of confounding", [v for v in found if v.tone == "cleared"], expanded=True)
        _folded("Inconclusive", [v for v in found if v.tone == "neutral"], expanded=False)
    else:
        st.info("No audit yet. Run `pellucid audit` to see whether the embeddings show the disease or the device.")
    probes = findings.probes or ({findings.audited: audit["variables"]} if audit.get("variables") else {})
    if probes:
        st.subheader("What can be told from the image?")
        st.caption(
            "Each dot is one variable, with its 95 % interval: how well a simple linear model (the probe) predicts it "
            "from the embedding, in patients it was not trained on. Grey outlines are baselines that were not trained "
            "on medical images. AUROC is the area under the receiver operating characteristic curve."
        )
        st.plotly_chart(
            probe_figures.probe_figure(probes), width="stretch", theme=None, config=_CHART, key="probe-figure"
        )
        if neighbours := probe_figures.by_neighbours(probes):
            with st.expander("The same, from the most similar other patients (k nearest neighbours, kNN)"):
                st.plotly_chart(
                    probe_figures.probe_figure(neighbours), width="stretch", theme=None, config=_CHART, key="knn-figure"
                )
    pairs = verdict_cards.worth_drawing(found, 8)
    variables = audit.get("variables") or []
    drawn = [(scale, probe_figures.pair_figure(pairs, variables, scale)) for scale in probe_figures.scales(variables)]
    if any(figure is not None for _, figure in drawn):
        st.subheader("Is it the disease or the device?")
        st.caption(
            "The open dot is the score over all patients. The filled dot is the score among patients of the same level "
            "of the other variable, for example the same device. If a diagnosis is predicted only through the device, "
            "its filled dot is close to chance."
        )
    for scale, figure in drawn:
        if figure is not None:
            st.plotly_chart(figure, width="stretch", theme=None, config=_CHART, key=f"pair-figure-{scale}")
    for table in further_tables(
        [verdict.pair for verdict in found], audit.get("text_masked"), verdict_cards.n_open(found)
    ):
        st.subheader(table.title)
        st.caption(table.lead)
        frame = pd.DataFrame(table.rows, columns=_distinct(table.columns))
        st.dataframe(frame[: table.n_open], hide_index=True, width="stretch", height="content")
        if table.n_open < len(frame):
            with st.expander(f"{len(frame) - table.n_open} more rows"):
                st.dataframe(frame[table.n_open :], hide_index=True, width="stretch", height="content")
    if probes:
        st.subheader("All numbers")
        st.dataframe(_table(probes), hide_index=True, width="stretch", height="content")


def _distinct(columns: Sequence[str]) -> list[str]:
    """Column names of a frame must be unique; several are called "chance level": invisible characters tell pandas
    which."""
    return [name + "\u200b" * list(columns[:i]).count(name) for i, name in enumerate(columns)]


def _folded(title: str, found: Sequence[verdict_cards.Verdict], expanded: bool) -> None:
    if found:
        with st.expander(f"{title} ({wording.count(len(found), 'pair')})", expanded=expanded):
            lines = [
                f"- **{wording.for_markdown(factor)}** with {wording.for_markdown(names)}"
                for factor, names in verdict_cards.by_factor(found)
            ]
            st.markdown("\n".join(lines))
            st.caption("\n".join("- " + wording.for_markdown(verdict.sentence) for verdict in found))


def _table(probes: dict[str, Sequence[dict[str, Any]]] | dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    rows = []
    for name, variables in probes.items():
        for item in variables:
            rows.append(
                {
                    "Variable": wording.readable_name(item["name"]),
                    "Role": item.get("role", ""),
                    "Backbone": wording.backbone_label(name),
                    "Patients": item.get("n_patients"),
                    "with the event": "–" if item.get("n_events") is None else f"{item['n_events']:,}",
                    "Score (95 % interval)": wording.interval(item)
                    if item.get("score") is not None
                    else item.get("note", ""),
                    "Measure": wording.metric_label(item.get("metric")),
                    "Chance": item.get("chance"),
                    "p": wording.p_value_cell(item.get("p_value")),
                }
            )
    return pd.DataFrame(rows)
