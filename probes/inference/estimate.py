"""One probe of one variable: score, interval, permutation p-value and detectable effect, all from one statistic.

Uses the factorised ridge probe (`pellucid.probes.estimators.ridge`); the questions of the audit use this. With strata
it answers the conditional question: what can be predicted beyond the stratum?
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import joblib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics import (
    IntArray,
    PatientPermutations,
    Patients,
    bootstrap_counts,
    deal_folds,
)
from pellucid.probes.estimators.ridge import FoldedRidge
from pellucid.probes.inference.confidence_interval import Scored, interval, refit_error
from pellucid.probes.inference.half_samples import N_GROUPS
from pellucid.probes.inference.secondary_probes import Other, SharedFolds
from pellucid.probes.inference.statistic import Statistic, Target, fold_label, informative_levels
from pellucid.probes.inputs.variables import MIN_PATIENTS

CHUNK_CELLS = 2_500_000  # rows × targets at once: matrix products are faster with many targets


@dataclass(frozen=True)
class Estimate:
    """Result of `probe`; `refusal` is the reason why there is no number (all numbers are then NaN)."""

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
    secondary: dict[str, Scored] = field(default_factory=dict)  # score and interval of the other probes
    refitted: float = 0.0  # standard error due to the training patients, on the variance-stabilising scale


def permutation_null(
    ridge: FoldedRidge, statistic: Statistic, plan: PatientPermutations, permutations: int, seed: int
) -> NDArray[np.float64]:
    """(permutations,) the statistic of the probe refitted to each permuted target, in chunks on all cores."""
    ordered = statistic.reordered(ridge.by_fold)  # each fold one slice of the images
    columns = len(statistic.columns)

    def null_of_chunk(source: IntArray) -> NDArray[np.float64]:
        """source: (c, n) row numbers in the cohort, of images in the order of the folds."""
        fit = statistic.targets(source)
        order = statistic.target.order[source] if statistic.target.is_time else None
        return ordered.permuted(ridge.scores_by_fold(fit), fit, order)

    workers = int(joblib.cpu_count())
    chunk = int(np.clip(CHUNK_CELLS // (ridge.n * columns), 1, 128))
    parts: list[NDArray[np.float64]] = []
    running: deque[Future[NDArray[np.float64]]] = deque()
    with ThreadPoolExecutor(workers) as pool:  # NumPy releases the interpreter lock in sorts and products
        for source in plan.draw(permutations, seed, chunk, ridge.by_fold):
            running.append(pool.submit(null_of_chunk, source))
            if len(running) > workers:
                parts.append(running.popleft().result())
        parts.extend(job.result() for job in running)
    return np.concatenate(parts)


def probe(
    vectors: NDArray[np.floating],  # (n, d)
    target: Target,
    patients: Patients,
    *,
    strata: IntArray | None = None,  # (n,) 0 … s-1; None for the unconditional question
    permutations: int = 999,
    folds: int = 5,
    bootstrap: int = 400,
    seed: int = 0,
    others: Sequence[Other] = (),
    p_value_only: bool = False,
) -> Estimate:
    """How well the target can be predicted from the vectors of unseen patients, beyond the strata if there are any.

    Unconditional: folds stratified by the target, permutations of patients within folds. Conditional: folds
    stratified by the strata and blind to the target, permutations of patients within strata. Either way the
    folds are as likely under the permuted target as under the observed one, so the test is exact.
    p is one-sided (large scores are evidence): (1 + #{null ≥ observed}) / (1 + permutations).

    Args:
        others: probes to score in the same folds (unconditional only; a logistic one for targets with levels).
        p_value_only: leave out the interval and the other probes.
    """
    conditional = strata is not None
    if strata is None:
        strata = np.zeros(len(patients), dtype=np.int64)
    levels, scarcest = informative_levels(target, patients, strata)
    blank = Estimate(target.metric, target.chance, len(patients), patients.n_patients, n_informative=scarcest)
    if (target.n_levels and not levels) or (target.is_time and scarcest < MIN_PATIENTS):
        return replace(blank, refusal=f"too few patients ({scarcest}; {MIN_PATIENTS} needed)")
    # Many small matrix products: threads inside BLAS would compete with the threads of this module.
    with threadpool_limits(1, user_api="blas"):
        design = _Design.build(vectors, target, patients, strata, levels, scarcest, folds, seed, conditional)
        found = _test(design, blank, permutations, seed)
        return found if p_value_only else _with_interval(design, found, bootstrap, seed, others)


@dataclass(frozen=True)
class _Design:
    """What estimate, null and interval share: folds, factorised ridge probe, statistic and fit targets."""

    vectors: NDArray[np.floating]  # (n, d)
    patients: Patients
    patient_folds: IntArray  # (p,)
    ridge: FoldedRidge
    statistic: Statistic
    fit: NDArray[np.float32]  # (columns, n)
    strata: IntArray  # (n,)
    conditional: bool
    rng: np.random.Generator  # of bootstrap and half samples

    @classmethod
    def build(
        cls,
        vectors: NDArray[np.floating],
        target: Target,
        patients: Patients,
        strata: IntArray,
        levels: list[int],
        scarcest: int,
        folds: int,
        seed: int,
        conditional: bool,
    ) -> _Design:
        rng_folds, rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        label = strata if conditional else fold_label(target, patients)
        patient_folds = deal_folds(patients.typical(label), folds, rng_folds)
        ridge = FoldedRidge(vectors, patients.weights, patient_folds[patients.codes], strata)
        statistic = Statistic.from_target(target, patients, target.columns(levels), strata, scarcest)
        fit = statistic.targets(np.arange(len(patients))[None])
        return cls(vectors, patients, patient_folds, ridge, statistic, fit, strata, conditional, rng)


def _test(design: _Design, blank: Estimate, permutations: int, seed: int) -> Estimate:
    """Score, permutation p-value and detectable effect."""
    patients, statistic, target = design.patients, design.statistic, design.statistic.target
    block = np.zeros(patients.n_patients, dtype=np.int64) if design.conditional else design.patient_folds
    plan = PatientPermutations.plan(patients, target.data, block, design.strata)
    scores = design.ridge.scores(design.fit)
    null = permutation_null(design.ridge, statistic, plan, permutations, seed)
    as_the_null = float(statistic.permuted(scores, design.fit, target.order[None] if target.is_time else None)[0])
    has_r2 = target.metric == "spearman" and not design.conditional
    return replace(
        blank,
        score=statistic.observed(scores),
        p_value=float((1 + (null >= as_the_null - 1e-9).sum()) / (1 + permutations)),
        detectable=float(np.quantile(null, 0.95) + 0.8416 * null.std()),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        r2=r_squared(design.ridge, np.asarray(target.data, np.float64)) if has_r2 else float("nan"),
        oof=scores,
        null=null,
    )


def _with_interval(design: _Design, found: Estimate, bootstrap: int, seed: int, others: Sequence[Other]) -> Estimate:
    """The estimate with its 95 % interval, and the other probes with theirs."""
    patients, statistic, rng = design.patients, design.statistic, design.rng
    assert found.oof is not None
    balance = patients.typical(fold_label(statistic.target, patients)) + 1000 * design.patient_folds
    counts = bootstrap_counts(patients.n_patients, bootstrap, rng)
    groups = deal_folds(balance, N_GROUPS, rng)[patients.codes]
    refitted = refit_error(statistic, design.ridge, design.fit, groups)
    ci_low, ci_high = interval(statistic, found.score, found.oof, patients, counts, refitted)
    shared = SharedFolds(
        design.vectors, patients, statistic, design.ridge, design.fit, design.patient_folds, counts, refitted
    )
    scored = {other: shared.score(other, rng, seed) for other in (() if design.conditional else others)}
    secondary: dict[str, Scored] = {other: value for other, value in scored.items() if value is not None}
    return replace(found, ci_low=ci_low, ci_high=ci_high, secondary=secondary, refitted=refitted)


def r_squared(ridge: FoldedRidge, values: NDArray[np.float64]) -> float:
    """Out-of-fold R² with equal weight for every patient: 1 - squared error / squared error of the training mean. At
    most 1."""
    predicted = ridge.scores(values[None], standardise=False)[0].astype(np.float64)
    error = baseline = 0.0
    for rows in ridge.rows:
        others = np.setdiff1d(np.arange(len(values)), rows)
        mean = np.average(values[others], weights=ridge.weights[others])
        error += float((ridge.weights[rows] * (values[rows] - mean - predicted[rows]) ** 2).sum())
        baseline += float((ridge.weights[rows] * (values[rows] - mean) ** 2).sum())
    return 1.0 - error / baseline
