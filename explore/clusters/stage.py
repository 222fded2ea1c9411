"""Stage `cluster`: map and clusters of one set of vectors (UMAP, HDBSCAN), shown by the report and the explorer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pellucid.cohort.config import Config
from pellucid.cohort.runs import RunFolder, atomic_path, begin_run, write_json
from pellucid.cohort.study import Study
from pellucid.embed.index import knn_graph, normalised
from pellucid.embed.store import load_vectors
from pellucid.explore.clusters.description import association_sentences, associations, describe
from pellucid.explore.wording import CLUSTER_SENTENCE, count

SCHEMA = "pellucid.clusters/1"
FEWEST_IMAGES = 30


class ClusterConfig(Config):
    """The `cluster` section of study.yaml."""

    n_neighbors: int = Field(15, ge=2, le=200)  # of the one neighbour graph that the map is drawn from
    min_cluster_size: int = Field(0, ge=0)  # images; 0: 2 % of all images, at least 10 and at most 200
    seed: int = 0


@dataclass(frozen=True)
class Layout:
    """Position of each image on the map, and its cluster."""

    xy: NDArray[np.float32]  # (n, 2)
    cluster: NDArray[np.int64]  # (n,) 1 is the largest, -1 is none
    probability: NDArray[np.float32]  # (n,) HDBSCAN's membership strength
    note: str  # why there are no clusters, else ""


def lay_out(values: NDArray[np.float32], config: ClusterConfig) -> Layout:
    """A map and clusters of (n, d) vectors; cosine geometry; the same seed gives the same result.

    HDBSCAN clusters a five-dimensional UMAP embedding (min_dist 0) of the neighbour graph from which the map is
    computed. In hundreds of dimensions density is nearly flat and HDBSCAN labels most images as noise; PCA merges small
    groups into large ones; the two-dimensional map splits groups.
    """
    vectors = normalised(np.asarray(values, dtype=np.float32))
    n = len(vectors)
    if n < FEWEST_IMAGES:
        note = f"Only {count(n, 'image')}: too few for clusters; the map shows the two main directions of variation."
        return Layout(
            principal_directions(vectors), np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.float32), note
        )
    indices, distances = knn_graph(vectors, config.n_neighbors)
    graph = (indices.astype(np.int32), np.maximum(distances, 0).astype(np.float32))
    xy = _umap(vectors, graph, config, n_components=2, min_dist=0.3)
    dense = _umap(vectors, graph, config, n_components=min(5, n - 2), min_dist=0.0)
    size = config.min_cluster_size or int(np.clip(round(0.02 * n), 10, 200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import hdbscan

        # One worker: starting more takes 8 s, longer than the clustering itself.
        model = hdbscan.HDBSCAN(min_cluster_size=size, min_samples=min(size, 5), core_dist_n_jobs=1).fit(dense)
    cluster = by_size(model.labels_)
    note = "" if (cluster > 0).any() else "No separate group of images was found: no clusters are reported."
    return Layout(xy, cluster, np.asarray(model.probabilities_, dtype=np.float32), note)


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cluster labels renumbered 1, 2, … from the largest; -1 stays."""
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = found[np.argsort(-counts, kind="stable")]
    number = {int(label): i for i, label in enumerate(order, start=1)}
    return np.array([number.get(int(label), -1) for label in labels], dtype=np.int64)


def principal_directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2): the two main directions, each turned so that its largest entry is positive."""
    n = len(vectors)
    if n < 2:
        return np.zeros((n, 2), dtype=np.float32)
    left, spread, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    xy = np.zeros((n, 2), dtype=np.float32)
    used = min(2, len(spread))
    xy[:, :used] = left[:, :used] * spread[:used]
    largest = xy[np.abs(xy).argmax(axis=0), np.arange(2)]
    return np.asarray(xy * np.where(largest < 0, -1, 1), dtype=np.float32)


def _umap(
    vectors: NDArray[np.float32],
    graph: tuple[NDArray[np.int32], NDArray[np.float32]],
    config: ClusterConfig,
    n_components: int,
    min_dist: float,
) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed means one thread, and new points cannot be mapped
        import umap

        model = umap.UMAP(
            n_components=n_components,
            min_dist=min_dist,
            n_neighbors=graph[0].shape[1],
            metric="cosine",
            precomputed_knn=(*graph, None),
            force_approximation_algorithm=True,  # below 4,096 images it would otherwise discard the graph
            init="pca",  # preserves global structure, and is deterministic (Kobak & Linderman 2021)
            random_state=config.seed,
            n_jobs=1,
        )
        return np.asarray(model.fit_transform(vectors), dtype=np.float32)


def cluster(study: Study, vectors_run: RunFolder, scan: RunFolder, progress: bool = True) -> RunFolder:
    """Map, clusters and their associations, as a run: clusters.parquet and clusters.json.

    Args:
        vectors_run: a finished `embed` run; the clusters carry its name.
        scan: the finished `scan` run whose manifest holds patients, variables and phenotypes.
    """
    config = study.section("cluster", ClusterConfig)
    asked = {**config.model_dump(), "variables": {v.name: [v.role, v.kind] for v in study.variables}}
    with begin_run(study.analysis, "cluster", vectors_run.name, asked, [vectors_run, scan], seed=config.seed) as run:
        if run.done:
            return run
        columns = [SpinnerColumn(), TextColumn("cluster: {task.description}"), TimeElapsedColumn()]
        with Progress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task("computing the map", total=None)
            vectors = load_vectors(vectors_run.path)
            frame = _frame(vectors.images, pd.read_parquet(scan.path / "manifest.parquet"))
            layout = lay_out(np.asarray(vectors.values), config)
            bar.update(task, description="describing the clusters")
            table = frame[["image_id", "patient"]].assign(
                x=layout.xy[:, 0], y=layout.xy[:, 1], cluster=layout.cluster, probability=layout.probability
            )
            content = summary(frame, normalised(vectors.values), layout, study, config)
        content["backbone"] = str(vectors.spec.get("backbone", vectors_run.name))
        with atomic_path(run.path / "clusters.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        write_json(run.path / "clusters.json", content)
    return run


def _frame(images: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest's rows in the order of the vectors."""
    rows = manifest.drop_duplicates("image_id").set_index("image_id").loc[images["image_id"].tolist()]
    return rows.reset_index()


def summary(
    frame: pd.DataFrame, vectors: NDArray[np.float32], layout: Layout, study: Study, config: ClusterConfig
) -> dict[str, Any]:
    """The content of clusters.json."""
    found = describe(frame, vectors, layout.cluster, study.variables)
    tested = associations(frame, layout.cluster, study.variables) if found else []
    inside = int((layout.cluster > 0).sum())
    return {
        "schema": SCHEMA,
        "n_images": len(frame),
        "n_patients": int(frame["patient"].nunique()),
        "n_without_cluster": len(frame) - inside,
        "method": "UMAP of the cosine neighbour graph, HDBSCAN on a five-dimensional embedding of the same graph",
        "clusters": found,
        "associations": tested,
        "family": "q-values: Benjamini–Hochberg over the variables tested against these clusters",
        "note": layout.note,
        "sentences": _sentences(frame, found, tested, inside, layout.note),
    }


def _sentences(
    frame: pd.DataFrame, found: Sequence[dict[str, Any]], tested: Sequence[dict[str, Any]], inside: int, note: str
) -> list[str]:
    sentences = [CLUSTER_SENTENCE]
    if note:
        return [*sentences, note]
    whole = count(len(frame), "image")
    patients = count(int(frame["patient"].nunique()), "patient")
    held = f"all {whole}" if inside == len(frame) else f"{inside:,} of {whole}"
    rest = "" if inside == len(frame) else "; the other images belong to no cluster"
    verb = "contains" if len(found) == 1 else "contain"
    sentences.append(f"{count(len(found), 'cluster')} {verb} {held} ({patients} in total){rest}.")
    alone = [item for item in found if item["largest_patient_share"] > 0.5 or item["n_patients"] < 5]
    if alone:
        names = ", ".join(str(item["cluster"]) for item in alone)
        noun = "Cluster" if len(alone) == 1 else "Clusters"
        sentences.append(
            f"{noun} {names} consist{'s' if len(alone) == 1 else ''} of images of a few patients: do not draw "
            "conclusions about disease."
        )
    return sentences + association_sentences(tested)
