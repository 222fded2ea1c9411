"""What neighbours share: by plain loops, in worlds with known answers, and against the published formulas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.questions.neighbourhood import (
    Neighbourhood,
    kbet_rejections,
    lisi,
    lisi_weights,
    patient_embeddings,
    ranked,
    robustness_chance,
)

World = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], Patients]


def world(seed: int, disease: float, device: float, n: int = 120, classes: int = 2, confounding: float = 0.0) -> World:
    """Patients with 1–5 images; both labels are the patient's."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), rng.integers(1, 6, n))
    z = rng.integers(0, 2, n)
    y = np.where(rng.random(n) < confounding, z, rng.integers(0, classes, n))
    x = rng.normal(size=(n, 12))[ids] + 0.3 * rng.normal(size=(len(ids), 12))
    x[:, 0] += disease * y[ids]
    x[:, 1] += device * z[ids]
    return x.astype(np.float32), y[ids], z[ids], Patients(ids, n)


def test_robustness_index_by_a_plain_loop_over_patients() -> None:
    x, y, z, patients = world(0, 2.0, 2.0, n=40, classes=3)
    centre = np.average(x.astype(float), axis=0, weights=patients.weights)
    unit = x - centre
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = Neighbourhood(x, patients, 0)
    robust = fooled = 0.0
    for i in range(len(x)):
        best = []
        for person in range(40):
            rows = np.flatnonzero(patients.codes == person)
            if person != patients.codes[i]:
                alike = unit[rows] @ unit[i]
                best.append((float(alike.max()), int(rows[alike.argmax()])))
        for _, j in sorted(best, reverse=True)[: near.k]:
            robust += patients.weights[i] * (y[i] == y[j] and z[i] != z[j])
            fooled += patients.weights[i] * (y[i] != y[j] and z[i] == z[j])
    assert near.robustness(y, z)[0] == pytest.approx(robust / (robust + fooled), abs=1e-9)


def test_chance_is_what_random_neighbours_give() -> None:
    """Unbalanced labels that go together: not 0.5, and exactly what the formula says."""
    found, expected = [], []
    for seed in range(60):
        x, y, z, patients = world(seed, 0.0, 0.0, n=60, classes=3, confounding=0.5)
        near = Neighbourhood(x, patients, seed)
        found.append(near.robustness(y, z)[0])
        expected.append(robustness_chance(patients, near.queries, y, z))
    assert np.mean(expected) < 0.45
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=0.02)


def test_the_disease_and_the_device_pull_to_either_end() -> None:
    ends = [Neighbourhood(x, p, 0).robustness(y, z) for x, y, z, p in (world(1, 4, 0), world(1, 0, 4))]
    assert ends[0][0] > 0.9
    assert ends[1][0] < 0.15
    for value, low, high in ends:
        assert 0 <= low < value < high <= 1


def test_the_interval_covers() -> None:
    """Of 60 cohorts, the interval holds the expected index in about 95 %."""
    results = []
    for seed in range(60):
        x, y, z, patients = world(seed, 1.5, 1.5, n=80)
        results.append(Neighbourhood(x, patients, seed).robustness(y, z))
    values, lows, highs = np.array(results).T
    covered = np.mean((lows <= values.mean()) & (values.mean() <= highs))
    assert 0.88 <= covered <= 1.0


def test_kbet_is_pearson_s_test_of_each_neighbourhood() -> None:
    from scipy.stats import chisquare

    rng = np.random.default_rng(0)
    levels = rng.choice(3, 90, p=[0.5, 0.3, 0.2])
    near = np.array([rng.permutation(90)[:20] for _ in range(90)])
    shares = np.bincount(levels) / 90
    expected = [chisquare(np.bincount(levels[row], minlength=3), 20 * shares).pvalue < 0.05 for row in near]
    assert kbet_rejections(near, levels, shares).tolist() == expected


def test_lisi_counts_levels() -> None:
    even = np.full((2, 30), 1.0)
    weights = lisi_weights(even, 10)
    np.testing.assert_allclose(weights, 1 / 30)
    near = np.tile(np.arange(30), (2, 1))
    assert lisi(weights, near, np.arange(30) % 3, 3) == pytest.approx(3.0)
    assert lisi(weights, near, np.zeros(30, dtype=np.int64), 3) == pytest.approx(1.0)
    spread = np.abs(np.random.default_rng(0).normal(size=(5, 90)))
    weights = lisi_weights(spread, 30)
    entropy = -(weights * np.log(weights)).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), 30, rtol=1e-3)


def test_mixing_is_that_of_scib_metrics() -> None:
    """Golden values: scib-metrics 0.5.10 (`lisi_knn`, `ilisi_knn`, `kbet`; jax in double precision) on these points."""
    rng = np.random.default_rng(7)
    levels = np.repeat([0, 1, 2], [150, 100, 50])
    points = rng.standard_normal((300, 4))
    points[:, 0] += 0.8 * levels
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    near, distances = ranked(points, 91)  # oneself among them, as there
    each = lisi(lisi_weights(distances[:, 1:], 30), near[:, 1:], levels, 3)
    np.testing.assert_allclose(each[:4], [2.12761517, 1.55741903, 1.73223005, 1.65850889], rtol=1e-5)
    assert (np.median(each) - 1) / 2 == pytest.approx(0.655135, abs=1e-5)
    rejected = kbet_rejections(near[:, :25], levels, np.bincount(levels) / 300)
    assert rejected.mean() == pytest.approx(0.543333, abs=1e-6)


def test_mixing_against_its_chance() -> None:
    x, y, z, patients = world(3, 0, 4, n=200)
    told = Neighbourhood(x, patients, 0).measure(y, z)
    assert told.kbet_rejection > 0.9
    assert told.kbet_chance < 0.12
    assert told.ilisi < 0.1 < 0.8 < told.ilisi_chance
    assert told.n_clusters == 2
    assert told.ami_acquisition > 0.8 > told.ami_clinical
    assert told.clustering_score < -0.8
    x, y, z, patients = world(4, 0, 0, n=200)
    told = Neighbourhood(x, patients, 0).measure(y, z)
    assert abs(told.kbet_rejection - told.kbet_chance) < 0.1
    assert abs(told.ilisi - told.ilisi_chance) < 0.1


def test_patients_in_whom_the_factor_varies_are_told_apart() -> None:
    x, y, z, patients = world(5, 1, 1, n=100)
    z = z.copy()
    first = np.flatnonzero(patients.sizes > 1)[0]
    rows = np.flatnonzero(patients.codes == first)
    z[rows[0]] = 1 - z[rows[1]]
    assert Neighbourhood(x, patients, 0).measure(y, z).n_patients == 99


def test_one_embedding_a_patient() -> None:
    x, _, _, patients = world(6, 0, 0, n=30)
    found = patient_embeddings(x, patients)
    assert found.shape == (30, 12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_the_ends_have_an_interval_too() -> None:
    for disease, device in ((0, 60), (60, 0)):
        x, y, z, patients = world(7, disease, device)
        value, low, high = Neighbourhood(x, patients, 0).robustness(y, z)
        assert value in (0.0, 1.0)
        assert high - low > 0.01
