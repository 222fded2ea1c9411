"""One probe of one variable, whole: estimate, interval, permutation p and detectable effect from one statistic.

Between the factorised probe (`probes.linear`) and the questions of the audit (`probes.audit`). With strata it
answers the conditional question "what can be read beyond the stratum?".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t as student_t

from probes import metrics
from probes.linear import FoldedRidge
from probes.patients import IntArray, PatientPermutations, Patients, bootstrap_counts, deal_folds
from probes.variables import MIN_PATIENTS

CHUNK_CELLS = 4_000_000  # rows × targets held at once
N_RANK_STRATA = 5  # a ranked variable is dealt to folds by fifths of its patient means


@dataclass(frozen=True)
class Target:
    """What is to be read off: level codes (0 … n_levels-1), or numbers (n_levels 0)."""

    data: NDArray[np.generic]  # (n,)
    n_levels: int

    @property
    def metric(self) -> str:
        if self.n_levels == 0:
            return "spearman"
        return "auroc" if self.n_levels == 2 else "macro_auroc"

    @property
    def chance(self) -> float:
        return 0.0 if self.n_levels == 0 else 0.5


@dataclass(frozen=True)
class Estimate:
    """Result of `probe`; `refusal` says why there is no number (all numbers are NaN then)."""

    metric: str
    chance: float
    n_images: int
    n_patients: int
    score: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    p_value: float = float("nan")
    detectable: float = float("nan")
    null_mean: float = float("nan")
    null_sd: float = float("nan")
    n_informative: int = 0
    refusal: str = ""
    oof: NDArray[np.floating] | None = None  # (columns, n) out-of-fold scores of the observed target
    null: NDArray[np.float64] | None = None  # (permutations,)


@dataclass(frozen=True)
class _Statistic:
    """The rank statistic of a target: one column per level that is compared (one for binary and ranked)."""

    target: Target
    columns: IntArray  # levels scored one against the rest
    weights: NDArray[np.float64]
    strata: IntArray
    ranks: NDArray[np.float64]  # (n,) of a ranked target, else empty

    def targets(self, source: IntArray) -> NDArray[np.float32]:
        """Fit targets (c * columns, n) of the permuted variable; source (c, n) row numbers."""
        if self.target.n_levels == 0:
            return self.ranks.astype(np.float32)[source]
        levels = np.asarray(self.target.data)[source]
        hot = (levels[:, None, :] == self.columns[:, None]).astype(np.float32)
        return hot.reshape(-1, levels.shape[1])

    def __call__(self, scores: NDArray[np.floating], targets: NDArray[np.floating]) -> NDArray[np.float64]:
        """(c,) from scores and targets (c * columns, n)."""
        if self.target.n_levels == 0:
            return metrics.spearman(scores, targets, self.weights, self.strata)
        each = metrics.auroc(scores, targets > 0.5, self.weights, self.strata)
        return np.asarray(each.reshape(-1, len(self.columns)).mean(axis=1))

    def resampled(self, scores: NDArray[np.floating], row_counts: NDArray[np.floating]) -> NDArray[np.float64]:
        """The statistic of the observed scores (columns, n) under resampled patients, (samples,)."""
        weights = row_counts * self.weights
        if self.target.n_levels == 0:
            return metrics.BootstrapSpearman(scores[0], self.ranks, self.strata)(weights)
        data = np.asarray(self.target.data)
        each = [
            metrics.BootstrapAuroc(s, data == level, self.strata)(weights)
            for s, level in zip(scores, self.columns, strict=True)
        ]
        return np.asarray(np.mean(each, axis=0))


def informative_levels(
    target: Target, patients: Patients, strata: IntArray
) -> tuple[list[int], int]:
    """Levels that can be compared within strata, and the patients of the scarcest side of the best level.

    A level counts if, over the strata that hold both it and others, each side has at least MIN_PATIENTS patients.
    """
    data = np.asarray(target.data)
    informative, best = [], 0
    for level in range(target.n_levels):
        sides = [0, 0]
        for stratum in np.unique(strata):
            inside = strata == stratum
            here = [patients.count(inside & (data == level)), patients.count(inside & (data != level))]
            if min(here) > 0:
                sides = [a + b for a, b in zip(sides, here, strict=True)]
        best = max(best, min(sides))
        if min(sides) >= MIN_PATIENTS:
            informative.append(level)
    return informative, best


def probe(
    vectors: NDArray[np.floating],  # (n, d)
    target: Target,
    patients: Patients,
    *,
    strata: IntArray | None = None,  # (n,) 0 … s-1; None for the unconditional question
    permutations: int = 999,
    folds: int = 5,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Estimate:
    """How well the target can be read off the vectors of unseen patients, beyond the strata if there are any.

    Unconditional: folds stratified by the target, permutations of patients within folds. Conditional: folds
    stratified by the strata and blind to the target, permutations of patients within strata. Either way the
    folds are as likely under the permuted target as under the observed one, so the test is exact.
    p is one-sided (large scores are evidence): (1 + #{null ≥ observed}) / (1 + permutations).
    """
    n = len(patients)
    if strata is None:
        strata = np.zeros(n, dtype=np.int64)
        conditional = False
    else:
        conditional = True
    levels, scarcest = informative_levels(target, patients, strata)
    blank = Estimate(target.metric, target.chance, n, patients.n_patients, n_informative=scarcest)
    if target.n_levels and not levels:
        return Estimate(**{**blank.__dict__, "refusal": f"too few patients ({scarcest}; {MIN_PATIENTS} needed)"})
    rng_folds, rng_bootstrap = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    weights = patients.weights
    label = strata if conditional else fold_label(target, patients)
    patient_folds = deal_folds(patients.typical(label), folds, rng_folds)
    ridge = FoldedRidge(vectors, weights, patient_folds[patients.codes], strata)
    columns = np.array([1] if target.n_levels == 2 else levels, dtype=np.int64)
    ranks = np.zeros(0)
    if target.n_levels == 0:
        ranks = metrics.ridits(np.asarray(target.data, dtype=np.float64)[None], weights, strata)[0]
    statistic = _Statistic(target, columns, weights, strata, ranks)
    block = np.zeros(patients.n_patients, dtype=np.int64) if conditional else patient_folds
    plan = PatientPermutations.plan(patients, target.data, block, strata)
    fit = statistic.targets(np.arange(n)[None])
    observed_scores = ridge.scores(fit)
    observed = float(statistic(observed_scores, fit)[0])
    null = np.empty(permutations)
    chunk = int(np.clip(CHUNK_CELLS // (n * len(columns)), 1, 256))
    done = 0
    for source in plan.draw(permutations, seed, chunk):
        fit = statistic.targets(source)
        null[done : done + len(source)] = statistic(ridge.scores(fit), fit)
        done += len(source)
    counts = bootstrap_counts(patients.n_patients, bootstrap, rng_bootstrap)
    ci_low, ci_high = interval(statistic, observed, observed_scores, counts, patients)
    return Estimate(
        target.metric,
        target.chance,
        n,
        patients.n_patients,
        observed,
        ci_low,
        ci_high,
        p_value=float((1 + (null >= observed - 1e-9).sum()) / (1 + permutations)),
        detectable=float(np.quantile(null, 0.95) + 0.8416 * null.std()),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        n_informative=scarcest,
        oof=observed_scores,
        null=null,
    )


def fold_label(target: Target, patients: Patients) -> IntArray:
    """What folds are stratified by, per row: the level, or the fifth in which the patient's mean lies."""
    if target.n_levels:
        return np.asarray(target.data, dtype=np.int64)
    data = np.asarray(target.data, dtype=np.float64)
    means = np.bincount(patients.codes, weights=data) / patients.sizes
    edges = np.quantile(means, np.linspace(0, 1, N_RANK_STRATA + 1)[1:-1])
    return np.searchsorted(edges, means, side="right")[patients.codes].astype(np.int64)


def interval(
    statistic: _Statistic,
    observed: float,
    scores: NDArray[np.floating],
    counts: NDArray[np.float32],
    patients: Patients,
) -> tuple[float, float]:
    samples = []
    chunk = max(1, CHUNK_CELLS // len(patients))
    for first in range(0, len(counts), chunk):
        samples.append(statistic.resampled(scores, counts[first : first + chunk][:, patients.codes]))
    draws = np.concatenate(samples)
    draws = draws[np.isfinite(draws)]
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))
