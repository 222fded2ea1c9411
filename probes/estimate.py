"""One probe of one variable, whole: estimate, interval, permutation p and detectable effect from one statistic.

Between the factorised probe (`probes.linear`) and the questions of the audit (`probes.audit`). With strata it
answers the conditional question "what can be read beyond the stratum?".
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from threadpoolctl import threadpool_limits

from cohort.patients import IntArray, PatientPermutations, Patients, bootstrap_counts, deal_folds
from cohort.ranks import ridits
from probes import metrics
from probes.knn import knn_scores
from probes.linear import FoldedRidge
from probes.logistic import logistic_scores
from probes.refit import CONTRASTS, N_GROUPS, half_sample_pairs
from probes.variables import MIN_PATIENTS

CHUNK_CELLS = 500_000  # rows × targets at once: what the caches hold, not what the memory holds
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
    r2: float = float("nan")  # ranked targets, unconditional: share of the variance of the raw numbers predicted
    n_informative: int = 0
    refusal: str = ""
    oof: NDArray[np.floating] | None = None  # (columns, n) out-of-fold scores of the observed target
    null: NDArray[np.float64] | None = None  # (permutations,)
    logistic: tuple[float, float, float] | None = None  # score and interval of the logistic probe, where asked for
    knn: tuple[float, float, float] | None = None  # and of the kNN probe


@dataclass(frozen=True)
class _Statistic:
    """The rank statistic of a target: one column per level that is compared (one for binary and ranked)."""

    target: Target
    columns: IntArray  # levels scored one against the rest
    weights: NDArray[np.float64]
    strata: IntArray
    ranks: NDArray[np.float64]  # (n,) of a ranked target, else empty
    scarcest: int  # patients on the scarcer side of the comparison

    def targets(self, source: IntArray) -> NDArray[np.float32]:
        """Fit targets (c * columns, n) of the permuted variable; source (c, n) row numbers."""
        if self.target.n_levels == 0:
            return np.asarray(self.ranks.astype(np.float32)[source])
        levels = np.asarray(self.target.data)[source]
        hot = (levels[:, None, :] == self.columns[:, None]).astype(np.float32)
        return np.asarray(hot.reshape(-1, levels.shape[1]), dtype=np.float32)

    def __call__(self, scores: NDArray[np.floating], targets: NDArray[np.floating]) -> NDArray[np.float64]:
        """(c,) from scores and targets (c * columns, n)."""
        if self.target.n_levels == 0:
            return metrics.spearman(scores, targets, self.weights, self.strata)
        each = metrics.auroc(scores, targets > 0.5, self.weights, self.strata)
        return np.asarray(each.reshape(-1, len(self.columns)).mean(axis=1))

    def on_half(self, scores: NDArray[np.floating], rows: NDArray[np.bool_]) -> float:
        """The statistic of some of the rows (whole patients), NaN where they hold no pair to compare."""
        weights, strata = self.weights[rows], self.strata[rows]
        if self.target.n_levels == 0:
            values = np.asarray(self.target.data, dtype=np.float64)[rows]
            ranks = ridits(values[None], weights, strata)
            return float(metrics.spearman(scores[:, rows], ranks, weights, strata)[0])
        positive = np.asarray(self.target.data)[rows] == self.columns[:, None]
        return float(metrics.auroc(scores[:, rows], positive, weights, strata).mean())

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


def permutation_null(
    ridge: FoldedRidge, statistic: _Statistic, plan: PatientPermutations, permutations: int, seed: int
) -> NDArray[np.float64]:
    """The statistic of the probe refitted to each permuted target, (permutations,), in chunks on all cores."""

    def one(source: IntArray) -> NDArray[np.float64]:
        fit = statistic.targets(source)
        return statistic(ridge.scores(fit), fit)

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chunk = int(np.clip(CHUNK_CELLS // (ridge.n * len(statistic.columns)), 1, 128))
    parts: list[NDArray[np.float64]] = []
    running: deque[Future[NDArray[np.float64]]] = deque()
    with ThreadPoolExecutor(workers) as pool:  # NumPy's sorts and products let go of the interpreter lock
        for source in plan.draw(permutations, seed, chunk):
            running.append(pool.submit(one, source))
            if len(running) > workers:
                parts.append(running.popleft().result())
        parts.extend(job.result() for job in running)
    return np.concatenate(parts)


def informative_levels(target: Target, patients: Patients, strata: IntArray) -> tuple[list[int], int]:
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
    others: bool = False,
) -> Estimate:
    """How well the target can be read off the vectors of unseen patients, beyond the strata if there are any.

    Unconditional: folds stratified by the target, permutations of patients within folds. Conditional: folds
    stratified by the strata and blind to the target, permutations of patients within strata. Either way the
    folds are as likely under the permuted target as under the observed one, so the test is exact.
    p is one-sided (large scores are evidence): (1 + #{null ≥ observed}) / (1 + permutations).
    others: also score a logistic probe (targets with levels only) and a kNN probe in the same folds (unconditional only).
    """
    # The products are many and small: BLAS threads would only get in each other's way, and in that of our own.
    with threadpool_limits(1, user_api="blas"):
        return _probe(vectors, target, patients, strata, permutations, folds, bootstrap, seed, others)


def _probe(
    vectors: NDArray[np.floating],
    target: Target,
    patients: Patients,
    strata: IntArray | None,
    permutations: int,
    folds: int,
    bootstrap: int,
    seed: int,
    others: bool,
) -> Estimate:
    n = len(patients)
    conditional = strata is not None
    if strata is None:
        strata = np.zeros(n, dtype=np.int64)
    levels, scarcest = informative_levels(target, patients, strata)
    blank = Estimate(target.metric, target.chance, n, patients.n_patients, n_informative=scarcest)
    if target.n_levels and not levels:
        return Estimate(**{**blank.__dict__, "refusal": f"too few patients ({scarcest}; {MIN_PATIENTS} needed)"})
    rng_folds, rng_bootstrap = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    weights = patients.weights
    label = strata if conditional else fold_label(target, patients)
    patient_folds = deal_folds(patients.typical(label), folds, rng_folds)
    ridge = FoldedRidge(vectors, weights, patient_folds[patients.codes], strata)
    columns = np.array({0: [0], 2: [1]}.get(target.n_levels, levels), dtype=np.int64)
    ranks = np.zeros(0)
    if target.n_levels == 0:
        ranks = ridits(np.asarray(target.data, dtype=np.float64)[None], weights, strata)[0]
    statistic = _Statistic(target, columns, weights, strata, ranks, scarcest)
    block = np.zeros(patients.n_patients, dtype=np.int64) if conditional else patient_folds
    plan = PatientPermutations.plan(patients, target.data, block, strata)
    fit = statistic.targets(np.arange(n)[None])
    observed_scores = ridge.scores(fit)
    observed = float(statistic(observed_scores, fit)[0])
    null = permutation_null(ridge, statistic, plan, permutations, seed)
    balance = patients.typical(fold_label(target, patients)) + 1000 * patient_folds
    counts = bootstrap_counts(patients.n_patients, bootstrap, rng_bootstrap)
    groups = deal_folds(balance, N_GROUPS, rng_bootstrap)[patients.codes]
    refitted = refit_error(statistic, ridge, fit, groups)
    ci_low, ci_high = interval(statistic, observed, observed_scores, patients, counts, refitted)

    def beside(scores: NDArray[np.float64]) -> tuple[float, float, float]:
        score = float(statistic(scores, fit)[0])
        return score, *interval(statistic, score, scores, patients, counts, refitted)

    logistic = knn = None
    if others and not conditional:
        dealt = patient_folds[patients.codes]
        knn = beside(knn_scores(vectors, fit, patients.codes, weights, dealt))
        if target.n_levels:
            data = np.asarray(target.data, dtype=np.int64)
            logistic = beside(logistic_scores(vectors, data, columns, patients.codes, weights, dealt))
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
        r2=float("nan") if target.n_levels or conditional else r_squared(ridge, np.asarray(target.data, np.float64)),
        n_informative=scarcest,
        oof=observed_scores,
        null=null,
        logistic=logistic,
        knn=knn,
    )


def r_squared(ridge: FoldedRidge, values: NDArray[np.float64]) -> float:
    """Out-of-fold R², patients weighing alike: 1 - squared error / squared error of the training mean. At most 1."""
    predicted = ridge.scores(values[None], standardise=False)[0].astype(np.float64)
    error = baseline = 0.0
    for rows in ridge.rows:
        others = np.setdiff1d(np.arange(len(values)), rows)
        mean = np.average(values[others], weights=ridge.weights[others])
        error += float((ridge.weights[rows] * (values[rows] - mean - predicted[rows]) ** 2).sum())
        baseline += float((ridge.weights[rows] * (values[rows] - mean) ** 2).sum())
    return 1.0 - error / baseline


def fold_label(target: Target, patients: Patients) -> IntArray:
    """What folds are stratified by, per row: the level, or the fifth in which the patient's mean lies."""
    if target.n_levels:
        return np.asarray(target.data, dtype=np.int64)
    data = np.asarray(target.data, dtype=np.float64)
    means = np.bincount(patients.codes, weights=data) / patients.sizes
    edges = np.quantile(means, np.linspace(0, 1, N_RANK_STRATA + 1)[1:-1])
    return np.searchsorted(edges, means, side="right")[patients.codes].astype(np.int64)


def _stretch(score: NDArray[np.float64], ranked: bool) -> NDArray[np.float64]:
    """To a scale on which the spread hardly depends on the score: arcsine of the root, or Fisher's z."""
    if ranked:
        return np.arctanh(np.clip(score, -0.9999, 0.9999))
    return np.asarray(np.arcsin(np.sqrt(np.clip(score, 0.0, 1.0))))


def refit_error(statistic: _Statistic, ridge: FoldedRidge, fit: NDArray[np.floating], groups: IntArray) -> float:
    """Standard error, on the stretched scale, of the score under other training and test patients (balanced half samples)."""
    ranked = statistic.target.n_levels == 0
    halves = half_sample_pairs(ridge, fit, groups, statistic.strata, statistic.on_half)
    difference = np.diff(_stretch(halves, ranked), axis=1)
    difference = difference[np.isfinite(difference)]
    return float(np.sqrt((difference**2).mean() / 4)) if len(difference) else 0.0


def interval(
    statistic: _Statistic,
    observed: float,
    scores: NDArray[np.floating],
    patients: Patients,
    counts: NDArray[np.float32],  # (bootstrap, n_patients)
    refitted: float,  # from `refit_error`
) -> tuple[float, float]:
    """95 % interval of the score that the probe is expected to reach with this many patients.

    The standard error is the larger of two: the patient bootstrap of the out-of-fold scores (other test patients),
    and the balanced half samples of `probes.refit` (other training and test patients). Student's t with 15 degrees
    of freedom, on a variance-stabilising scale. (Of the logistic and the kNN probe the half samples are the ridge probe's.)
    """
    ranked = statistic.target.n_levels == 0
    chunk = max(1, 2 * CHUNK_CELLS // len(patients))
    samples = [
        statistic.resampled(scores, counts[first : first + chunk][:, patients.codes])
        for first in range(0, len(counts), chunk)
    ]
    drawn = np.concatenate(samples)
    fixed = float(_stretch(drawn[np.isfinite(drawn)], ranked).std())
    reach = float(student_t.ppf(0.975, len(CONTRASTS))) * max(fixed, refitted)
    centre = float(_stretch(np.array(observed), ranked))
    if ranked:
        return float(np.tanh(centre - reach)), float(np.tanh(centre + reach))
    low = np.sin(max(centre - reach, 0.0)) ** 2
    if (
        observed > 1 - 1e-12
    ):  # no error to learn the spread from: the rule of three, 3 / n of the scarcer side at chance
        low = min(low, 1 - 1.5 / statistic.scarcest)
    high = np.sin(min(centre + reach, np.pi / 2)) ** 2
    return float(low), float(high)
