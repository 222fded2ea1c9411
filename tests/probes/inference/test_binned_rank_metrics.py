"""Binned rank metrics equal the exact ones of their bins."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.statistics.weighted_ranks import auroc, ridits, spearman
from pellucid.probes.inference import binned_rank_metrics


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    scores = rng.standard_normal((5, 80))
    scores[3:] = np.round(scores[3:])  # ties
    return scores, rng.random((5, 80)) < 0.4, rng.random(80) + 0.1, rng.integers(0, 3, 80)


def test_in_bins_equals_the_measures_of_the_bins(data):
    scores, positive, weights, strata = data
    targets = ridits(np.random.default_rng(0).integers(0, 5, scores.shape).astype(float), weights, strata)
    whole = np.array([binned_rank_metrics.binned(row) for row in scores], dtype=float)
    np.testing.assert_allclose(
        binned_rank_metrics.auroc(scores, positive, weights, strata),
        auroc(whole, positive, weights, strata),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        binned_rank_metrics.spearman(scores, targets, weights, strata),
        spearman(whole, targets, weights, strata),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        binned_rank_metrics.auroc(scores, positive, weights, strata),
        auroc(scores, positive, weights, strata),
        atol=5e-3,
    )


def test_bins_know_order_ends_and_scale():
    near = np.array([-1.0, -1e-9, 1e-9, 1.0] * 100 + [1e6, -1e6])
    found = binned_rank_metrics.binned(near)
    assert found[-2:].tolist() == [1023, 0]
    assert len(set(found[:-2].tolist())) == 1  # beside such outliers they are one
    spread = np.random.default_rng(0).standard_normal(1000)
    assert len(set(binned_rank_metrics.binned(spread).tolist())) > 200
    np.testing.assert_array_equal(binned_rank_metrics.binned(1e-4 * spread + 3), binned_rank_metrics.binned(spread))
    assert (np.diff(binned_rank_metrics.binned(np.sort(spread))) >= 0).all()
    assert set(binned_rank_metrics.binned(np.ones(5)).tolist()) == {511}


def test_no_pair_in_bins_is_nan_not_a_number():
    assert np.isnan(
        binned_rank_metrics.auroc(np.ones((1, 4)), np.ones((1, 4), bool), np.ones(4), np.zeros(4, np.int64))[0]
    )


def test_bootstrap_measures_equal_the_measures_with_those_weights(data):
    scores, positive, weights, strata = data
    target = np.random.default_rng(0).integers(0, 5, 80).astype(float)
    samples = np.random.default_rng(1).poisson(1.0, (6, 80)) * weights
    for row in range(5):
        fast = binned_rank_metrics.BootstrapAuroc(scores[row], positive[row], strata)(samples)
        slow = [auroc(scores[row][None], positive[row][None], w, strata)[0] for w in samples]
        np.testing.assert_allclose(fast, slow, atol=1e-9)
        fast = binned_rank_metrics.BootstrapSpearman(scores[row], target, strata)(samples)
        slow = [spearman(scores[row][None], ridits(target[None], w, strata), w, strata)[0] for w in samples]
        np.testing.assert_allclose(fast, slow, atol=1e-9)
