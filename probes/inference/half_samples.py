"""How much a probe's score would vary with other patients, refitting included: balanced half samples.

The bootstrap of out-of-fold scores keeps the fitted probes fixed. It ignores the variation due to the training
patients, and near chance it misses half of the variance: there, each pair of patients enters twice, once with either in
training. Therefore the patients are assigned to 16 groups and divided 15 times into two halves of eight groups each, by
the rows of a Hadamard matrix (balanced repeated replication: McCarthy 1969; Wolter 2007, chapter 3). Both halves are
cross-validated from scratch, with the folds and penalties of the whole. The two halves share no patient, so half their
mean squared difference is the variance at half the number of patients, without bias; the variance at the whole number
is half of that. Each refit is one Cholesky solution per fold, of sums over groups of patients.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from pellucid.cohort.statistics import IntArray
from pellucid.probes.estimators.ridge import FoldedRidge, FoldFactor, solved

N_GROUPS = 16
CONTRASTS = hadamard(N_GROUPS)[1:]  # (15, 16) of ±1, rows orthogonal, each half of the groups

Evaluate = Callable[[NDArray[np.floating], NDArray[np.bool_]], float]


def half_sample_pairs(
    ridge: FoldedRidge,
    targets: NDArray[np.floating],  # (c, n) observed fit targets
    groups: IntArray,  # (n,) group of each image, whole patients, 0 … 15
    strata: IntArray,  # (n,)
    evaluate: Evaluate,  # ((c, n) scores, (n,) rows of the half) → score of the half
) -> NDArray[np.float64]:
    """Scores of both halves of each of the 15 divisions, (15, 2)."""
    scores = np.zeros((len(CONTRASTS), 2, *targets.shape))
    n_strata = int(strata.max()) + 1
    parts = list(zip(ridge.rows, ridge.augmented, strict=True))
    whole = None  # sums over all folds; those of one fold are subtracted
    if not ridge.kernel:
        whole = _Sums.from_rows(*parts[0], targets, ridge.weights, groups)
        for part in parts[1:]:
            whole.add(_Sums.from_rows(*part, targets, ridge.weights, groups))

    def score_halves(fold: int, factor: FoldFactor, penalty: float) -> None:
        rows = ridge.rows[fold]
        if whole is not None:
            scale = np.append(factor.scale, np.ones(n_strata))
            test = ridge.augmented[fold] * scale
            sums = _Sums.from_rows(*parts[fold], targets, ridge.weights, groups).left_of(whole)
        else:
            rotate = _block_diagonal(factor.basis, n_strata)
            scale = np.ones(rotate.shape[1])
            test = ridge.augmented[fold] @ rotate
            train = np.concatenate([ridge.rows[f] for f in factor.train_folds])
            turned = np.vstack([ridge.augmented[f] for f in factor.train_folds]) @ rotate
            sums = _Sums.from_rows(train, turned, targets, ridge.weights, groups)
        d = len(scale) - n_strata
        sums.scale(scale.astype(np.float32))
        for division, contrast in enumerate(CONTRASTS):
            for half, sign in enumerate((1, -1)):
                slope = _solve(*sums.of_groups(contrast == sign), penalty, d)
                scores[division, half][:, rows] = (test @ slope).T

    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        penalties = [float(np.exp(np.log(direction.penalty).mean())) for direction in ridge.directions(targets)]
        list(pool.map(score_halves, range(len(parts)), ridge.factors, penalties))
        halves = [contrast[groups] == sign for contrast in CONTRASTS for sign in (1, -1)]
        found = pool.map(evaluate, scores.reshape(-1, *targets.shape), halves)
        return np.array(list(found)).reshape(-1, 2)


@dataclass(frozen=True)
class _Sums:
    """Weighted Gram matrix and products with the targets of each group, (16, d, d) and (16, d, c), in single
    precision."""

    gram: NDArray[np.float32]
    cross: NDArray[np.float32]

    @classmethod
    def from_rows(
        cls,
        rows: IntArray,
        features: NDArray[np.floating],  # (m, d) of the rows
        targets: NDArray[np.floating],  # (c, n)
        weights: NDArray[np.floating],  # (n,)
        groups: IntArray,  # (n,)
    ) -> _Sums:
        d = features.shape[1]
        gram = np.zeros((N_GROUPS, d, d), dtype=np.float32)
        cross = np.zeros((N_GROUPS, d, len(targets)), dtype=np.float32)
        for group in range(N_GROUPS):
            inside = np.flatnonzero(groups[rows] == group)
            rooted = features[inside] * np.sqrt(weights[rows[inside], None]).astype(features.dtype)
            gram[group] = rooted.T @ rooted
            cross[group] = rooted.T @ (targets[:, rows[inside]] * np.sqrt(weights[rows[inside]])).T
        return cls(gram, cross)

    def add(self, other: _Sums) -> None:
        np.add(self.gram, other.gram, out=self.gram)
        np.add(self.cross, other.cross, out=self.cross)

    def left_of(self, whole: _Sums) -> _Sums:
        """The sums of the whole minus these."""
        np.subtract(whole.gram, self.gram, out=self.gram)
        np.subtract(whole.cross, self.cross, out=self.cross)
        return self

    def scale(self, scale: NDArray[np.float32]) -> None:
        """The same of features times (d,)."""
        for gram, cross in zip(self.gram, self.cross, strict=True):
            gram *= scale
            gram *= scale[:, None]
            cross *= scale[:, None]

    def of_groups(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sums over some groups, (d, d) and (d, c)."""
        shares = chosen.astype(np.float32)
        return np.tensordot(shares, self.gram, 1), np.tensordot(shares, self.cross, 1)


def _solve(gram: NDArray[np.float32], cross: NDArray[np.float32], penalty: float, d: int) -> NDArray[np.float32]:
    """Ridge slopes within strata, with -mean·slope for each stratum below them, scaled to unit training spread."""
    mass = np.maximum(np.diag(gram)[d:], 1e-9)
    total = mass.sum()
    means = gram[d:, :d] / mass[:, None]
    inner = gram[:d, :d] - (means * mass[:, None]).T @ means
    moment = cross[:d] - means.T @ cross[d:]
    system = inner.copy()
    system[np.diag_indices(d)] += np.float32(penalty + 1e-6) * total
    slope = solved(system, moment.T).T
    spread = np.sqrt(np.maximum((slope * (inner @ slope)).sum(axis=0) / total, 1e-24))
    return np.asarray(np.vstack([slope, -means @ slope]) / spread)


def _block_diagonal(basis: NDArray[np.floating], n_strata: int) -> NDArray[np.float64]:
    d, r = basis.shape
    out = np.zeros((d + n_strata, r + n_strata))
    out[:d, :r] = basis
    out[d:, r:] = np.eye(n_strata)
    return out
