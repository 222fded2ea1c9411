"""What the pages read from disk, cached between clicks: findings, vectors, maps and images."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import streamlit as st

from pellucid.cohort.images import PreparedImages, encode
from pellucid.cohort.runs import finished_runs
from pellucid.cohort.study import Study
from pellucid.embed.index import Index, normalised, open_index
from pellucid.embed.store import Vectors, load_vectors
from pellucid.explore.clusters.stage import principal_directions
from pellucid.explore.study_findings import Findings, gather_newest
from pellucid.explore.thumbnails import letterbox, obscure


def findings_of(study: Study) -> Findings:
    """The newest runs; read again only when a run has been added."""
    stamp = tuple(str(run.path) for run in finished_runs(study.analysis))
    return _findings(study.path, study.config.model_dump_json(), stamp, study)


@st.cache_resource(max_entries=4, show_spinner="Reading the study …")
def _findings(path: Path, config: str, stamp: tuple[str, ...], _study: Study) -> Findings:
    return gather_newest(_study)


@st.cache_resource(max_entries=2, show_spinner=False)
def _prepared(scan_folder: Path) -> tuple[PreparedImages, dict[str, int]]:
    prepared = PreparedImages.open(scan_folder)
    return prepared, {image_id: i for i, image_id in enumerate(prepared.image_ids)}


@st.cache_data(max_entries=4000, show_spinner=False)
def picture(scan_folder: Path, image_id: str, size_px: int = 0, obscured: bool = False) -> bytes:
    """One image of the manifest as JPEG: as prepared, or (size_px > 0) inside a square of that size.

    Args:
        obscured: show its colours in coarse squares only.
    """
    prepared, place = _prepared(scan_folder)
    i = place[image_id]  # KeyError for an id that is not in the manifest: nothing else is served
    if obscured:
        pixels = obscure(prepared.decode(i, size_px))
        return encode(letterbox(pixels, size_px) if size_px else pixels, 88)
    return prepared.encoded(i) if size_px == 0 else encode(letterbox(prepared.decode(i, size_px), size_px), 88)


@st.cache_resource(max_entries=3, show_spinner="Reading the vectors …")
def vectors_of(folder: Path) -> Vectors:
    """The store of one backbone."""
    return load_vectors(folder)


@st.cache_resource(max_entries=3, show_spinner=False)
def index_of(folder: Path) -> Index:
    """The search index that `embed` stored with the vectors."""
    return open_index(folder, vectors_of(folder))


@st.cache_resource(max_entries=6, show_spinner="Reading the map …")
def map_points(folder: Path, clusters: Path | None) -> pd.DataFrame:
    """image_id, x, y, cluster: from the cluster run, or the two main directions where there is none."""
    if clusters is not None:
        return pd.read_parquet(clusters / "clusters.parquet")
    vectors = vectors_of(folder)
    xy = principal_directions(normalised(vectors.values))
    return vectors.images[["image_id"]].assign(x=xy[:, 0], y=xy[:, 1], cluster=-1)


@st.cache_data(max_entries=6, show_spinner=False)
def clusters_content(folder: Path) -> dict[str, object]:
    """The content of a cluster run's clusters.json."""
    return dict(json.loads((folder / "clusters.json").read_text(encoding="utf-8")))
