"""The clusters page: typical images, appearance and patients of each cluster, and associations with variables."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
import streamlit as st

from pellucid.explore import wording
from pellucid.explore.app.cache import clusters_content
from pellucid.explore.app.image_view import show_image
from pellucid.explore.study_findings import Findings, labelled


def show(findings: Findings) -> None:
    """The page."""
    st.title("Clusters of similar images")
    with_clusters = [backbone for backbone in findings.backbones if backbone.clusters is not None]
    if not with_clusters:
        st.info("No clusters yet. Run `pellucid cluster` to compute them.")
        return
    by_label = labelled(with_clusters)
    label = (
        st.selectbox("Backbone", list(by_label), key="clusters-backbone") if len(by_label) > 1 else next(iter(by_label))
    )
    run = by_label[label].clusters
    assert run is not None
    content = cast(dict[str, Any], clusters_content(run.path))
    for sentence in content.get("sentences", [])[:3]:
        st.markdown(wording.for_markdown(sentence))
    _associations(content)
    captions = findings.images.set_index("image_id")["caption"]
    for item in content.get("clusters", []):
        _cluster(findings, item, captions)


def _associations(content: dict[str, Any]) -> None:
    rows = [
        {
            "Variable": wording.readable_name(item["variable"]),
            "Role": item["role"],
            "Patients": item["n_patients"],
            "Association with clusters": item["value"],
            "Measure": wording.measure_label(item["measure"]) if item["measure"] else item["note"],
            "p": wording.p_value_cell(item["p_value"]),
        }
        for item in content.get("associations", [])
    ]
    if not rows:
        return
    st.subheader("Associations with the clusters")
    bar = st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.2f", width="medium")
    ranked = sorted(rows, key=lambda row: -(row["Association with clusters"] or 0))
    st.dataframe(
        pd.DataFrame(ranked), hide_index=True, width="stretch", column_config={"Association with clusters": bar}
    )
    st.caption(
        "0: no association, 1: the cluster determines the variable. p-values come from permutations of whole patients."
    )


def _cluster(findings: Findings, item: dict[str, Any], captions: pd.Series) -> None:
    with st.container(border=True):
        text, images = st.columns([1, 2.3], gap="medium")
        with text:
            st.subheader(f"Cluster {item['cluster']}")
            st.markdown(
                f"**{wording.count(item['n_patients'], 'patient')}**, {wording.count(item['n_images'], 'image')}"
            )
            if item["looks"]:
                st.markdown(f"Compared with all other images: **{wording.for_markdown(', '.join(item['looks']))}**")
            lines = [
                f"- {wording.for_markdown(wording.readable_name(top['variable']))}: "
                f"**{wording.for_markdown(top['level'])}** {top['share']:.0%} (overall {top['share_overall']:.0%})"
                for top in item["top_levels"]
            ]
            st.markdown("\n".join(lines))
            if item["largest_patient_share"] > 0.5:
                st.warning(f"{item['largest_patient_share']:.0%} of these images are of one patient.")
        with images:
            columns = st.columns(3)
            for place, image_id in enumerate(item["medoids"]):
                if image_id in captions.index:
                    caption = str(captions[image_id])
                    at = f"cluster-{item['cluster']}"
                    show_image(findings, image_id, 220, place=columns[place % 3], caption=caption, at=at)
