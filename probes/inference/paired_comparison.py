"""One variable predicted from two sets of vectors of the same images: the change of the score, with an interval.

The same folds, the same half samples and the same bootstrap samples serve both, so that common variation cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics import Patients, bootstrap_counts, deal_folds
from pellucid.probes.estimators.ridge import FoldedRidge
from pellucid.probes.inference.confidence_interval import resampled_in_chunks
from pellucid.probes.inference.half_samples import CONTRASTS, N_GROUPS, half_sample_pairs
from pellucid.probes.inference.statistic import Statistic, Target, fold_label, informative_levels
from pellucid.probes.inputs.variables import MIN_PATIENTS


@dataclass(frozen=True)
class Change:
    """Scores of both sets, and after − before with its 95 % interval; NaN where there are too few patients."""

    before: float = float("nan")
    after: float = float("nan")
    change: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")


def compare(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    target: Target,
    patients: Patients,
    *,
    folds: int = 5,
    bootstrap: int = 400,
    seed: int = 0,
) -> Change:
    """Probe both (n, d) sets, which may differ in d, in the same patient-grouped folds.

    The standard error of the change is the larger of two, as in
    `pellucid.probes.inference.confidence_interval.interval`: of the paired bootstrap of the out-of-fold scores, and of
    the paired half samples; Student's t with 15 degrees of freedom.
    """
    strata = np.zeros(len(patients), dtype=np.int64)
    levels, scarcest = informative_levels(target, patients, strata)
    if (target.n_levels and not levels) or (target.is_time and scarcest < MIN_PATIENTS):
        return Change()
    rng = np.random.default_rng([seed, 7])
    columns = target.columns(levels)
    statistic = Statistic.from_target(target, patients, columns)
    fit = statistic.targets(np.arange(len(patients))[None])
    label = patients.typical(fold_label(target, patients))
    dealt = deal_folds(label, folds, rng)
    groups = deal_folds(label + (int(label.max()) + 1) * dealt, N_GROUPS, rng)[patients.codes]
    counts = bootstrap_counts(patients.n_patients, bootstrap, rng)
    scores, drawn, halves = [], [], []
    with threadpool_limits(1, user_api="blas"):
        for values in (before, after):
            ridge = FoldedRidge(values, patients.weights, dealt[patients.codes], strata)
            found = ridge.scores(fit)
            scores.append(statistic.observed(found))
            drawn.append(resampled_in_chunks(statistic, found, patients, counts))
            halves.append(half_sample_pairs(ridge, fit, groups, strata, statistic.on_half))
    change = scores[1] - scores[0]
    fixed = float(np.nanstd(drawn[1] - drawn[0]))
    apart = np.diff(halves[1] - halves[0], axis=1)
    apart = apart[np.isfinite(apart)]
    refitted = float(np.sqrt((apart**2).mean() / 4)) if len(apart) else 0.0
    reach = float(student_t.ppf(0.975, len(CONTRASTS))) * max(fixed, refitted)
    return Change(scores[0], scores[1], change, change - reach, change + reach)
