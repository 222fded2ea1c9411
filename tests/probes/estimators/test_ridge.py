"""The factorised probe equals refitting from scratch, and scikit-learn's ridge."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics.patient_resampling import PatientPermutations, Patients, deal_folds
from pellucid.probes.estimators.ridge import FoldedRidge, fitted_probe, fold_probes


def cohort(n_patients=50, dim=12, seed=0, n_strata=1):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_patients), rng.integers(1, 5, n_patients))
    patients = Patients(codes, n_patients)
    vectors = rng.standard_normal((len(codes), dim)) * np.geomspace(3, 0.01, dim) + 5
    label = rng.integers(0, 2, n_patients)
    folds = deal_folds(label, 5, rng)[codes]
    strata = rng.integers(0, n_strata, n_patients)[codes]
    return patients, vectors, label[codes], folds, strata


def refit(vectors, weights, folds, strata, target):
    """One target, each fold fitted anew with plain linear algebra: the definition of the probe."""
    out = np.empty(len(target))
    for fold in range(5):
        train, test = folds != fold, folds == fold
        w, total = weights[train], weights[train].sum()
        levels = np.unique(strata[train])
        means = {
            s: np.average(vectors[train & (strata == s)], axis=0, weights=weights[train & (strata == s)])
            for s in levels
        }
        centres = {s: np.average(target[train & (strata == s)], weights=weights[train & (strata == s)]) for s in levels}
        x = vectors[train] - np.array([means[s] for s in strata[train]])
        t = target[train] - np.array([centres[s] for s in strata[train]])
        x_test = vectors[test] - np.array([means[s] for s in strata[test]])
        deviation = np.sqrt((w[:, None] * x**2).sum(axis=0) / total)
        x, x_test = x / deviation, x_test / deviation
        gram = (x * w[:, None]).T @ x / total
        eigenvalues = np.linalg.svd(x * np.sqrt(w / total)[:, None], compute_uv=False) ** 2
        eigenvalues = eigenvalues[eigenvalues > 1e-9 * eigenvalues.max()]
        top = max(min(0.95 * len(eigenvalues), 0.8 * 0.9 * (total - len(levels))), 0.5)
        best = None
        for dof in np.geomspace(min(1.0, 0.5 * top), top, 12):
            low, high = -30.0, 30.0
            for _ in range(80):
                middle = (low + high) / 2
                low, high = (
                    (middle, high) if (eigenvalues / (eigenvalues + np.exp(middle))).sum() > dof else (low, middle)
                )
            penalty = np.exp((low + high) / 2)
            slope = np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ (w * t) / total)
            error = (w * (t - x @ slope) ** 2).sum() / total
            error /= (1 - min((dof + len(levels)) / total, 0.99)) ** 2
            if best is None or error < best[0]:
                best = (error, slope)
        fitted = x @ best[1]
        out[test] = x_test @ best[1] / np.sqrt((w * fitted**2).sum() / total)
    return out


@pytest.mark.parametrize(("dim", "n_strata"), [(12, 1), (12, 3), (120, 1), (120, 2)])
def test_one_factorisation_serves_every_permuted_target_as_refitting_would(dim, n_strata):
    patients, vectors, label, folds, strata = cohort(dim=dim, n_strata=n_strata)
    ridge = FoldedRidge(vectors, patients.weights, folds, strata, dtype=np.float64)
    zeros = np.zeros(len(label), dtype=np.int64)
    plan = PatientPermutations.plan(patients, label, zeros[: patients.n_patients], zeros)
    source = np.vstack([np.arange(len(label)), next(iter(plan.draw(4, seed=0, chunk=4)))])
    targets = label[source].astype(float)
    fast = ridge.scores(targets)
    with threadpool_limits(1, user_api="blas"):
        slow = [refit(vectors, patients.weights, folds, strata, target) for target in targets]
    np.testing.assert_allclose(fast, slow, atol=1e-7)


def test_the_probe_is_scikit_learns_ridge_at_the_penalty_chosen():
    patients, vectors, label, folds, strata = cohort()
    ridge = FoldedRidge(vectors, patients.weights, folds, strata, dtype=np.float64)
    target = label[None].astype(float)
    predicted = ridge.scores(target, standardise=False)[0]
    for fold, (factor, direction) in enumerate(zip(ridge.factors, ridge.directions(target), strict=True)):
        train, test = folds != fold, folds == fold
        weights = patients.weights[train]
        mean = np.average(vectors[train], axis=0, weights=weights)
        model = Ridge(alpha=direction.penalty[0] * weights.sum(), solver="cholesky")
        model.fit((vectors[train] - mean) * factor.scale, label[train], sample_weight=weights)
        theirs = model.predict((vectors[test] - mean) * factor.scale) - np.average(label[train], weights=weights)
        np.testing.assert_allclose(predicted[test], theirs, atol=1e-8)


def test_single_precision_agrees_with_double():
    patients, vectors, label, folds, strata = cohort(n_patients=200, dim=32)
    target = label[None].astype(float)
    double = FoldedRidge(vectors, patients.weights, folds, strata, dtype=np.float64).scores(target)
    single = FoldedRidge(vectors, patients.weights, folds, strata).scores(target.astype(np.float32))
    np.testing.assert_allclose(single, double, atol=1e-4)


@pytest.mark.parametrize("dim", [8, 200])
def test_what_only_differs_between_strata_is_not_read(dim):
    patients, vectors, _, folds, strata = cohort(n_patients=100, dim=dim, n_strata=2)
    shifted = vectors + 100.0 * strata[:, None]
    target = np.random.default_rng(0).standard_normal((1, len(strata)))
    plain = FoldedRidge(vectors, patients.weights, folds, strata, dtype=np.float64).scores(target)
    moved = FoldedRidge(shifted, patients.weights, folds, strata, dtype=np.float64).scores(target)
    np.testing.assert_allclose(moved, plain, atol=1e-5)


def test_test_patients_do_not_reach_the_fit():
    """Whatever happens to the vectors of one fold, the scores' direction there stays what the others said."""
    patients, vectors, label, folds, strata = cohort(n_patients=80)
    ridge = FoldedRidge(vectors, patients.weights, folds, strata, dtype=np.float64)
    spoiled = vectors.copy()
    spoiled[folds == 0] *= 1000
    again = FoldedRidge(spoiled, patients.weights, folds, strata, dtype=np.float64)
    for name in ("scale", "eigenvalues", "penalties"):
        np.testing.assert_allclose(getattr(ridge.factors[0], name), getattr(again.factors[0], name), rtol=1e-5)
    target = label[None].astype(float)
    np.testing.assert_allclose(
        np.abs(ridge.directions(target)[0].coefficients), np.abs(again.directions(target)[0].coefficients), rtol=1e-5
    )


def test_a_dimension_that_never_varies_does_no_harm():
    patients, vectors, label, folds, strata = cohort()
    with_constant = np.column_stack([vectors, np.full(len(vectors), 7.0)])
    target = label[None].astype(float)
    plain = FoldedRidge(vectors, patients.weights, folds, strata, dtype=np.float64).scores(target)
    np.testing.assert_allclose(
        FoldedRidge(with_constant, patients.weights, folds, strata, dtype=np.float64).scores(target), plain, atol=1e-9
    )


@pytest.mark.parametrize("dim", [8, 300])
@pytest.mark.parametrize("unit", [2.0**20, 1e6, 1e-7])
def test_the_unit_of_a_dimension_changes_nothing(dim, unit):
    """A feature in cubic micrometres beside others in cubic millimetres must not hide them."""
    patients, vectors, label, folds, strata = cohort(n_patients=80, dim=dim)
    other = vectors.copy()
    other[:, 2] = (other[:, 2] - 5) * unit
    target = label[None].astype(float)
    ridges = [FoldedRidge(v, patients.weights, folds, strata, np.float64) for v in (vectors, other)]
    expected, found = (ridge.scores(target) for ridge in ridges)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for penalty in (None, 2.0):
        slope, offset, _ = fitted_probe(vectors, patients.weights, target, penalty)
        slope_there, offset_there, _ = fitted_probe(other, patients.weights, target, penalty)
        np.testing.assert_allclose(other @ slope_there[0] + offset_there, vectors @ slope[0] + offset, atol=1e-3)
    probes, others = (fold_probes(v, patients.weights, target, folds, 5) for v in (vectors, other))
    for (slope, offset, _), (slope_there, offset_there, _) in zip(probes, others, strict=True):
        np.testing.assert_allclose(other @ slope_there[0] + offset_there, vectors @ slope[0] + offset, atol=1e-6)
