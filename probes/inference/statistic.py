"""The target of a probe, and the rank statistic that estimate, null, interval and half samples share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import IntArray, Patients, auroc, ridits, spearman
from pellucid.probes.inference import binned_rank_metrics
from pellucid.probes.inference.concordance import Concordance, concordance
from pellucid.probes.inputs.variables import MIN_PATIENTS

N_RANK_STRATA = 5  # folds of a ranked variable are stratified by fifths of its patient means


@dataclass(frozen=True)
class Target:
    """What is predicted: level codes (0 … n_levels-1), or numbers (n_levels 0)."""

    data: NDArray[np.generic]  # (n,)
    n_levels: int
    order: IntArray = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64)
    )  # (n,) of a time to an event, else empty

    @property
    def is_time(self) -> bool:
        return len(self.order) > 0

    def take(self, rows: IntArray | NDArray[np.bool_]) -> Target:
        """The target of some rows; levels keep their codes."""
        return replace(self, data=np.asarray(self.data)[rows], order=self.order[rows] if self.is_time else self.order)

    @property
    def metric(self) -> str:
        if self.n_levels == 0:
            return "concordance" if self.is_time else "spearman"
        return "auroc" if self.n_levels == 2 else "macro_auroc"

    def columns(self, levels: Sequence[int] | None = None) -> IntArray:
        """The levels that are scored one against the rest, of those given or of all; of a binary target the event
        alone."""
        several = range(self.n_levels) if levels is None else levels
        return np.array({0: [0], 2: [1]}.get(self.n_levels, list(several)), dtype=np.int64)

    @property
    def chance(self) -> float:
        return 0.0 if self.metric == "spearman" else 0.5


@dataclass(frozen=True)
class Statistic:
    """The rank statistic of a target: one column per level that is compared (one for binary and ranked)."""

    target: Target
    columns: IntArray  # levels scored one against the rest
    weights: NDArray[np.float64]
    strata: IntArray
    ranks: NDArray[
        np.float64
    ]  # (n,) what a target without levels is fitted by: ranks, or martingale residuals; else empty
    scarcest: int  # patients on the scarcer side of the comparison

    @classmethod
    def from_target(
        cls,
        target: Target,
        patients: Patients,
        columns: IntArray,
        strata: IntArray | None = None,
        scarcest: int = 0,
    ) -> Statistic:
        """The statistic with equal weight for every patient; without strata, the unconditional one."""
        strata = np.zeros(len(patients), dtype=np.int64) if strata is None else strata
        ranks = np.zeros(0)
        if target.is_time:
            ranks = np.asarray(target.data, dtype=np.float64)
        elif target.n_levels == 0:
            ranks = ridits(np.asarray(target.data, dtype=np.float64)[None], patients.weights, strata)[0]
        return cls(target, columns, patients.weights, strata, ranks, scarcest)

    def reordered(self, rows: IntArray) -> Statistic:
        """The same of images in another order."""
        ranks = self.ranks[rows] if len(self.ranks) else self.ranks
        return replace(
            self, target=self.target.take(rows), weights=self.weights[rows], strata=self.strata[rows], ranks=ranks
        )

    def targets(self, source: IntArray) -> NDArray[np.float32]:
        """Fit targets (c * columns, n) of the permuted variable; source (c, n) row numbers."""
        if self.target.n_levels == 0:
            return np.asarray(np.take(self.ranks.astype(np.float32), source))
        hot = (np.asarray(self.target.data) == self.columns[:, None]).astype(np.float32)
        return np.take(hot, source, axis=1).swapaxes(0, 1).reshape(-1, source.shape[1])

    def permuted(
        self, scores: NDArray[np.floating], targets: NDArray[np.floating], order: IntArray | None = None
    ) -> NDArray[np.float64]:
        """(c,) of scores and targets (c * columns, n), in bins (`pellucid.probes.inference.binned_rank_metrics`): the
        statistic that permutations are compared by.

        order: (c, n) permuted places in time, of a time to an event, whose concordance needs no bins.
        """
        if order is not None:
            return concordance(scores, order, self.weights, self.strata)
        if self.target.n_levels == 0:
            return binned_rank_metrics.spearman(scores, targets, self.weights, self.strata)
        each = binned_rank_metrics.auroc(scores, targets > 0.5, self.weights, self.strata)
        return np.asarray(each.reshape(-1, len(self.columns)).mean(axis=1))

    def observed(self, scores: NDArray[np.floating]) -> float:
        """The statistic of the observed target; scores (columns, n)."""
        return self.on_half(scores, np.ones(scores.shape[1], dtype=bool))

    def on_half(self, scores: NDArray[np.floating], rows: NDArray[np.bool_]) -> float:
        """The statistic of some of the rows (whole patients), NaN if they contain no pair to compare."""
        weights, strata = self.weights[rows], self.strata[rows]
        if self.target.is_time:
            return float(Concordance(scores[0, rows], self.target.order[rows], strata)(weights[None])[0])
        if self.target.n_levels == 0:
            values = np.asarray(self.target.data, dtype=np.float64)[rows]
            ranks = ridits(values[None], weights, strata)
            return float(spearman(scores[:, rows], ranks, weights, strata)[0])
        positive = np.asarray(self.target.data)[rows] == self.columns[:, None]
        return float(auroc(scores[:, rows], positive, weights, strata).mean())

    def resampler(self, scores: NDArray[np.floating]) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
        """A function (samples, n) counts → (samples,): the statistic of the observed scores (columns, n) under
        resampled patients."""
        each: Sequence[Callable[[NDArray[np.floating]], NDArray[np.float64]]]
        if self.target.is_time:
            each = [Concordance(scores[0], self.target.order, self.strata)]
        elif self.target.n_levels == 0:
            each = [binned_rank_metrics.BootstrapSpearman(scores[0], self.ranks, self.strata)]
        else:
            data = np.asarray(self.target.data)
            each = [
                binned_rank_metrics.BootstrapAuroc(s, data == level, self.strata)
                for s, level in zip(scores, self.columns, strict=True)
            ]

        def resampled(row_counts: NDArray[np.floating]) -> NDArray[np.float64]:
            weights = row_counts * self.weights
            return np.asarray(np.mean([column(weights) for column in each], axis=0))

        return resampled


def informative_levels(target: Target, patients: Patients, strata: IntArray) -> tuple[list[int], int]:
    """Levels that can be compared within strata, and the patients of the scarcest side of the best level.

    A level counts if, over the strata that contain both this level and others, each side has at least MIN_PATIENTS
    patients.
    """
    data = np.asarray(target.data)
    informative, best = [], 0
    if target.is_time:
        return [], comparable_events(target, patients, np.ones(len(patients), dtype=bool), strata)
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


def comparable_events(
    target: Target, patients: Patients, rows: NDArray[np.bool_], strata: IntArray | None = None
) -> int:
    """The number of patients in these rows with an event while another patient of the same stratum was still
    followed."""
    if not rows.any():
        return 0
    own = np.zeros(int(rows.sum()), dtype=np.int64) if strata is None else strata[rows]
    order = target.order[rows]
    last = np.full(int(own.max()) + 1, -1)
    np.maximum.at(last, own, order)
    had = np.flatnonzero(rows)[(order % 2 == 0) & (order < last[own])]
    return len(np.unique(patients.codes[had]))


def fold_label(target: Target, patients: Patients) -> IntArray:
    """(n,) what folds are stratified by: the level, or the fifth that contains the patient's mean."""
    if target.n_levels:
        return np.asarray(target.data, dtype=np.int64)
    data = np.asarray(target.data, dtype=np.float64)
    means = np.bincount(patients.codes, weights=data) / patients.sizes
    edges = np.quantile(means, np.linspace(0, 1, N_RANK_STRATA + 1)[1:-1])
    return np.searchsorted(edges, means, side="right")[patients.codes].astype(np.int64)
