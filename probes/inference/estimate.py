"""One probe of one variable, whole: estimate, interval, permutation p and detectable effect from one statistic.

Between the factorised probe (`pellucid.probes.estimators.ridge`) and the questions of the audit (`pellucid.probes.audit`). With strata it
answers the conditional question "what can be read beyond the stratum?".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

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
from pellucid.probes.inference.secondary_probes import Fitted, Other
from pellucid.probes.inference.statistic import Statistic, Target, fold_label, informative_levels
from pellucid.probes.inputs.variables import MIN_PATIENTS

CHUNK_CELLS = 2_500_000  # rows × targets at once: matrix products want many targets


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
    beside: dict[str, Scored] = field(default_factory=dict)  # score and interval of the other probes asked for
    refitted: float = 0.0  # standard error of other training patients, on the stretched scale


def permutation_null(
    ridge: FoldedRidge, statistic: Statistic, plan: PatientPermutations, permutations: int, seed: int
) -> NDArray[np.float64]:
    """The statistic of the probe refitted to each permuted target, (permutations,), in chunks on all cores."""

    ordered = statistic.reordered(ridge.by_fold)  # each fold one slice of the images
    columns = len(statistic.columns)

    def one(source: IntArray) -> NDArray[np.float64]:
        """source: places in the order of the cohort, of images in the order of the folds."""
        fit = statistic.targets(source)
        order = statistic.target.order[source] if statistic.target.is_time else None
        return ordered.permuted(ridge.scores_by_fold(fit), fit, order)

    workers = int(joblib.cpu_count())
    chunk = int(np.clip(CHUNK_CELLS // (ridge.n * columns), 1, 128))
    parts: list[NDArray[np.float64]] = []
    running: deque[Future[NDArray[np.float64]]] = deque()
    with ThreadPoolExecutor(workers) as pool:  # NumPy's sorts and products let go of the interpreter lock
        for source in plan.draw(permutations, seed, chunk, ridge.by_fold):
            running.append(pool.submit(one, source))
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
) -> Estimate:
    """How well the target can be read off the vectors of unseen patients, beyond the strata if there are any.

    Unconditional: folds stratified by the target, permutations of patients within folds. Conditional: folds
    stratified by the strata and blind to the target, permutations of patients within strata. Either way the
    folds are as likely under the permuted target as under the observed one, so the test is exact.
    p is one-sided (large scores are evidence): (1 + #{null ≥ observed}) / (1 + permutations).
    others: probes to score in the same folds (unconditional only; a logistic one for targets with levels).
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
    others: Sequence[Other],
) -> Estimate:
    n = len(patients)
    conditional = strata is not None
    if strata is None:
        strata = np.zeros(n, dtype=np.int64)
    levels, scarcest = informative_levels(target, patients, strata)
    blank = Estimate(target.metric, target.chance, n, patients.n_patients, n_informative=scarcest)
    if (target.n_levels and not levels) or (target.is_time and scarcest < MIN_PATIENTS):
        return Estimate(**{**blank.__dict__, "refusal": f"too few patients ({scarcest}; {MIN_PATIENTS} needed)"})
    rng_folds, rng_bootstrap = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    weights = patients.weights
    label = strata if conditional else fold_label(target, patients)
    patient_folds = deal_folds(patients.typical(label), folds, rng_folds)
    ridge = FoldedRidge(vectors, weights, patient_folds[patients.codes], strata)
    columns = target.columns(levels)
    statistic = Statistic.of(target, patients, columns, strata, scarcest)
    block = np.zeros(patients.n_patients, dtype=np.int64) if conditional else patient_folds
    plan = PatientPermutations.plan(patients, target.data, block, strata)
    fit = statistic.targets(np.arange(n)[None])
    observed_scores = ridge.scores(fit)
    observed = statistic.observed(observed_scores)
    null = permutation_null(ridge, statistic, plan, permutations, seed)
    as_the_null = float(statistic.permuted(observed_scores, fit, target.order[None] if target.is_time else None)[0])
    balance = patients.typical(fold_label(target, patients)) + 1000 * patient_folds
    counts = bootstrap_counts(patients.n_patients, bootstrap, rng_bootstrap)
    groups = deal_folds(balance, N_GROUPS, rng_bootstrap)[patients.codes]
    refitted = refit_error(statistic, ridge, fit, groups)
    ci_low, ci_high = interval(statistic, observed, observed_scores, patients, counts, refitted)

    beside: dict[str, Scored] = {}
    fitted = Fitted(vectors, patients, statistic, ridge, fit, patient_folds, counts, refitted)
    for other in () if conditional else others:
        found = fitted.beside(other, rng_bootstrap, seed)
        if found is not None:
            beside[other] = found
    return Estimate(
        target.metric,
        target.chance,
        n,
        patients.n_patients,
        observed,
        ci_low,
        ci_high,
        p_value=float((1 + (null >= as_the_null - 1e-9).sum()) / (1 + permutations)),
        detectable=float(np.quantile(null, 0.95) + 0.8416 * null.std()),
        null_mean=float(null.mean()),
        null_sd=float(null.std()),
        r2=float("nan")
        if target.metric != "spearman" or conditional
        else r_squared(ridge, np.asarray(target.data, np.float64)),
        n_informative=scarcest,
        oof=observed_scores,
        null=null,
        beside=beside,
        refitted=refitted,
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
