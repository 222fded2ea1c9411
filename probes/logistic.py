"""The logistic probe, beside the ridge one: out-of-fold log-odds of unseen patients, everything fitted inside the fold."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from cohort.patients import IntArray

PENALTIES = (3e-4, 3e-3, 3e-2, 3e-1)  # scikit-learn's C, from strong to weak, for features of variance 1
MAX_COMPONENTS = 128  # principal components of the training patients; enough for a linear boundary, and 7 times as fast
_HELD_OUT = 5  # one fifth of the training patients chooses the penalty


def logistic_scores(
    vectors: NDArray[np.floating],  # (n, d)
    levels: IntArray,  # (n,) 0 … k-1
    columns: IntArray,  # levels to score one against the rest
    patients: IntArray,  # (n,) patient number of each row
    weights: NDArray[np.float64],  # (n,) 1 / images of the patient
    folds: IntArray,  # (n,) whole patients
) -> NDArray[np.float64]:
    """Out-of-fold scores (columns, n): log-odds of a level, standardised within the fold.

    L2-penalised multinomial logistic regression, each patient weighing 1. Standardisation, principal components and the
    choice of the penalty (log loss in a fifth of the training patients) see the training patients only. A level that the
    training patients lack gets the lowest score.
    """
    scores = np.zeros((len(columns), len(levels)))
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        features = _projected(np.asarray(vectors, dtype=np.float64), train, weights)
        inner = patients[train] % _HELD_OUT == fold % _HELD_OUT
        fit, check = train[~inner], train[inner]
        penalty = _choose(features, levels, weights, fit, check)
        model = _fitted(features, levels, weights, train, penalty)
        scores[:, test] = _log_odds(model, features, train, test, columns)
    return scores


def _projected(vectors: NDArray[np.float64], train: IntArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardised by the training patients and turned into their principal components."""
    w = weights[train] / weights[train].sum()
    mean = w @ vectors[train]
    centred: NDArray[np.float64] = vectors - mean
    spread = np.sqrt(w @ centred[train] ** 2)
    centred /= np.where(spread > 1e-12, spread, 1.0)
    if centred.shape[1] <= MAX_COMPONENTS:
        return centred
    values, basis = np.linalg.eigh((centred[train] * w[:, None]).T @ centred[train])
    return np.asarray(centred @ basis[:, np.argsort(values)[::-1][:MAX_COMPONENTS]])


def _choose(
    features: NDArray[np.float64], levels: IntArray, weights: NDArray[np.float64], fit: IntArray, check: IntArray
) -> float:
    if len(np.unique(levels[fit])) < 2 or not np.isin(levels[check], levels[fit]).any():
        return PENALTIES[1]
    known = check[np.isin(levels[check], levels[fit])]
    losses = []
    for penalty in PENALTIES:
        model = _fitted(features, levels, weights, fit, penalty)
        probabilities = model.predict_proba(features[known])
        losses.append(log_loss(levels[known], probabilities, labels=model.classes_, sample_weight=weights[known]))
    return PENALTIES[int(np.argmin(losses))]


def _fitted(
    features: NDArray[np.float64], levels: IntArray, weights: NDArray[np.float64], rows: IntArray, penalty: float
) -> LogisticRegression:
    model = LogisticRegression(C=penalty, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ranks settle long before the last digit of the weights
        model.fit(features[rows], levels[rows], sample_weight=weights[rows])
    return model


def _log_odds(
    model: LogisticRegression, features: NDArray[np.float64], train: IntArray, test: IntArray, columns: IntArray
) -> NDArray[np.float64]:
    """(columns, len(test)) log-odds, on the training scores' own scale so that folds can be compared."""
    out = np.full((len(columns), len(test)), -np.inf)
    for i, level in enumerate(columns):
        place = np.flatnonzero(model.classes_ == level)
        if len(place):
            both = np.log(np.clip(model.predict_proba(features)[:, place[0]], 1e-12, 1 - 1e-12))
            odds = both - np.log1p(-np.exp(both))
            out[i] = (odds[test] - odds[train].mean()) / max(float(odds[train].std()), 1e-12)
    return np.where(np.isfinite(out), out, -1e6)
