"""Two sets of vectors of the same images: what one of them no longer tells, with an interval that covers."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.inference.paired_comparison import Change, compare
from pellucid.probes.inference.statistic import Target


def changed(seed: int, before: float, after: float, n: int = 100) -> Change:
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), rng.integers(1, 5, n))
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, 12))[ids] + 0.5 * rng.normal(size=(len(ids), 12))
    other = x + 0.1 * rng.normal(size=x.shape)
    x[:, 0] += before * y[ids]
    other[:, 0] += after * y[ids]
    return compare(x, other, Target(y[ids], 2), Patients(ids, n), bootstrap=200, seed=seed)


def test_what_is_gone_is_seen() -> None:
    found = changed(0, 3.0, 0.0)
    assert found.before > 0.9
    assert found.after < 0.65
    assert found.ci_high < -0.2


@pytest.mark.long
def test_no_change_is_not_claimed_and_the_interval_is_paired() -> None:
    found = [changed(seed, 1.5, 1.5) for seed in range(20)]
    assert np.mean([f.ci_low <= 0 <= f.ci_high for f in found]) >= 0.9
    assert np.mean([f.ci_high - f.ci_low for f in found]) < 0.1, "what is common to both cancels"


@pytest.mark.long
def test_the_interval_covers_a_change() -> None:
    found = [changed(seed, 2.0, 1.2) for seed in range(30)]
    centre = np.mean([f.change for f in found])
    assert centre < -0.05
    assert np.mean([f.ci_low <= centre <= f.ci_high for f in found]) >= 0.85


def test_too_few_patients() -> None:
    assert np.isnan(changed(0, 1.0, 1.0, n=12).change)
