"""Monitoring with labels: planted signals are found, absent ones are not, and neighbours are other patients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from pellucid.cohort.runs.checksums import write_sums
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study, load_study
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.compute_choice import threads_of
from pellucid.pretrain.export.backbone_export import export_backbone
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.monitor.knn_readout import nearest, predict_from_neighbours
from pellucid.pretrain.monitor.watch import FEWEST_HELD_OUT, Watch, sample
from pellucid.pretrain.recipe import load_recipe

Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]
N_PATIENTS, PER_PATIENT = 90, 3
PATIENTS = np.repeat(np.arange(N_PATIENTS), PER_PATIENT).astype(np.int64)
EVERYTHING = np.arange(len(PATIENTS), dtype=np.int64)
ASKED, KNOWN = EVERYTHING[PATIENTS % 3 == 0], EVERYTHING[PATIENTS % 3 != 0]


def world(seed: int, shift: float, of_patient: float = 1.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Vectors with a strong part of each patient's own and a shift by the patient's class; and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, N_PATIENTS)
    own = of_patient * rng.normal(size=(N_PATIENTS, 16)) + shift * np.eye(16)[classes]
    return (own[PATIENTS] + rng.normal(size=(len(PATIENTS), 16)) + 30).astype(np.float32), classes[PATIENTS]


def read(vectors: Any, values: pd.Series, kind: str, k: int = 10) -> dict[str, Any]:
    """Every third patient asks the others."""
    return predict_from_neighbours(vectors, values, kind, PATIENTS, asked=ASKED, known=KNOWN, k=k)


def test_nobody_is_his_own_neighbour_and_the_nearest_are_brute_forces() -> None:
    vectors, _ = world(0, 0.0)
    rows, cosines = nearest(vectors, EVERYTHING[::7], EVERYTHING, PATIENTS, 5)
    centred = vectors.astype(float) - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for query, found, values in zip(EVERYTHING[::7], rows, cosines, strict=True):
        others = EVERYTHING[PATIENTS[query] != PATIENTS]
        expected = sorted(unit[others] @ unit[query], reverse=True)[:5]
        assert PATIENTS[query] not in PATIENTS[found]
        assert values == pytest.approx(expected, abs=1e-5)


def test_planted_signals_are_predicted_and_absent_ones_are_not() -> None:
    planted = [read(v, pd.Series(c).astype(str), "categorical") for v, c in (world(s, 4.0) for s in range(3))]
    absent = [read(v, pd.Series(c).astype(str), "categorical")["score"] for v, c in (world(s, 0.0) for s in range(30))]
    assert min(found["score"] for found in planted) > 0.9
    assert min(found["ci_low"] for found in planted) > 0.8
    assert np.mean(absent) == pytest.approx(0.5, abs=0.03)  # the patient's own strong mark does not count
    ranked = [read(v, pd.Series(c.astype(float)), "ordinal")["score"] for v, c in (world(s, 0.0) for s in range(30))]
    assert np.mean(ranked) == pytest.approx(0.0, abs=0.06)


def test_the_interval_covers_chance_about_as_often_as_it_says() -> None:
    covered = []
    for seed in range(60):
        vectors, classes = world(seed, 0.0)
        found = read(vectors, pd.Series(classes > 0).astype(str), "binary")
        covered.append(found["ci_low"] <= 0.5 <= found["ci_high"])
    assert np.mean(covered) > 0.85


def test_scores_are_scikit_learns_where_patients_have_as_many_images() -> None:
    vectors, classes = world(1, 1.0)
    rows, _ = nearest(vectors, ASKED, KNOWN, PATIENTS, 10)
    names = pd.Series(classes).map({0: "a", 1: "b", 2: "c"})

    votes = [(names.to_numpy()[rows] == level).mean(axis=1) for level in "abc"]
    expected = np.mean([roc_auc_score(names[ASKED] == level, vote) for level, vote in zip("abc", votes, strict=True)])
    assert read(vectors, names, "categorical")["score"] == pytest.approx(expected, abs=1e-6)
    age = pd.Series(np.random.default_rng(0).normal(size=len(PATIENTS)) + classes)
    expected = spearmanr(age[ASKED], age.to_numpy()[rows].mean(axis=1)).statistic
    assert read(vectors, age, "continuous")["score"] == pytest.approx(expected, abs=1e-6)


def test_patients_with_many_images_do_not_outvote_the_others() -> None:
    vectors, classes = world(2, 2.0)
    values = pd.Series(classes > 0).astype(str)
    keep = ASKED[(PATIENTS[ASKED] == 0) | (ASKED % PER_PATIENT == 0)]
    alone = predict_from_neighbours(vectors, values, "binary", PATIENTS, asked=keep, known=KNOWN, k=10)
    repeated = np.concatenate([keep, *[keep[PATIENTS[keep] == 0]] * 5])
    many = predict_from_neighbours(vectors, values, "binary", PATIENTS, asked=repeated, known=KNOWN, k=10)
    assert many["score"] == pytest.approx(alone["score"], abs=1e-9)


def test_few_patients_give_a_sentence_and_missing_values_are_left_out() -> None:
    vectors, _ = world(0, 0.0)
    rare = pd.Series(np.where(PATIENTS < 10, "rare", np.where(PATIENTS % 2, "odd", "even")))
    found = read(vectors, rare, "categorical")
    assert found["note"] == "too few patients with rare (4)"
    assert found["score"] is not None
    known = pd.Series(np.where(PATIENTS < 22, "a", None))
    found = read(vectors, known, "categorical")
    assert (found["score"], found["note"]) == (None, "too few patients (8)")
    assert read(vectors, pd.Series(np.ones(len(PATIENTS))), "ordinal")["note"] == "only one value"
    assert read(vectors, pd.Series(["x"] * len(PATIENTS)), "categorical")["score"] is None


def training(n_patients: int) -> pd.DataFrame:
    patients = [f"P{i:04d}" for i in range(n_patients) for _ in range(1 + i % 4)]
    ids = [f"{i}.jpg" for i in range(len(patients))]
    return pd.DataFrame({"image_id": ids, "patient": patients, "person": patients})


def test_who_is_held_out_is_whole_patients_and_stays_when_others_come() -> None:
    table = training(800)
    frame, held_out = sample(table, 0.1, 300, seed=0)
    held = table[table["image_id"].isin(held_out)]
    assert 50 < held["patient"].nunique() < 110
    assert not set(held["patient"]) & set(table[~table["image_id"].isin(held_out)]["patient"])
    assert set(frame[frame["asked"]]["image_id"]) <= held_out
    assert not set(frame[~frame["asked"]]["image_id"]) & held_out
    assert len(frame) == 300
    assert frame.groupby("asked")["patient"].nunique()[False] == 210  # one image of each before a second of any
    _, fewer = sample(table[table["patient"] < "P0600"], 0.1, 300, seed=0)
    assert fewer == held_out & set(table[table["patient"] < "P0600"]["image_id"])
    assert sample(table, 0.1, 300, seed=1)[1] != held_out


def test_a_small_cohort_holds_nobody_out_and_says_so() -> None:
    frame, held_out = sample(training(100), 0.1, 1000, seed=0)
    assert held_out == frozenset()
    asked = set(frame[frame["asked"]]["patient"])
    assert len(asked) == 50
    assert not asked & set(frame[~frame["asked"]]["patient"])


@pytest.fixture
def watched(cohort: Cohort, tiny: Tiny, tmp_path: Path) -> Callable[..., tuple[Study, RunFolder]]:
    """A study whose device is written all over the images' colour in the scan's manifest."""

    def build(section: dict[str, Any]) -> tuple[Study, RunFolder]:
        study, scan = cohort(section)
        path = scan.path / "manifest.parquet"
        manifest = pd.read_parquet(path)
        number = manifest["patient"].str[1:].astype(int)
        manifest["device"] = np.where(number % 2, "one", "two")
        manifest["text_like"] = manifest["image_id"] == "train/000.jpg"
        manifest.to_parquet(path)
        write_sums(scan.path)
        (study.path.parent / "table.csv").write_text("image,device\n", encoding="utf-8")
        config = {
            "images": ".",
            "table": "table.csv",
            "image": "image",
            "patient": "none",
            "pretrain": section,
            "acquisition": {"device": "categorical"},
        }
        study.path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return load_study(study.path), scan

    return build


@pytest.mark.number_type
@pytest.mark.parametrize("kind", ["mae", "dino"])
def test_a_look_changes_nothing_and_sees_what_embed_will_see(
    watched: Callable[..., tuple[Study, RunFolder]], tiny: Tiny, kind: str, tmp_path: Path
) -> None:
    section = {**tiny[kind], "watch": {"images": 40, "neighbours": 3}}
    study, scan = watched(section)
    _, recipe = load_recipe(section)
    watch = Watch.open(study, scan, recipe, 80)
    assert watch is not None
    assert set(watch.frame["image_id"]) == {f"train/{i:03d}.jpg" for i in range(24)}  # never test, external or broken
    assert watch.every == 10
    assert [done for done in range(81) if watch.due(done, 80)] == list(range(0, 81, 10))
    method = build_method(recipe, 80)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    vectors = watch.vectors(method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.training
    assert np.array_equal(vectors, watch.vectors(method))
    (line,) = watch.lines(vectors, 10)
    assert (line["step"], line["variable"], line["role"], line["held_out"]) == (10, "device", "acquisition", False)
    assert line["patients"] == 6 < FEWEST_HELD_OUT
    assert "too small to hold out 20 patients" in watch.sentence()
    export_backbone(tmp_path, method, recipe, {})
    encoder = load_backbone(f"run:{tmp_path}", "cpu")
    pixels = np.stack([watch.images.square(i, recipe.img_size) for i in range(len(vectors))])
    # In any number type: the batches are of another size here, so that float32 may sum in another order.
    rounding = 0.05 if encoder.computing.precision == "bfloat16" else 1e-5
    assert vectors == pytest.approx(encoder(pixels), abs=rounding)
    with threads_of(1):
        alike = [encoder(pixels[start : start + 16]) for start in range(0, len(pixels), 16)]
        assert np.array_equal(vectors, np.concatenate(alike)), "batch by batch, as extraction computes, the same bytes"


def test_no_look_where_none_is_wanted(watched: Callable[..., tuple[Study, RunFolder]], tiny: Tiny) -> None:
    study, scan = watched({**tiny["mae"], "watch": {"every": 0}})
    _, recipe = load_recipe({**tiny["mae"], "watch": {"every": 0}})
    assert Watch.open(study, scan, recipe, 80) is None
