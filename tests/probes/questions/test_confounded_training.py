"""Training sets from balanced to wholly confounded: who keeps class and level apart loses little, who cannot falls to
chance."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.inference.statistic import Target
from pellucid.probes.questions.confounded_training import CONFOUNDING, PerformanceDrop, performance_drop


def cohort(seed: int, disease: float, device: float, n: int = 200) -> PerformanceDrop:
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), rng.integers(1, 5, n))
    y, z = rng.permutation(np.arange(n) % 2), np.arange(n) // 2 % 2
    x = rng.normal(size=(n, 10))[ids] + 0.5 * rng.normal(size=(len(ids), 10))
    x[:, 0] += disease * y[ids]
    x[:, 1] += device * z[ids]
    return performance_drop(x.astype(np.float32), Target(y[ids], 2), z[ids], Patients(ids, n), seed)


def test_a_strong_device_tempts_the_probe_away() -> None:
    found = cohort(0, 2.0, 6.0)
    assert len(found.scores) == len(CONFOUNDING)
    assert found.scores[0] > 0.8
    assert found.scores[-1] < 0.65, "class and level are one: the larger shift is learnt"
    assert found.ci_low > 0.05


@pytest.mark.long
def test_vectors_that_do_not_know_the_device_lose_nothing() -> None:
    found = [cohort(seed, 2.0, 0.0) for seed in range(12)]
    assert abs(np.mean([f.average_drop for f in found])) < 0.02
    assert np.mean([f.ci_low <= 0 <= f.ci_high for f in found]) >= 10 / 12


def test_every_training_set_has_the_same_size() -> None:
    found = cohort(1, 2.0, 2.0)
    assert found.n_train % 4 == 0
    assert found.n_train > 40


def test_refusals_are_sentences() -> None:
    assert "20 needed" in cohort(0, 1.0, 1.0, n=40).refusal
    rng = np.random.default_rng(0)
    three = Target(rng.integers(0, 3, 60), 3)
    x = rng.normal(size=(60, 4))
    assert "two classes" in performance_drop(x, three, rng.integers(0, 2, 60), Patients(np.arange(60), 60)).refusal
