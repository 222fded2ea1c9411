"""The logistic probe: the known AUROC of a planted shift, chance without one, and no look at the patients it scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pellucid.cohort.statistics.patient_resampling import Patients, deal_folds
from pellucid.probes.estimators.logistic import logistic_scores, newton
from pellucid.probes.estimators.ridge import FoldedRidge
from pellucid.probes.inference.estimate import probe
from pellucid.probes.inference.statistic import Target


def world(effect: float, n_patients: int = 400, dim: int = 8, seed: int = 0, levels: int = 2):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    label = rng.integers(0, levels, n_patients)[patients]
    vectors = rng.normal(size=(len(patients), dim))
    vectors[:, 0] += effect * label
    folds = deal_folds(np.zeros(n_patients, dtype=np.int64), 5, rng)[patients]
    return vectors, label.astype(np.int64), patients.astype(np.int64), folds


def scored(vectors, label, patients, folds, columns=(1,)):  # type: ignore[no-untyped-def]
    weights = Patients(patients, int(patients.max()) + 1).weights
    ridge = FoldedRidge(vectors, weights, folds, np.zeros(len(label), dtype=np.int64))
    return logistic_scores(ridge, label, np.array(columns))


@pytest.mark.parametrize("penalty", [1e-3, 1e-1, 10.0])
def test_newton_finds_the_minimum_that_scikit_learn_finds(penalty: float) -> None:
    vectors, label, patients, _ = world(1.5, n_patients=120)
    vectors = vectors * np.geomspace(3, 0.1, vectors.shape[1])
    weights = Patients(patients, 120).weights
    theirs = LogisticRegression(C=penalty, tol=1e-10, max_iter=5000).fit(vectors, label, sample_weight=weights)
    features = np.hstack([vectors, np.ones((len(vectors), 1))])
    ours = newton(features, label.astype(float), weights, 1 / (penalty * weights.sum()), np.zeros(features.shape[1]))
    both = features @ ours, theirs.decision_function(vectors)
    np.testing.assert_allclose(*both, atol=2e-3 * np.ptp(both[1]))
    assert np.corrcoef(*both)[0, 1] > 0.99999


def test_separable_levels_and_a_single_one_end_with_finite_numbers() -> None:
    features = np.column_stack([np.repeat([-1.0, 1.0], 30), np.ones(60)])
    for target in (np.repeat([0.0, 1.0], 30), np.zeros(60)):
        assert np.isfinite(newton(features, target, np.ones(60), 1e-4, np.zeros(2))).all()


@pytest.mark.parametrize("effect", [0.0, 0.8, 2.0])
def test_auroc_is_that_of_the_planted_shift(effect: float) -> None:
    vectors, label, patients, folds = world(effect)
    found = roc_auc_score(label, scored(vectors, label, patients, folds)[0])
    assert abs(found - norm.cdf(effect / np.sqrt(2))) < 0.06  # two normals, a shift apart


def test_more_dimensions_than_patients() -> None:
    vectors, label, patients, folds = world(5.0, n_patients=60, dim=150)
    assert roc_auc_score(label, scored(vectors, label, patients, folds)[0]) > 0.7


def test_scores_do_not_depend_on_the_labels_of_the_patients_scored() -> None:
    vectors, label, patients, folds = world(0.8)
    before = scored(vectors, label, patients, folds)
    other = label.copy()
    other[folds == 2] = 1 - other[folds == 2]
    after = scored(vectors, other, patients, folds)
    assert np.array_equal(before[:, folds == 2], after[:, folds == 2])
    assert not np.array_equal(before[:, folds == 1], after[:, folds == 1])


def test_several_levels_and_a_level_missing_in_training() -> None:
    vectors, label, patients, folds = world(1.5, levels=3)
    label[(label == 2) & (folds != 4)] = 1
    scores = scored(vectors, label, patients, folds, (0, 1, 2))
    assert np.isfinite(scores).all()
    assert roc_auc_score(label == 0, scores[0]) > 0.75


def test_stands_beside_the_ridge_probe() -> None:
    vectors, label, patients, _ = world(1.2, n_patients=200)
    found = probe(
        vectors, Target(label, 2), Patients(patients, 200), permutations=19, bootstrap=100, others=("logistic", "knn")
    )
    score, low, high = found.secondary["logistic"]
    assert low < score < high
    assert abs(score - found.score) < 0.05
    assert probe(vectors, Target(label, 2), Patients(patients, 200), permutations=19, bootstrap=100).secondary == {}


def test_folds_are_put_on_one_scale_by_patients_not_by_images():
    """One patient with 2,000 images in a fold must not move the others of it."""
    losses = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sizes = np.full(100, 2)
        sizes[0] = 2000
        codes, sick = np.repeat(np.arange(100), sizes), rng.integers(0, 2, 100)
        base = rng.standard_normal((100, 10))
        base[:, 0] += 1.2 * sick
        base[0] *= 3
        vectors = (base[codes] + 0.3 * rng.standard_normal((len(codes), 10))).astype(np.float32)
        found = probe(
            vectors, Target(sick[codes], 2), Patients(codes, 100), permutations=19, bootstrap=50, others=["logistic"]
        )
        losses.append(found.score - found.secondary["logistic"][0])
    assert np.mean(losses) < 0.03
