"""What a remedy removes and costs: the factor is removed from the vectors, or its association from the training set.

Everything is fitted on training patients and tested on the others, linearly and by kNN: a linear erasure may hide from
a linear probe what neighbours still show. `none` is scored in the same folds for comparison.

- [0]: `pellucid.probes.erasure.erasers` for LEACE, residuals and ComBat
- [1]: Kamiran & Calders, Data preprocessing techniques for classification without discrimination, 2012, section 5.3:
  reweighing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics import IntArray, Patients, bootstrap_counts, deal_folds, drawn_evenly
from pellucid.probes.erasure.erasers import FITS, NAMES, has_combat
from pellucid.probes.estimators.knn import knn_votes
from pellucid.probes.estimators.ridge import fitted_probe
from pellucid.probes.inference.confidence_interval import Scored, interval
from pellucid.probes.inference.statistic import Statistic, Target, comparable_events, fold_label, informative_levels
from pellucid.probes.inputs.variables import MIN_PATIENTS

MOST_IMAGES = 3_000
_FOLDS = 5
_BOOTSTRAP = 200


@dataclass(frozen=True)
class RemedyResult:
    """Scores of both variables after one remedy; empty if the remedy does not change them, or there is no number.

    Attributes:
        name: none, leace, residual, combat, reweighted or matched.
        acquisition, clinical: {"linear": …, "knn": …} score and 95 % interval.
        note: why the remedy was left out.
    """

    name: str
    acquisition: dict[str, Scored]
    clinical: dict[str, Scored]
    note: str = ""


@dataclass(frozen=True)
class _Judged:
    """One of the two variables with its statistic and the standard error due to the training patients."""

    statistic: Statistic
    fit: NDArray[np.float64]  # (c, n)
    refitted: float


def remedies(
    vectors: NDArray[np.floating],
    clinical: Target,
    acquisition: Target,
    patients: Patients,
    errors: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> list[RemedyResult]:
    """Every remedy for one pair.

    Args:
        vectors: (n, d).
        errors: standard errors of refitting of the clinical and the acquisition probe (`Estimate.refitted`), times the
            root of the number of patients of each; the interval of a probe after a remedy uses them, rescaled to its
            number of patients.
    """
    rng = np.random.default_rng([seed, 5])
    rows = enough_of_each((clinical, acquisition), patients)
    if rows is None:
        return [RemedyResult("none", {}, {}, f"left out: under {MIN_PATIENTS} patients with both in a class")]
    drawn = np.zeros(len(patients), dtype=bool)
    drawn[np.flatnonzero(rows)[drawn_evenly(patients.subset(rows), MOST_IMAGES, rng)]] = True
    rows = enough_of_each((clinical, acquisition), patients, drawn)
    if rows is None:
        return [RemedyResult("none", {}, {}, f"left out: under {MIN_PATIENTS} patients with both in a class")]
    kept = np.flatnonzero(rows)
    part = np.asarray(vectors[kept], dtype=np.float64)
    inside = patients.subset(rows)
    y, z = (recoded(t, rows) for t in (clinical, acquisition))
    asked = [
        _judged_variable(t, inside, error / float(np.sqrt(inside.n_patients)))
        for t, error in zip((y, z), errors, strict=True)
    ]
    cell = fold_label(y, inside) * (int(fold_label(z, inside).max()) + 1) + fold_label(z, inside)
    folds = deal_folds(np.unique(inside.typical(cell), return_inverse=True)[1], _FOLDS, rng)[inside.codes]
    counts = bootstrap_counts(inside.n_patients, _BOOTSTRAP, rng)
    factor = (
        np.eye(z.n_levels)[np.asarray(z.data, dtype=np.int64)] if z.n_levels else np.asarray(z.data, float)[:, None]
    )
    found = []
    with threadpool_limits(1, user_api="blas"):
        for name in ("none", *FITS):
            if name == "combat" and (not z.n_levels or not has_combat()):
                why = "a numeric factor has no levels" if not z.n_levels else "install pellucid[combat]"
                found.append(RemedyResult(name, {}, {}, f"left out: {why}"))
                continue
            try:
                scores = _scores(name, part, factor, asked, inside, folds)
            except (ValueError, np.linalg.LinAlgError) as error:
                found.append(RemedyResult(name, {}, {}, f"left out: {error}"))
                continue
            both = [
                {probe: _judged(variable, s, inside, counts) for probe, s in by_probe.items()}
                for variable, by_probe in zip(asked, scores, strict=True)
            ]
            found.append(RemedyResult(name, both[1], both[0]))
        if y.n_levels and z.n_levels:
            found += [
                _by_cohort(name, part, y, z, asked[0], inside, folds, counts, rng) for name in ("reweighted", "matched")
            ]
    return found


def enough_of_each(
    targets: Sequence[Target], patients: Patients, among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_] | None:
    """(n,) the rows whose levels, of both variables, have at least ten patients; None if there are too few rows.

    Restricted to rows that have both variables, a level may have too few patients.
    """
    rows = np.ones(len(patients), dtype=bool) if among is None else among.copy()
    for _ in range(5):  # leaving out a level of one may make a level of the other rare
        before = int(rows.sum())
        if before == 0:
            return None
        for target in targets:
            if target.is_time and comparable_events(target, patients, rows) < MIN_PATIENTS:
                return None
            if not target.n_levels:
                continue
            data = np.asarray(target.data, dtype=np.int64)
            having = [patients.count(rows & (data == level)) for level in range(target.n_levels)]
            rows &= np.isin(data, [level for level, n in enumerate(having) if n >= MIN_PATIENTS])
        if int(rows.sum()) == before:
            break
    if not rows.any() or patients.count(rows) < 2 * MIN_PATIENTS:
        return None
    return None if any(len(np.unique(np.asarray(t.data)[rows])) < 2 for t in targets) else rows


def recoded(target: Target, rows: NDArray[np.bool_]) -> Target:
    """The target of some rows, its levels numbered without gaps."""
    if not target.n_levels:
        return target.take(rows)
    present, codes = np.unique(np.asarray(target.data)[rows], return_inverse=True)
    return Target(codes.astype(np.int64), len(present))


def _judged_variable(target: Target, patients: Patients, refitted: float) -> _Judged:
    scarcest = informative_levels(target, patients, np.zeros(len(patients), dtype=np.int64))[1]
    statistic = Statistic.from_target(target, patients, target.columns(), scarcest=max(scarcest, 1))
    return _Judged(statistic, statistic.targets(np.arange(len(patients))[None]).astype(np.float64), refitted)


def _judged(asked: _Judged, scores: NDArray[np.float64], patients: Patients, counts: NDArray[np.float32]) -> Scored:
    score = asked.statistic.observed(scores)
    return score, *interval(asked.statistic, score, scores, patients, counts, asked.refitted)


def _scores(
    name: str,
    vectors: NDArray[np.float64],
    factor: NDArray[np.float64],
    asked: Sequence[_Judged],
    patients: Patients,
    folds: IntArray,
) -> list[dict[str, NDArray[np.float64]]]:
    """Out-of-fold scores {"linear", "knn"} of the clinical variable and of the factor after one remedy."""
    out: list[dict[str, Any]] = [{"linear": np.zeros(a.fit.shape), "knn": np.zeros(a.fit.shape)} for a in asked]
    fit = np.vstack([a.fit for a in asked])
    for fold in range(_FOLDS):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        weights = patients.weights[train]
        changed = vectors
        if name != "none":
            erase = FITS[name](vectors[train], factor[train], weights)
            changed = np.empty_like(vectors)
            for rows in (train, test):
                changed[rows] = erase(vectors[rows], factor[rows])
        votes = knn_votes(changed, fit, patients.codes, patients.weights, test, train)
        slope, offset, _ = fitted_probe(changed[train], weights, fit[:, train])
        linear = slope @ changed[test].T + offset[:, None]
        first = 0
        for variable, scores in zip(asked, out, strict=True):
            its = slice(first, first + len(variable.fit))
            scores["linear"][:, test], scores["knn"][:, test] = linear[its], votes[its]
            first = its.stop
    return out


def _by_cohort(
    name: str,
    vectors: NDArray[np.float64],
    clinical: Target,
    acquisition: Target,
    asked: _Judged,
    patients: Patients,
    folds: IntArray,
    counts: NDArray[np.float32],
    rng: np.random.Generator,
) -> RemedyResult:
    """Unchanged vectors; a cohort in which the clinical variable is not associated with the factor, for training and
    test.

    Reweighted: a patient weighs P(y) P(z) / P(y, z) [1]. Matched: equally many patients of each class from each level,
    drawn at random.
    """
    y = patients.typical(np.asarray(clinical.data, dtype=np.int64))
    z = patients.typical(np.asarray(acquisition.data, dtype=np.int64))
    table = np.zeros((clinical.n_levels, acquisition.n_levels))
    np.add.at(table, (y, z), 1.0)
    whole = (table > 0).all(axis=0)  # levels of the factor that have every class
    if whole.sum() < 2:
        return RemedyResult(name, {}, {}, "left out: fewer than two levels have patients of every class")
    table[:, ~whole] = 0.0
    if name == "reweighted":
        independent = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        of_patient = np.divide(independent, table, out=np.zeros_like(table), where=table > 0)[y, z]
    else:
        of_patient = np.zeros(patients.n_patients)
        for level in np.flatnonzero(whole):
            size = int(table[:, level].min())
            for value in range(clinical.n_levels):
                members = np.flatnonzero((y == value) & (z == level))
                of_patient[rng.permutation(members)[:size]] = 1.0
    weights = of_patient[patients.codes] * patients.weights
    scores = np.zeros(asked.fit.shape)
    votes = np.zeros(asked.fit.shape)
    for fold in range(_FOLDS):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero((folds != fold) & (weights > 0))
        if len(np.unique(y[patients.codes[train]])) < clinical.n_levels:
            return RemedyResult(name, {}, {}, "left out: too few training patients of one class")
        slope, offset, _ = fitted_probe(vectors[train], weights[train], asked.fit[:, train])
        scores[:, test] = slope @ vectors[test].T + offset[:, None]
        votes[:, test] = knn_votes(vectors, asked.fit, patients.codes, weights, test, train, of_patient=of_patient)
    s = asked.statistic
    effective = _kish(of_patient)
    scarcest = max(1, int(min(_kish(of_patient[y == value]) for value in range(clinical.n_levels))))
    within = Statistic(s.target, s.columns, weights, s.strata, s.ranks, scarcest)
    judged = _Judged(within, asked.fit, asked.refitted * float(np.sqrt(patients.n_patients / effective)))
    return RemedyResult(
        name, {}, {"linear": _judged(judged, scores, patients, counts), "knn": _judged(judged, votes, patients, counts)}
    )


def _kish(weights: NDArray[np.float64]) -> float:
    """Effective number of patients (Kish 1965)."""
    return float(weights.sum() ** 2 / max(float((weights**2).sum()), 1e-12))


def remedy_sentence(outcome: RemedyResult, before: RemedyResult, clinical: str, acquisition: str) -> str:
    """ "LEACE: device down from 0.98 to 0.55, diagnosis from 0.84 to 0.71 (linear); kNN …"."""
    label = {**NAMES, "reweighted": "Reweighting", "matched": "Matching"}[outcome.name]
    if outcome.note:
        return f"{label}: {outcome.note}."
    parts = []
    for probe in ("linear", "knn"):
        changes = [
            f"{name} from {was[probe][0]:.2f} to {now[probe][0]:.2f}"
            for name, was, now in ((acquisition, before.acquisition, outcome.acquisition),
                                   (clinical, before.clinical, outcome.clinical))
            if probe in was and probe in now
        ]  # fmt: skip
        parts.append(f"{'linearly' if probe == 'linear' else 'by neighbours'} {', '.join(changes)}")
    return f"{label}: {'; '.join(parts)}."
