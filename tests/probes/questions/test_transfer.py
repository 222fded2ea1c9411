"""A change of level: worlds in which a diagnosis does and does not survive it, and controls of the same size."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.inference.statistic import Target
from pellucid.probes.questions.transfer import Transfer, transfer


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


@pytest.mark.long
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


def test_a_patient_with_a_hundred_images_is_judged_as_one() -> None:
    """The sign is in the patients with many images only: weighed by all their images they would count for nothing."""
    rng = np.random.default_rng(0)
    n = 120
    many = np.arange(n) % 3 == 0
    ids = np.repeat(np.arange(n), np.where(many, 60, 1))
    y, z = rng.permutation(np.arange(n) % 2), np.arange(n) // 2 % 2
    x = rng.normal(size=(n, 8))[ids] + 0.3 * rng.normal(size=(len(ids), 8))
    x[:, 0] += 8.0 * (y * many)[ids]
    found = transfer(x.astype(np.float32), Target(y[ids], 2), z[ids], Patients(ids, n), 0)
    assert 0.58 < found.within < 0.9, "a third of the patients have the sign"


def test_a_factor_that_varies_within_patients_with_a_rare_level() -> None:
    rng = np.random.default_rng(1)
    n = 60
    ids = np.repeat(np.arange(n), 40)
    z = np.zeros(len(ids), dtype=np.int64)
    z[np.arange(0, 40 * 40, 40)] = 1  # forty patients have one image of the rare level
    y = rng.permutation(np.arange(n) % 2)
    x = rng.normal(size=(n, 6))[ids] + rng.normal(size=(len(ids), 6))
    x[:, 0] += 4 * y[ids]
    found = transfer(x, Target(y[ids], 2), z, Patients(ids, n), 0)
    assert found.refusal or 0.5 < found.within <= 1
