"""The kNN probe: a plain loop gives the same votes, a patient is one neighbour, and without a signal it says chance."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.statistics.patient_resampling import Patients, deal_folds
from pellucid.probes.estimators.knn import TEMPERATURE, K, knn_scores
from pellucid.probes.inference.estimate import probe
from pellucid.probes.inference.statistic import Target


def world(
    rng: np.random.Generator, n_patients: int, shift: float, most: int = 6
) -> tuple[np.ndarray, np.ndarray, Patients]:
    """Vectors (n, 16) of patients with 1 … `most` alike images; a label by patient that moves the first axis."""
    ids = np.repeat(np.arange(n_patients), rng.integers(1, most + 1, n_patients))
    label = rng.permutation(np.arange(n_patients) % 2)[ids]
    own = rng.normal(size=(n_patients, 16))[ids]
    vectors = own + 0.1 * rng.normal(size=(len(ids), 16)) + 100.0  # far from the origin, as an MAE's vectors are
    vectors[:, 0] += shift * label
    return vectors.astype(np.float32), label, Patients(ids, n_patients)


def test_votes_are_those_of_a_plain_loop_over_patients() -> None:
    rng = np.random.default_rng(0)
    vectors, label, patients = world(rng, 40, 2.0)
    folds = deal_folds(np.zeros(40, dtype=np.int64), 4, rng)[patients.codes]
    targets = np.stack([label, 1 - label, rng.normal(size=len(label))]).astype(float)
    found = knn_scores(vectors, targets, patients.codes, patients.weights, folds)
    for i in range(len(label)):
        train = np.flatnonzero(folds != folds[i])
        people = np.unique(patients.codes[train])
        means = [vectors[(patients.codes == p)].astype(np.float64).mean(axis=0) for p in people]
        centre = np.mean(means, axis=0)  # every patient weighs one
        unit = vectors.astype(np.float64) - centre
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        nearest = []
        for p in people:
            rows = np.flatnonzero(patients.codes == p)
            alike = unit[rows] @ unit[i]
            nearest.append((alike.max(), rows[alike.argmax()]))
        nearest.sort(reverse=True)
        near = nearest[: min(K, max(3, len(people) // 5))]
        votes = np.exp([similarity / TEMPERATURE for similarity, _ in near])
        expected = [np.average(row[[j for _, j in near]], weights=votes) for row in targets]
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-4, atol=1e-5)


def test_many_images_of_one_person_are_one_neighbour() -> None:
    """Fifty pictures of one patient, nearest of all, would outvote everybody: they count once."""
    rng = np.random.default_rng(1)
    ids = np.r_[np.zeros(50, dtype=np.int64), np.arange(1, 41)]
    vectors = np.zeros((90, 8), dtype=np.float32)
    vectors[:, 0] = 1.0
    vectors[:50] += 0.01 * rng.normal(size=(50, 8))
    vectors[50:] += 0.3 * rng.normal(size=(40, 8))
    target = np.r_[np.ones(50), np.zeros(40)][None]
    folds = np.r_[np.zeros(50, dtype=np.int64), np.arange(40) % 2]
    votes = knn_scores(vectors, target, ids, Patients(ids, 41).weights, folds)
    assert votes[0, folds == 1].mean() < 0.15  # one of 20 neighbours; were it 20 of 20 for the near half, a half
    assert votes[0, 0] == 0  # and nobody votes for herself


@pytest.mark.long
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_chance_without_a_signal_and_a_high_score_with_one(shift: float) -> None:
    scores = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        vectors, label, patients = world(rng, 80, shift)
        found = probe(
            vectors, Target(label, 2), patients, permutations=19, bootstrap=50, seed=seed, others=("logistic", "knn")
        )
        score, low, high = found.secondary["knn"]
        assert low < score < high
        scores.append(score)
    if shift:
        assert np.mean(scores) > 0.85
    else:  # standard error of the mean of 12 such scores is about 0.02
        assert abs(np.mean(scores) - 0.5) < 0.06
