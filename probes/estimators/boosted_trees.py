"""An optional nonlinear probe: gradient-boosted trees.

- [0]: Friedman, Greedy Function Approximation: A Gradient Boosting Machine, 2001; by scikit-learn's histogram variant
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from pellucid.cohort.statistics import IntArray

_TREES = {
    "max_iter": 100,
    "max_leaf_nodes": 15,
    "learning_rate": 0.1,
    "l2_regularization": 1.0,
    "early_stopping": False,
}


def boosted_scores(
    vectors: NDArray[np.floating],  # (n, d)
    levels: IntArray | None,  # (n,) 0 … k-1; None: the target is ranked
    columns: IntArray,  # levels to score one against the rest
    ranks: NDArray[np.float64],  # (n,) of a ranked target, else empty
    weights: NDArray[np.float64],  # (n,) 1 / images of the patient
    folds: IntArray,  # (n,) whole patients
    seed: int,
) -> NDArray[np.float64]:
    """Out-of-fold scores (columns, n): log-odds of a level, or the predicted rank. Each patient weighs 1.

    The number of trees and their size are fixed, so that nothing is chosen on test patients.
    """
    scores = np.zeros((len(columns), len(vectors)))
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if levels is None:
            model = HistGradientBoostingRegressor(random_state=seed % 2**31, **_TREES)
            scores[0, test] = model.fit(vectors[train], ranks[train], sample_weight=weights[train]).predict(
                vectors[test]
            )
            continue
        classifier = HistGradientBoostingClassifier(random_state=seed % 2**31, **_TREES)
        classifier.fit(vectors[train], levels[train], sample_weight=weights[train])
        shares = np.clip(classifier.predict_proba(vectors[test]), 1e-9, 1 - 1e-9)
        for place, level in enumerate(columns):
            known = np.flatnonzero(classifier.classes_ == level)
            scores[place, test] = np.log(shares[:, known[0]] / (1 - shares[:, known[0]])) if len(known) else -30.0
    return scores
