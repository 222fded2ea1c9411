"""A change of level: worlds in which a diagnosis does and does not survive it, and controls of the same size."""

from __future__ import annotations

import numpy as np

from cohort.patients import Patients
from probes.statistic import Target
from probes.transfer import Transfer, transfer


def world(seed: int, *, flips: bool, n: int = 160, confounding: float = 0.0, levels: int = 2) -> Transfer:
    """The disease moves one direction; where it `flips`, in level 1 it moves another one."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), rng.integers(1, 5, n))
    z = np.arange(n) % levels
    y = np.where(rng.random(n) < confounding, z % 2, rng.integers(0, 2, n))
    x = rng.normal(size=(n, 16))[ids] + 0.5 * rng.normal(size=(len(ids), 16))
    x[:, 2] += 4 * z[ids]
    moved = np.where(z == 1, 1, 0) if flips else np.zeros(n, dtype=int)
    x[np.arange(len(ids)), moved[ids]] += 3.0 * y[ids]
    return transfer(x.astype(np.float32), Target(y[ids], 2), z[ids], Patients(ids, n), seed)


def test_a_sign_that_means_the_same_everywhere_survives() -> None:
    found = world(0, flips=False)
    assert found.levels == (0, 1)
    assert found.within > 0.85
    assert found.across > 0.85
    assert found.ci_low < 0 < found.ci_high


def test_a_sign_that_means_something_else_elsewhere_does_not() -> None:
    found = [world(seed, flips=True) for seed in range(6)]
    assert min(f.within for f in found) > 0.85
    assert abs(np.mean([f.across for f in found]) - 0.5) < 0.12
    assert np.mean([f.ci_low > 0 for f in found]) >= 5 / 6


def test_no_drop_is_claimed_where_there_is_none_and_the_interval_covers() -> None:
    drops = [world(seed, flips=False, n=80) for seed in range(16)]
    centre = np.mean([d.drop for d in drops])
    assert abs(centre) < 0.02, "both probes learn from as many patients: neither is better off"
    assert np.mean([d.ci_low <= centre <= d.ci_high for d in drops]) >= 13 / 16
    assert np.mean([d.ci_low > 0 for d in drops]) <= 0.1


def test_confounding_alone_is_no_drop() -> None:
    """The classes' shares differ between the levels; each class is drawn in the same number from either side."""
    assert world(3, flips=False, n=240, confounding=0.5).ci_low < 0.02


def test_three_levels_and_numbers() -> None:
    found = world(4, flips=False, n=180, levels=3)
    assert found.levels == (0, 1, 2)
    assert len(found.by_level) == 3
    rng = np.random.default_rng(5)
    ids = np.repeat(np.arange(100), 2)
    age = rng.normal(size=100)
    x = rng.normal(size=(200, 8))
    x[:, 0] += 2 * age[ids]
    ranked = transfer(x, Target(age[ids], 0), (np.arange(100) % 2)[ids], Patients(ids, 100), 0)
    assert ranked.within > 0.6
    assert ranked.ci_low < 0.1


def test_too_few_patients_is_a_sentence() -> None:
    found = world(6, flips=False, n=24)
    assert "10 patients of each class" in found.refusal
    assert np.isnan(found.drop)
