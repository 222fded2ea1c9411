"""The map page: one dot per image, coloured by any variable; a click shows the image and the most similar ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from pellucid.embed.search import search
from pellucid.explore import wording
from pellucid.explore.app.cache import index_of, map_points, vectors_of
from pellucid.explore.app.image_view import show_image
from pellucid.explore.figures import map_figures
from pellucid.explore.study_findings import EmbeddedBackbone, Findings, labelled

N_NEIGHBOURS = 12


def show(findings: Findings) -> None:
    """The page."""
    st.title("Map of the images")
    if not findings.backbones:
        st.info("No embeddings yet. Run `pellucid embed` to compute them.")
        return
    choose, colour_by, find = st.columns([1.1, 1.1, 1.4])
    by_label = labelled(findings.backbones)
    backbone = by_label[choose.selectbox("Backbone", list(by_label), key="backbone")]
    points = _placed(findings, backbone)
    options = _colours(findings, backbone)
    shown = colour_by.selectbox("Colour by", list(options), key="colour")
    column, continuous = options[shown]
    captions = points["caption"].tolist()
    keys = dict(zip(captions, points["key"].tolist(), strict=True))
    current = _current(findings, points)
    chosen = find.selectbox(
        "Find an image",
        captions,
        index=None if current is None else captions.index(current),
        placeholder="Type a research id, or click a dot",
        key=f"find-{backbone.name}-{current}",
    )
    if chosen is not None and chosen != current:
        _go_to(int(keys[chosen]))
        st.rerun()
    left, right = st.columns([1.75, 1], gap="large")
    with left:
        if backbone.clusters is None:
            st.caption(
                "There is no map for this backbone yet; the dots show its two main directions of variation. "
                "Run `pellucid cluster` to compute the map."
            )
        values = points["cluster_name"] if column == "cluster" else points[column]
        marked = st.session_state.get("image")
        figure = map_figures.map_figure(
            points, values, continuous, shown, hover=_hover(points, values, shown), marked=marked, height=620
        )
        figure.update_layout(uirevision=backbone.name)  # zoom stays when the colour changes
        event = st.plotly_chart(
            figure,
            width="stretch",
            theme=None,
            key=f"map-{backbone.name}-{column}",
            on_select="rerun",
            selection_mode="points",
            config={"displaylogo": False, "scrollZoom": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
        )
        picked = _picked(event)
        is_new = picked != st.session_state.get("last_click")  # the chart repeats its last click on every rerun
        st.session_state["last_click"] = picked
        if picked is not None and is_new:
            _go_to(picked)
            st.rerun()
    with right:
        _one_image(findings, points)
    _neighbours(findings, backbone, points)


def _go_to(key: int) -> None:
    st.session_state["image"] = key


def _picked(event: Any) -> int | None:
    found = event.get("selection", {}).get("points", []) if event else []
    data = found[0].get("customdata") if found else None
    if isinstance(data, (list, tuple)):
        data = data[0] if data else None
    elif isinstance(data, dict):
        data = next(iter(data.values()), None)
    return None if data is None else int(data)


def _placed(findings: Findings, backbone: EmbeddedBackbone) -> pd.DataFrame:
    points = map_points(backbone.vectors.path, backbone.clusters.path if backbone.clusters else None)[
        ["image_id", "x", "y", "cluster"]
    ]
    placed = points.merge(findings.images, on="image_id", how="inner", validate="one_to_one").sort_values("key")
    names = np.where(placed["cluster"] > 0, "cluster " + placed["cluster"].astype(str), wording.UNASSIGNED)
    return placed.assign(cluster_name=names).reset_index(drop=True)


def _colours(findings: Findings, backbone: EmbeddedBackbone) -> dict[str, tuple[str, bool]]:
    """Choices of the map's colour: label → (column, whether continuous)."""
    found: dict[str, tuple[str, bool]] = {}
    if backbone.clusters is not None:
        found["cluster"] = ("cluster", False)
    for variable in findings.variables:
        numeric = pd.api.types.is_numeric_dtype(findings.images[variable.name])
        many = findings.images[variable.name].nunique() > 8
        scale = variable.kind == "continuous" or (variable.kind == "ordinal" and numeric and many)
        role = "acquisition" if variable.role == "acquisition" else variable.role
        found[f"{wording.readable_name(variable.name)} ({role})"] = (variable.name, scale and numeric)
    for column in findings.images.columns:
        if str(column).startswith("phenotype_"):
            found[f"{wording.readable_name(str(column))} (appearance)"] = (str(column), True)
    found["split"] = ("split", False)
    return found


def _hover(points: pd.DataFrame, values: pd.Series, name: str) -> pd.Series:
    label = wording.for_plotly(name.rpartition(" (")[0] or name)
    texts = values.map(lambda v: wording.for_plotly(f"{v:.3g}" if isinstance(v, float) else wording.level_text(v)))
    return points["caption"].map(wording.for_plotly) + f"<br>{label}: " + texts


def _current(findings: Findings, points: pd.DataFrame) -> str | None:
    key = st.session_state.get("image")
    here = points[points["key"] == key]["caption"]
    return None if key is None or here.empty else str(here.iloc[0])


def _one_image(findings: Findings, points: pd.DataFrame) -> None:
    here = points[points["key"] == st.session_state.get("image")]
    if here.empty:
        st.info("Click a dot to see the image, its variables, and the most similar images of other patients.")
        return
    row = here.iloc[0]
    st.subheader(str(row["caption"]).replace("image", "Image", 1))
    show_image(findings, str(row["image_id"]), at="chosen")
    facts = [(wording.readable_name(v.name), wording.level_text(row[v.name])) for v in findings.variables]
    facts.append(("cluster", str(row["cluster_name"]).removeprefix("cluster ")))
    st.dataframe(
        pd.DataFrame(facts, columns=["what", "value"]),
        hide_index=True,
        width="stretch",
        column_config={"what": st.column_config.TextColumn("Variable"), "value": st.column_config.TextColumn("Value")},
        key=f"facts-{row['key']}",
    )


def _neighbours(findings: Findings, backbone: EmbeddedBackbone, points: pd.DataFrame) -> None:
    here = points[points["key"] == st.session_state.get("image")]
    if here.empty:
        return
    st.subheader("Most similar images of other patients")
    st.caption(
        f"Similarity of the embeddings ({wording.for_markdown(backbone.label)}). One image per patient, the most "
        "similar first."
    )
    vectors = vectors_of(backbone.vectors.path)
    query = int(np.flatnonzero(vectors.images["image_id"].to_numpy() == here["image_id"].iloc[0])[0])
    answer = search(
        vectors,
        vectors.values[query],
        N_NEIGHBOURS,
        exclude_patient=str(vectors.images["patient"].iloc[query]),
        one_per_patient=True,
        index=index_of(backbone.vectors.path),
    )
    st.caption(" · ".join(answer.sentences()).replace("the query", "This image"))
    known = points.set_index("image_id")
    captioned_by = [
        next((v for v in findings.variables if (v.role == "acquisition") is acquired and v.kind != "continuous"), None)
        for acquired in (False, True)
    ]
    columns = st.columns(6)
    hits = answer.hits[answer.hits["image_id"].isin(known.index)]  # a patient may have been removed meanwhile
    for place, hit in enumerate(hits.itertuples(index=False)):
        image_id, similarity = str(hit.image_id), float(hit.similarity)  # type: ignore[arg-type]
        row = known.loc[image_id].to_dict()
        with columns[place % 6]:
            show_image(findings, image_id, 220, alt=str(row["caption"]), at="neighbours")
            facts = " · ".join(
                wording.for_markdown(wording.level_text(row[v.name])) for v in captioned_by if v is not None
            )
            st.caption(f"{facts}  \nsimilarity {similarity:.2f}")
            st.button(
                str(row["caption"]),
                key=f"go-{row['key']}",
                type="tertiary",
                on_click=_go_to,
                args=(int(row["key"]),),
            )
