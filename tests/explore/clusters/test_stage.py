"""Clusters and map: planted groups are found, and the seed decides the result."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from pellucid.explore.clusters.stage import ClusterConfig, by_size, lay_out
from pellucid.explore.wording import CLUSTER_SENTENCE


def _blobs(n: int = 150, groups: int = 3, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % groups
    return (4 * rng.normal(size=(groups, 40))[truth] + rng.normal(size=(n, 40))).astype(np.float32), truth


@pytest.mark.long
def test_planted_groups_are_found_and_the_seed_decides() -> None:
    values, truth = _blobs()
    config = ClusterConfig(seed=3)
    first, again = lay_out(values, config), lay_out(values, config)
    assert adjusted_rand_score(truth, first.cluster) > 0.95
    assert np.array_equal(first.xy, again.xy)
    assert np.array_equal(first.cluster, again.cluster)
    assert not np.array_equal(first.xy, lay_out(values, ClusterConfig(seed=4)).xy)


def test_few_images_get_a_map_and_a_sentence() -> None:
    values, _ = _blobs(12)
    layout = lay_out(values, ClusterConfig())
    assert (layout.cluster == -1).all()
    assert layout.note == "Only 12 images: too few for clusters; the map shows the two main directions of variation."
    assert np.ptp(layout.xy, axis=0).min() > 0
    assert lay_out(values[:1], ClusterConfig()).xy.shape == (1, 2)


def test_clusters_are_numbered_from_the_largest() -> None:
    assert by_size(np.array([0, 1, 1, -1, 1, 0, 2])).tolist() == [2, 1, 1, -1, 1, 2, 3]


@pytest.mark.long
def test_the_cluster_run(whole: Any) -> None:
    run = whole.runs["cluster"]
    table = pd.read_parquet(run.path / "clusters.parquet")
    content = json.loads((run.path / "clusters.json").read_text())
    assert list(table.columns) == ["image_id", "patient", "x", "y", "cluster", "probability"]
    assert content["schema"] == "pellucid.clusters/1"
    assert content["sentences"][0] == CLUSTER_SENTENCE
    assert sum(item["n_images"] for item in content["clusters"]) + content["n_without_cluster"] == len(table)
    by_name = {item["variable"]: item for item in content["associations"]}
    assert by_name["device"]["value"] > 0.9
    assert by_name["device"]["p_value"] <= 0.01
    assert all(len(set(item["medoids"])) == len(item["medoids"]) <= 6 for item in content["clusters"])
    assert {"device", "operator", "site"} <= {top["variable"] for top in content["clusters"][0]["top_levels"]}
