"""Taking the factor out: exact where the theory says so, by the library where there is one, and what it costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pellucid.cohort.statistics.patient_resampling import Patients
from pellucid.probes.audit import audit
from pellucid.probes.erasure.erasers import fit_combat, fit_leace, fit_residual
from pellucid.probes.inference.statistic import Target
from pellucid.probes.questions.remedies import remedies, remedy_sentence


def cohort(seed: int = 0, n: int = 150, confounding: float = 0.5) -> tuple[NDArray[np.float64], ...]:
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n), rng.integers(1, 5, n))
    z = rng.integers(0, 2, n)
    y = np.where(rng.random(n) < confounding, z, rng.integers(0, 2, n))
    x = rng.normal(size=(n, 10))[ids] + 0.5 * rng.normal(size=(len(ids), 10))
    x[:, 0] += 3 * y[ids]
    x[:, 1] += 4 * z[ids] + y[ids]
    return x, y[ids], z[ids], ids


def test_leace_leaves_no_covariance_and_moves_as_little_as_can_be() -> None:
    x, _, z, ids = cohort()
    weights = 1 / np.bincount(ids)[ids]
    factor = np.eye(2)[z]
    erased = fit_leace(x, factor, weights)(x, factor)
    share = weights / weights.sum()
    covariance = (erased - share @ erased).T @ ((factor - share @ factor) * share[:, None])
    np.testing.assert_allclose(covariance, 0, atol=1e-9)
    np.testing.assert_allclose(share @ erased, share @ x, atol=1e-9)
    along = (x - share @ x).T @ ((z - share @ z) * share)
    along /= np.linalg.norm(along)
    projected = x - np.outer((x - share @ x) @ along, along)  # hides the factor as well, by more than is needed
    white = np.linalg.inv(np.cov(x.T, aweights=weights))

    def moved(other: NDArray[np.float64]) -> float:
        away = other - x
        return float(np.einsum("nd,de,ne,n->", away, white, away, share))

    assert moved(erased) < moved(projected), "by the Mahalanobis length of the change, which LEACE minimises"
    again = fit_leace(erased, factor, weights)(erased, factor)
    np.testing.assert_allclose(again, erased, atol=1e-6)


def test_leace_with_more_dimensions_than_images() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(20, 60)), np.arange(20) % 2
    factor = np.eye(2)[z]
    erased = fit_leace(x, factor, np.ones(20))(x, factor)
    np.testing.assert_allclose(erased[z == 0].mean(axis=0), erased[z == 1].mean(axis=0), atol=1e-9)


def test_residuals_are_those_of_least_squares() -> None:
    x, _, z, ids = cohort(1)
    weights = 1 / np.bincount(ids)[ids]
    left = fit_residual(x, np.eye(2)[z], weights)(x, np.eye(2)[z])
    for level in (0, 1):
        inside = z == level
        np.testing.assert_allclose(
            np.average(left[inside], axis=0, weights=weights[inside]), np.average(x, axis=0, weights=weights), atol=1e-9
        )


def test_combat_fitted_on_some_and_applied_to_others() -> None:
    pytest.importorskip("combatlearn", reason="the extra `combat` is not installed")
    x, _, z, _ = cohort(2)
    x = x.copy()
    x[z == 1] *= 1.5
    factor = np.eye(2)[z]
    half = np.arange(len(x)) % 2 == 0
    erase = fit_combat(x[half], factor[half], np.ones(half.sum()))
    new = erase(x[~half], factor[~half])
    for what in (np.mean, np.std):
        before = np.abs(what(x[~half][z[~half] == 1], axis=0) - what(x[~half][z[~half] == 0], axis=0)).mean()
        after = np.abs(what(new[z[~half] == 1], axis=0) - what(new[z[~half] == 0], axis=0)).mean()
        assert after < 0.5 * before
    np.testing.assert_allclose(new[:7], erase(x[~half][:7], factor[~half][:7]), atol=1e-8)


def test_what_each_remedy_costs() -> None:
    x, y, z, ids = cohort(3, n=240)
    patients = Patients(ids, 240)
    found = {o.name: o for o in remedies(x.astype(np.float32), Target(y, 2), Target(z, 2), patients, seed=0)}
    assert list(found) == ["none", "leace", "residual", "combat", "reweighted", "matched"]
    before = found["none"]
    assert before.acquisition["linear"][0] > 0.95
    for name in ("leace", "residual"):
        after = found[name]
        assert 0.35 < after.acquisition["linear"][0] < 0.6
        assert after.clinical["linear"][0] > 0.75
        assert after.clinical["linear"][0] < before.clinical["linear"][0], "what came by the device is gone"
        assert after.acquisition["knn"][0] < before.acquisition["knn"][0]
    for name in ("reweighted", "matched"):
        assert found[name].acquisition == {}
        assert 0.8 < found[name].clinical["linear"][0] < before.clinical["linear"][0]
    said = remedy_sentence(found["leace"], before, "diagnosis", "device")
    assert said.startswith("LEACE: linearly device from 1.00 to 0.5")
    assert "; by neighbours device from 0.9" in said


@pytest.mark.long
def test_erasure_is_learnt_without_the_patients_it_is_judged_on() -> None:
    """Noise only, more dimensions than patients: fitted on everybody, erasure would push the factor far *below*
    chance."""
    rng = np.random.default_rng(4)
    scores = []
    for seed in range(12):
        x, z = rng.normal(size=(60, 200)), rng.permutation(np.arange(60) % 2)
        y = rng.permutation(np.arange(60) % 2)
        found = remedies(x, Target(y, 2), Target(z, 2), Patients(np.arange(60), 60), seed=seed)
        scores.append(next(o for o in found if o.name == "leace").acquisition["linear"][0])
    assert abs(np.mean(scores) - 0.5) < 0.08


def test_a_level_of_one_patient_is_left_out_before() -> None:
    x, y, z, ids = cohort(5, n=120)
    z = z.copy()
    z[ids == 0] = 2
    found = {o.name: o for o in remedies(x, Target(y, 2), Target(z, 3), Patients(ids, 120), seed=0)}
    assert found["none"].acquisition["linear"][0] > 0.95
    assert found["matched"].clinical


def test_too_few_with_both_is_a_note() -> None:
    x, y, z, ids = cohort(6, n=16)
    found = remedies(x, Target(y, 2), Target(z, 2), Patients(ids, 16), seed=0)
    assert [o.name for o in found] == ["none"]
    assert "under 10 patients" in found[0].note


@pytest.mark.long
def test_an_interval_knows_how_few_patients_have_both() -> None:
    """1,200 patients with a diagnosis, 100 of them with a device: the remedies are judged by the hundred."""
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(1200), 2)
    sick = rng.integers(0, 2, 1200)
    vectors = rng.standard_normal((2400, 24)).astype(np.float32)
    vectors[:, 0] += 0.6 * sick[codes]
    device = np.where(codes < 100, np.array(["A", "B"])[rng.integers(0, 2, 1200)[codes]], None)
    table = pd.DataFrame({"patient": codes, "sick": sick[codes], "device": device})
    options = {
        "patient": "patient",
        "clinical": ["sick"],
        "acquisition": ["device"],
        "permutations": 19,
        "bootstrap": 100,
    }
    few = codes < 100
    widths = []
    for rows in (np.ones(2400, bool), few):
        found = audit(vectors[rows], table[rows].reset_index(drop=True), **options)["pairs"][0]["remedies"][0]
        scored = found["clinical"]["linear"]
        widths.append(scored["ci_high"] - scored["ci_low"])
    assert widths[0] > 0.6 * widths[1]


def test_matching_keeps_the_rare_class_and_its_interval_stays_a_probability() -> None:
    rng = np.random.default_rng(0)
    y = np.r_[np.ones(10, np.int64), np.zeros(190, np.int64)]
    z = np.arange(200) % 2
    vectors = rng.standard_normal((200, 4))
    vectors[:, 0] += 30 * y
    found = {one.name: one for one in remedies(vectors, Target(y, 2), Target(z, 2), Patients(np.arange(200), 200))}
    score, low, high = found["matched"].clinical["linear"]
    assert 0.5 < low < score <= high <= 1
