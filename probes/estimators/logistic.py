"""The logistic probe: out-of-fold log-odds of unseen patients, everything fitted inside the fold.

One level against the rest; L2-penalised, each patient with weight 1. The ridge probe has already computed the principal
components of the training patients of each fold; in these Newton's method has a small Hessian and is many times faster
than fitting from the vectors, with the same minimum.

- [0]: Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009, section 4.4.1: iteratively reweighted
  least squares

Legend: n images, c levels, r components.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.special import expit

from pellucid.cohort.statistics import IntArray
from pellucid.probes.estimators.ridge import FoldedRidge

PENALTIES = (3e-4, 3e-3, 3e-2, 3e-1)  # scikit-learn's C, from strong to weak, for features of variance 1
MAX_COMPONENTS = 128  # principal components of the training patients; enough for a linear boundary
_MOST_STEPS = 25
_CONVERGED = 1e-6  # half of Newton's decrement: the mean log loss that a further step could still gain
_FREE = 1e-7  # penalty of the intercept, so that it stays finite where all are of one level


def logistic_scores(ridge: FoldedRidge, levels: IntArray, columns: IntArray) -> NDArray[np.float64]:
    """Out-of-fold scores (columns, n): log-odds of a level, standardised by the training patients of the fold.

    Args:
        ridge: of the same folds, without strata.
        levels: (n,) 0 … k-1.
        columns: levels to score one against the rest.

    The penalty is chosen by log loss in one of the training folds.
    """
    scores = np.zeros((len(columns), ridge.n))
    hot = (levels == columns[:, None]).astype(np.float64)

    def score_fold(fold: int) -> None:
        factor = ridge.factors[fold]
        top = factor.basis[:, ::-1][:, :MAX_COMPONENTS]
        turn = np.vstack([top, -factor.means[0] @ top]).astype(ridge.dtype)  # (d + 1, r), the last row for the stratum
        features = [np.hstack([block @ turn, np.ones((len(block), 1), ridge.dtype)]) for block in ridge.augmented]
        folds = [int(f) for f in factor.train_folds]
        check = folds[fold % len(folds)]
        train, fit = _joined(features, ridge, folds), _joined(features, ridge, [f for f in folds if f != check])
        for its, target in zip(scores, hot, strict=True):
            chosen, found = PENALTIES[1], np.zeros(train[0].shape[1])
            if len(folds) > 1:
                chosen, found = _choose(*fit, features[check], ridge.weights, ridge.rows[check], target)
            found = newton(*_with(train, target), 1.0 / (chosen * train[2].sum()), found)
            known = train[0] @ found
            mean = np.average(known, weights=train[2])
            spread = np.sqrt(np.average((known - mean) ** 2, weights=train[2]))
            its[ridge.rows[fold]] = (features[fold] @ found - mean) / max(float(spread), 1e-12)

    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        list(pool.map(score_fold, range(len(ridge.factors))))
    return scores


def newton(
    features: NDArray[np.floating],  # (m, r + 1), the last column 1
    target: NDArray[np.float64],  # (m,) 0 or 1
    weights: NDArray[np.float64],  # (m,)
    penalty: float,
    start: NDArray[np.float64],  # (r + 1,)
) -> NDArray[np.float64]:
    """(r + 1,) coefficients that minimise the weighted mean log loss + penalty / 2 · their square, the intercept free
    [0]."""
    share = weights / weights.sum()
    held = np.append(np.full(len(start) - 1, penalty), _FREE)
    found, odds = start, features @ start
    value = _objective(odds, target, share, held, found)
    for _ in range(_MOST_STEPS):
        likely = expit(odds)
        gradient = (share * (likely - target)).astype(features.dtype) @ features + held * found
        rooted = features * np.sqrt(share * likely * (1 - likely)).astype(features.dtype)[:, None]
        hessian = (rooted.T @ rooted).astype(np.float64)
        hessian[np.diag_indices_from(hessian)] += held + 1e-9
        step = solve(hessian, gradient, assume_a="pos")
        if 0.5 * gradient @ step < _CONVERGED:
            break
        for size in 0.5 ** np.arange(10):
            moved = found - size * step
            new = features @ moved
            better = _objective(new, target, share, held, moved)
            if better < value:
                break
        else:
            break
        found, odds, value = moved, new, better
    return found


def _objective(
    odds: NDArray[np.floating],
    target: NDArray[np.float64],
    share: NDArray[np.float64],
    held: NDArray[np.float64],
    found: NDArray[np.float64],
) -> float:
    return _log_loss(odds, target, share) + 0.5 * float(held @ found**2)


def _log_loss(odds: NDArray[np.floating], target: NDArray[np.float64], share: NDArray[np.float64]) -> float:
    return float(share @ (np.logaddexp(0.0, odds) - target * odds))


_Rows = tuple[NDArray[np.floating], IntArray, NDArray[np.float64]]  # features, images, weights


def _joined(features: list[NDArray[np.floating]], ridge: FoldedRidge, folds: list[int]) -> _Rows:
    if not folds:
        return features[0][:0], np.zeros(0, np.int64), np.zeros(0)
    rows = np.concatenate([ridge.rows[f] for f in folds])
    return np.vstack([features[f] for f in folds]), rows, ridge.weights[rows]


def _with(
    rows: _Rows, target: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.float64], NDArray[np.float64]]:
    return rows[0], target[rows[1]], rows[2]


def _choose(
    features: NDArray[np.floating],
    rows: IntArray,
    weights: NDArray[np.float64],
    held_out: NDArray[np.floating],
    all_weights: NDArray[np.float64],
    check: IntArray,
    target: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """The C of least log loss in the fold held out, and the coefficients fitted with it, to go on from."""
    best, chosen, going = np.inf, PENALTIES[0], np.zeros(features.shape[1])
    kept = going
    for penalty in PENALTIES:
        going = newton(features, target[rows], weights, 1.0 / (penalty * weights.sum()), going)
        loss = _log_loss(held_out @ going, target[check], all_weights[check])
        if loss < best:
            best, chosen, kept = loss, penalty, going
    return chosen, kept
