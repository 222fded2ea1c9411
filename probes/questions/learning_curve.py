"""The probe's score against the number of labelled training patients.

- [0]: Chen et al., A Simple Framework for Contrastive Learning, 2020, section 5.2, for the question with 1 % and 10 %
  of labels

The share is of the *patients* of the training folds, drawn evenly over the classes; all patients of the other fold are
tested.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pellucid.cohort.statistics import IntArray, Patients, deal_folds
from pellucid.probes.estimators.ridge import fold_probes
from pellucid.probes.inference.statistic import Statistic, Target, comparable_events, fold_label

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
DRAWS = 3  # of folds and patients
_FOLDS = 5
_LEAST = 2  # training patients of each class that are needed
_MOST_IMAGES = 5_000  # of all folds together; limits the time


def few_label_curve(
    vectors: NDArray[np.floating], target: Target, patients: Patients, seed: int = 0
) -> list[dict[str, Any]]:
    """`share`, number of training patients `n_patients`, mean `score` over the draws, and standard deviation `sd`;
    shares with too few patients are left out."""
    label = patients.typical(fold_label(target, patients))
    statistic = Statistic.from_target(target, patients, target.columns())
    fit = statistic.targets(np.arange(len(patients))[None]).astype(np.float64)

    def scores_of_draw(draw: int) -> list[tuple[float, float]]:
        rng = np.random.default_rng([seed, 6, draw])
        folds = deal_folds(label, _FOLDS, rng)
        scores = np.zeros((len(SHARES), *fit.shape))
        n_train = np.zeros(len(SHARES))
        turn = rng.permutation(patients.n_patients)
        probes = []
        for place, share in enumerate(SHARES):
            train = _rows(patients, _share_of(turn, label * _FOLDS + folds, share), rng)
            n_train[place] = len(np.unique(patients.codes[train])) * (1 - 1 / _FOLDS)
            weights = 1.0 / np.bincount(patients.codes[train])[patients.codes[train]]
            train_folds = folds[patients.codes[train]]
            probes.append(fold_probes(vectors[train], weights, fit[:, train], train_folds, _FOLDS))
        for fold in range(_FOLDS):
            test = np.flatnonzero(folds[patients.codes] == fold)
            slopes, offsets = zip(*(of_share[fold][:2] for of_share in probes), strict=True)
            found = np.vstack(slopes) @ np.asarray(vectors[test], dtype=np.float64).T + np.concatenate(offsets)[:, None]
            scores[:, :, test] = found.reshape(len(SHARES), len(fit), -1)
        return [(float(n), statistic.observed(s)) for n, s in zip(n_train, scores, strict=True)]

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        drawn = np.array(list(pool.map(scores_of_draw, range(DRAWS))))  # (draws, shares, 2)
    rarest = np.unique(label, return_counts=True)[1].min()
    if target.is_time:
        rarest = min(rarest, comparable_events(target, patients, np.ones(len(patients), dtype=bool)))
    return [
        {
            "share": share,
            "n_patients": round(float(drawn[:, place, 0].mean())),
            "score": float(drawn[:, place, 1].mean()),
            "sd": float(drawn[:, place, 1].std(ddof=1)),
        }
        for place, share in enumerate(SHARES)
        if rarest * (_FOLDS - 1) / _FOLDS * share >= _LEAST
    ]


def _share_of(turn: IntArray, label: IntArray, share: float) -> IntArray:
    """The first patients of each class and fold, so that a larger share contains the smaller one."""
    parts = [turn[label[turn] == value] for value in np.unique(label[turn])]
    return np.concatenate([part[: max(1, round(share * len(part)))] for part in parts])


def _rows(patients: Patients, chosen: IntArray, rng: np.random.Generator) -> IntArray:
    """The images of these patients; if there are more than 5,000, about equally many of each patient."""
    rows = np.flatnonzero(patients.images_of(chosen))
    if len(rows) <= _MOST_IMAGES:
        return rows
    rows = rng.permutation(rows)
    rows = rows[np.argsort(patients.codes[rows], kind="stable")]
    place = np.arange(len(rows)) - np.searchsorted(patients.codes[rows], patients.codes[rows])
    return np.sort(rows[np.lexsort((rng.random(len(rows)), place))[:_MOST_IMAGES]])
