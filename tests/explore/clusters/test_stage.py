"""Clusters find what was planted, repeat by seed, and are tested by patients."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from pellucid.cohort.study import Variable
from pellucid.embed.index.knn_graph import normalised
from pellucid.explore.clusters.description import associations, looks, medoids
from pellucid.explore.clusters.stage import ClusterConfig, by_size, lay_out
from pellucid.explore.wording import CLUSTER_SENTENCE, phenotype_words


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


def test_medoids_are_the_nearest_to_the_centre_one_a_patient() -> None:
    values, truth = _blobs(60)
    rows = np.flatnonzero(truth == 0)
    patients = pd.Series(np.arange(60) // 6)
    chosen = medoids(normalised(values), rows, patients, 6)
    assert len({patients[row] for row in chosen}) == len(chosen) == 6
    centre = normalised(values)[rows].mean(axis=0)
    assert chosen[0] == rows[np.argmax(normalised(values)[rows] @ centre)]


def _frame(n_patients: int, images: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    patient = np.repeat(np.arange(n_patients), images)
    cluster = np.repeat(rng.integers(1, 4, n_patients), images)  # a patient's images all lie together
    return pd.DataFrame({"patient": [f"P{p:05d}" for p in patient]}), cluster


@pytest.mark.parametrize("kind", ["categorical", "continuous"])
def test_association_by_patients_keeps_its_level_and_finds_what_is_there(kind: Any) -> None:
    variable = [Variable("v", "clinical", kind)]
    rejected = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        frame, cluster = _frame(40, 6, rng)
        drawn = rng.integers(0, 2, 40) if kind == "categorical" else rng.normal(size=40)
        item = associations(frame.assign(v=np.repeat(drawn, 6)), cluster, variable)[0]
        rejected += item["p_value"] <= 0.05
    assert rejected <= 8  # counting images instead of patients rejects in nearly every one
    found = associations(frame.assign(v=cluster * 1.0), cluster, variable)[0]
    assert found["p_value"] == pytest.approx(1 / 5000)
    assert found["value"] == pytest.approx(1, abs=0.05)


def test_association_within_patients_is_seen() -> None:
    rng = np.random.default_rng(0)
    side = np.tile([0, 1], 40)
    frame = pd.DataFrame({"patient": np.repeat([f"P{i:05d}" for i in range(40)], 2), "side": side})
    item = associations(frame, side + 1, [Variable("side", "acquisition", "binary")])[0]
    assert item["p_value"] == pytest.approx(1 / 5000)
    none = associations(frame, rng.integers(1, 3, 80), [Variable("side", "acquisition", "binary")])[0]
    assert none["p_value"] > 0.05


def test_too_few_patients_give_a_sentence_not_a_number() -> None:
    frame, cluster = _frame(6, 5, np.random.default_rng(0))
    item = associations(frame.assign(v=cluster), cluster, [Variable("v", "clinical", "categorical")])[0]
    assert item["value"] is None
    assert item["note"] == "too few patients (6)"


def test_looks_are_differences_between_patients_in_words() -> None:
    rng = np.random.default_rng(0)
    inside = np.repeat(np.arange(40) < 15, 3)
    frame = pd.DataFrame(
        {
            "patient": np.repeat(np.arange(40), 3),
            "phenotype_redness": rng.normal(size=120) + 3 * inside,
            "phenotype_sharpness": rng.normal(size=120),
        }
    )
    found = looks(frame, inside)
    assert [item["phenotype"] for item in found] == ["redness", "sharpness"]
    assert found[0]["words"] == "much redder"
    assert phenotype_words("phenotype_sharpness", -0.9) == "blurrier"
    assert phenotype_words("phenotype_lustre", 0.6) == "somewhat more lustre"


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
