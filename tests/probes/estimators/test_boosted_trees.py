"""Trees see what no line can, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.inference.estimate import Estimate, probe
from pellucid.probes.inference.statistic import Target


def crossed(signal: bool, seed: int = 0, n: int = 240) -> Estimate:
    """The label is the sign of a product: each direction alone tells nothing of it."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), 2)
    x = rng.normal(size=(n, 4))
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64) if signal else rng.permutation(np.arange(n) % 2)
    vectors = x[ids] + 0.1 * rng.normal(size=(2 * n, 4))
    target = Target(y[ids], 2)
    return probe(vectors, target, Patients(ids, n), permutations=19, bootstrap=50, seed=seed, others=("nonlinear",))


@pytest.mark.long
def test_a_crossed_pattern_is_seen_by_trees_alone() -> None:
    found = crossed(True)
    assert found.score < 0.65
    score, low, high = found.secondary["nonlinear"]
    assert 0.8 < low < score < high


@pytest.mark.long
def test_no_signal_is_chance() -> None:
    scores = [crossed(False, seed, 160).secondary["nonlinear"][0] for seed in range(3)]
    assert abs(np.mean(scores) - 0.5) < 0.1


def test_numbers_too() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    age = np.abs(x[:, 0])
    found = probe(
        x, Target(age, 0), Patients(np.arange(300), 300), permutations=19, bootstrap=50, others=("nonlinear",)
    )
    assert abs(found.score) < 0.3
    assert found.secondary["nonlinear"][0] > 0.8
