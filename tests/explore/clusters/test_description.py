"""Descriptions of clusters: typical images, associations tested by patients, appearance in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.study import Variable
from pellucid.embed.index.knn_graph import normalised
from pellucid.explore.clusters.description import associations, looks, medoids
from pellucid.explore.wording import phenotype_words


def test_medoids_are_the_nearest_to_the_centre_one_a_patient() -> None:
    rng, truth = np.random.default_rng(0), np.arange(60) % 3
    values = (4 * rng.normal(size=(3, 40))[truth] + rng.normal(size=(60, 40))).astype(np.float32)
    rows = np.flatnonzero(truth == 0)
    patients = pd.Series(np.arange(60) // 6)
    chosen = medoids(normalised(values), rows, patients, 6)
    assert len({patients[row] for row in chosen}) == len(chosen) == 6
    centre = normalised(values)[rows].mean(axis=0)
    assert chosen[0] == rows[np.argmax(normalised(values)[rows] @ centre)]


def test_images_that_may_not_be_shown_are_never_typical() -> None:
    values = normalised(np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32))
    rows, patients = np.arange(30), pd.Series(np.arange(30))
    first = medoids(values, rows, patients, 6)
    allowed = np.ones(30, dtype=bool)
    allowed[first[:2]] = False
    chosen = medoids(values, rows, patients, 6, allowed)
    assert len(chosen) == 6
    assert chosen[:4] == first[2:]
    assert medoids(values, rows, patients, 6, np.zeros(30, dtype=bool)) == []


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
