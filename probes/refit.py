"""How much a probe's score would vary with other patients, refitting included: balanced half samples.

The bootstrap of out-of-fold scores holds the fitted probes fixed. That misses the luck of the training patients, and
near chance it misses half of the variance: there, each pair of patients enters twice, once with either in training.
So the patients are dealt to 16 groups, and 15 times they are divided into two halves of eight groups each as the rows
of a Hadamard matrix say (balanced repeated replication: McCarthy 1969; Wolter 2007, chapter 3). Both halves are
cross-validated from scratch, with the folds and penalties of the whole. The two halves share no patient, so half
their mean squared difference is the variance at half the number of patients, without bias; the variance at the whole
number is half of that. Sums over groups are computed once, so each refit is one Cholesky solution per fold.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.linalg.lapack import dposv

from cohort.patients import IntArray
from probes.linear import FoldedRidge

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
    d, n_strata = ridge.d, int(strata.max()) + 1
    sums = None if ridge.kernel else _sums_by_fold(ridge, targets, groups)
    for fold, (factor, direction) in enumerate(zip(ridge.factors, ridge.directions(targets), strict=True)):
        if sums is not None:
            test = ridge.augmented[fold] * np.append(factor.scale, np.ones(n_strata))
            scale = np.append(factor.scale, np.ones(n_strata))
            gram = np.sum([sums[f][0] for f in factor.train_folds], axis=0) * scale * scale[:, None]
            cross = np.sum([sums[f][1] for f in factor.train_folds], axis=0) * scale[:, None]
        else:
            rotate = _block_diagonal(factor.basis, n_strata)
            test = ridge.augmented[fold] @ rotate
            gram, cross = _sums(
                np.vstack([ridge.augmented[f] for f in factor.train_folds]) @ rotate,
                targets[:, np.concatenate([ridge.rows[f] for f in factor.train_folds])],
                ridge.weights[np.concatenate([ridge.rows[f] for f in factor.train_folds])],
                groups[np.concatenate([ridge.rows[f] for f in factor.train_folds])],
            )
            d = gram.shape[1] - n_strata
        penalty = float(np.exp(np.log(direction.penalty).mean()))
        whole_gram, whole_cross = gram.sum(axis=0), cross.sum(axis=0)
        tilt_gram = np.tensordot(CONTRASTS, gram, axes=1)
        tilt_cross = np.tensordot(CONTRASTS, cross, axes=1)
        rows = ridge.rows[fold]
        for division in range(len(CONTRASTS)):
            for half, sign in enumerate((1.0, -1.0)):
                slope = _solve(
                    0.5 * (whole_gram + sign * tilt_gram[division]),
                    0.5 * (whole_cross + sign * tilt_cross[division]),
                    penalty,
                    d,
                )
                scores[division, half][:, rows] = (test @ slope).T
    out = np.empty((len(CONTRASTS), 2))
    for division, contrast in enumerate(CONTRASTS):
        for half, sign in enumerate((1, -1)):
            out[division, half] = evaluate(scores[division, half], contrast[groups] == sign)
    return out


def _solve(gram: NDArray[np.floating], cross: NDArray[np.floating], penalty: float, d: int) -> NDArray[np.float64]:
    """Ridge slopes within strata, with -mean·slope for each stratum below them, scaled to unit training spread."""
    mass = np.maximum(np.diag(gram)[d:], 1e-9)
    total = mass.sum()
    means = gram[d:, :d] / mass[:, None]
    inner = gram[:d, :d] - (means * mass[:, None]).T @ means
    moment = cross[:d] - means.T @ cross[d:]
    system = inner + (penalty + 1e-6) * total * np.eye(d)
    slope = dposv(system, moment)[1]  # Cholesky
    spread = np.sqrt(np.maximum((slope * (inner @ slope)).sum(axis=0) / total, 1e-24))
    return np.asarray(np.vstack([slope, -means @ slope]) / spread)


def _block_diagonal(basis: NDArray[np.floating], n_strata: int) -> NDArray[np.float64]:
    d, r = basis.shape
    out = np.zeros((d + n_strata, r + n_strata))
    out[:d, :r] = basis
    out[d:, r:] = np.eye(n_strata)
    return out


def _sums(
    features: NDArray[np.floating],
    targets: NDArray[np.floating],
    weights: NDArray[np.floating],
    groups: IntArray,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted Gram matrix and products with the targets of each group, (16, d, d) and (16, d, c)."""
    d = features.shape[1]
    gram, cross = np.zeros((N_GROUPS, d, d)), np.zeros((N_GROUPS, d, len(targets)))
    for group in range(N_GROUPS):
        rows = np.flatnonzero(groups == group)
        weighted = features[rows] * weights[rows, None]
        gram[group] = features[rows].T @ weighted
        cross[group] = weighted.T @ targets[:, rows].T
    return gram, cross


def _sums_by_fold(
    ridge: FoldedRidge, targets: NDArray[np.floating], groups: IntArray
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return [
        _sums(block.astype(np.float64), targets[:, rows], ridge.weights[rows], groups[rows])
        for rows, block in zip(ridge.rows, ridge.augmented, strict=True)
    ]
