"""The concordance index against its definition; martingale residuals against the log-rank test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import CensoredData, logrank

from pellucid.probes.inference.concordance import Concordance, concordance
from pellucid.probes.inputs.martingale_residuals import martingale_residuals, order_of


def by_pairs(scores, times, events, weights, strata):
    won = pairs = 0.0
    for i in np.flatnonzero(events):
        for j in range(len(scores)):
            later = times[j] > times[i] or (times[j] == times[i] and not events[j])
            if later and strata[i] == strata[j]:
                won += weights[i] * weights[j] * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
                pairs += weights[i] * weights[j]
    return won / pairs if pairs else np.nan


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_concordance_is_its_definition(seed, precision):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 70))
    times = rng.integers(1, 4 + 10 * seed, n).astype(float)
    events, weights, strata = rng.random(n) < 0.6, rng.random(n) + 0.1, rng.integers(0, 1 + seed % 3, n)
    scores = rng.standard_normal((3, n)).astype(precision)
    scores[1] = np.round(scores[1])  # ties
    order = order_of(times, events)
    ours = concordance(scores, np.broadcast_to(order, scores.shape), weights, strata)
    wanted = [by_pairs(row, times, events, weights, strata) for row in scores]
    np.testing.assert_allclose(ours, wanted, atol=1e-12)
    samples = rng.poisson(1.0, (4, n)) * weights
    np.testing.assert_allclose(
        Concordance(scores[1], order, strata)(samples),
        [by_pairs(scores[1], times, events, w, strata) for w in samples],
        atol=1e-12,
    )


def test_no_event_before_anybody_was_last_seen_is_nan():
    order = order_of(np.array([1.0, 2.0, 3.0]), np.array([False, False, True]))
    assert np.isnan(concordance(np.ones((1, 3)), order[None], np.ones(3), np.zeros(3, np.int64))[0])


def test_martingale_residuals_sum_to_what_the_log_rank_test_sums():
    rng = np.random.default_rng(0)
    times, events, group = rng.integers(1, 30, 200).astype(float), rng.random(200) < 0.5, rng.random(200) < 0.4
    found = martingale_residuals(times, events, np.ones(200))
    assert abs(found.sum()) < 1e-9
    sides = [CensoredData.right_censored(times[s], ~events[s]) for s in (group, ~group)]
    excess = found[group].sum()
    assert np.sign(excess) == np.sign(logrank(*sides).statistic)
    # observed minus expected of the group, event time by event time
    expected = sum(
        (times[events] == t).sum() * (group & (times >= t)).sum() / (times >= t).sum() for t in np.unique(times[events])
    )
    assert excess == pytest.approx(events[group].sum() - expected)


def test_martingale_residuals_count_patients_not_images():
    times, events = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    repeated = np.array([0, 1, 1, 1, 2])
    alone = martingale_residuals(times, events, np.ones(3))
    weights = np.array([1, 1 / 3, 1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(martingale_residuals(times[repeated], events[repeated], weights), alone[repeated])
