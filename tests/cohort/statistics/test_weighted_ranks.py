"""The weighted, stratified rank metrics against definitions and reference implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from pellucid.cohort.statistics.weighted_ranks import auroc, correlation, ridits, spearman

ONE = np.zeros(80, dtype=np.int64)


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((5, 80))
    scores[3:] = np.round(scores[3:])  # ties
    return scores, rng.random((5, 80)) < 0.4, rng.random(80) + 0.1, rng.integers(0, 3, 80)


def by_pairs(scores, positive, weights, strata):
    """The definition, pair by pair."""
    won = pairs = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive & (strata == strata[i])):
            won += weights[i] * weights[j] * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
            pairs += weights[i] * weights[j]
    return won / pairs


def test_auroc_is_scikit_learns(data):
    scores, positive, weights, _ = data
    ours = auroc(scores, positive, weights, ONE)
    theirs = [roc_auc_score(p, s, sample_weight=weights) for s, p in zip(scores, positive, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_stratified_auroc_is_its_definition(data):
    scores, positive, weights, strata = data
    ours = auroc(scores, positive, weights, strata)
    pairs = [by_pairs(s, p, weights, strata) for s, p in zip(scores, positive, strict=True)]
    np.testing.assert_allclose(ours, pairs, atol=1e-12)


def test_auroc_below_half_stays_below_half(data):
    scores, positive, weights, strata = data
    up = auroc(scores, positive, weights, strata)
    down = auroc(-scores, positive, weights, strata)
    np.testing.assert_allclose(up + down, 1.0)
    assert min(up.min(), down.min()) < 0.5


def test_no_pair_to_compare_is_nan_not_a_number():
    assert np.isnan(auroc(np.ones((1, 4)), np.ones((1, 4), bool), np.ones(4), np.zeros(4, np.int64))[0])


def test_spearman_is_scipys(data):
    scores = data[0]
    target = np.random.default_rng(0).integers(0, 5, 80).astype(float)
    ranks = ridits(target[None], np.ones(80), ONE)
    ours = spearman(scores, ranks, np.ones(80), ONE)
    np.testing.assert_allclose(ours, [spearmanr(s, target)[0] for s in scores], atol=1e-12)


def test_one_vector_of_scores_under_many_weights_equals_each_by_itself(data):
    scores, positive, weights, strata = data
    samples = np.random.default_rng(1).poisson(1.0, (6, 80)) * weights
    for row in (0, 4):  # without ties, with ties
        together = auroc(scores[row], positive[row], samples, strata)
        alone = [auroc(scores[row], positive[row], sample, strata)[0] for sample in samples]
        np.testing.assert_allclose(together, alone, atol=1e-12)


def test_correlation_under_many_weights_is_numpys(data):
    left, right = data[0][0], data[0][3]
    samples = np.random.default_rng(1).poisson(1.0, (6, 80)).astype(float)
    centred = (side - (samples @ side / samples.sum(axis=1))[:, None] for side in (left, right))
    drawn = (np.repeat(np.arange(80), sample.astype(int)) for sample in samples)
    numpys = [np.corrcoef(left[rows], right[rows])[0, 1] for rows in drawn]
    np.testing.assert_allclose(correlation(*centred, samples), numpys, atol=1e-12)
    assert correlation(np.zeros(80), left, samples[0]) == 0.0
