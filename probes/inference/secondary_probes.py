"""Other probes of the same variable in the same folds: score and interval, no p-value.

- `logistic`: levels, one against the rest
- `knn`: nearest neighbours, without training
- `pooled`: a ridge probe of one vector per patient, the mean over the patient's images: do all images together show
  what a single image does not? (Mean pooling: Ilse et al., Attention-based deep multiple instance learning, 2018,
  section 2.3)
- `nonlinear`: boosted trees, optional
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pellucid.cohort.statistics import IntArray, Patients, drawn_evenly
from pellucid.probes.estimators.boosted_trees import boosted_scores
from pellucid.probes.estimators.knn import knn_scores
from pellucid.probes.estimators.logistic import logistic_scores
from pellucid.probes.estimators.ridge import FoldedRidge
from pellucid.probes.inference.confidence_interval import Scored, interval
from pellucid.probes.inference.statistic import Statistic

Other = Literal["logistic", "knn", "pooled", "nonlinear"]
_MOST_IMAGES = 10_000  # for kNN, whose cost grows quadratically, and for trees; drawn evenly over patients


@dataclass(frozen=True)
class SharedFolds:
    """Folds, targets and bootstrap samples of the ridge probe, which the other probes share."""

    vectors: NDArray[np.floating]  # (n, d)
    patients: Patients
    statistic: Statistic
    ridge: FoldedRidge
    fit: NDArray[np.float32]  # (columns, n)
    folds: IntArray  # (p,)
    counts: NDArray[np.float32]  # (bootstrap, p)
    refitted: float  # standard error due to the training patients, reused for the other probes

    def score(self, other: Other, rng: np.random.Generator, seed: int) -> Scored | None:
        """Score and interval; None where the probe does not apply to this variable."""
        target, patients = self.statistic.target, self.patients
        data = np.asarray(target.data, dtype=np.int64) if target.n_levels else None
        kept = np.arange(len(patients))
        scores: NDArray[np.floating]
        if other == "logistic":
            if data is None:
                return None
            scores = logistic_scores(self.ridge, data, self.statistic.columns)
        elif other == "pooled":
            if not patients.constant(target.order if target.is_time else target.data).all():
                return None
            kept = np.unique(patients.codes, return_index=True)[1]
            alone = np.zeros(len(kept), dtype=np.int64)
            ridge = FoldedRidge(pooled(self.vectors, patients), np.ones(len(kept)), self.folds, alone)
            scores = ridge.scores(self.fit[:, kept])
        else:
            kept = drawn_evenly(patients, _MOST_IMAGES, rng)
            part = self.vectors if len(kept) == len(patients) else self.vectors[kept]
            inside, folds, fit = self._among(kept)[0], self.folds[patients.codes[kept]], self.fit[:, kept]
            if other == "knn":
                scores = knn_scores(part, fit, inside.codes, inside.weights, folds)
            else:
                levels = None if data is None else data[kept]
                scores = boosted_scores(part, levels, self.statistic.columns, fit[0], inside.weights, folds, seed)
        inside, drawn = self._among(kept)
        statistic = replace(self.statistic.reordered(kept), weights=inside.weights)
        score = statistic.observed(scores)
        fewer = float(np.sqrt(patients.n_patients / inside.n_patients))  # fewer patients, larger error
        return score, *interval(statistic, score, scores, inside, drawn, self.refitted * fewer)

    def _among(self, kept: IntArray) -> tuple[Patients, NDArray[np.float32]]:
        """The patients of some rows, and (bootstrap, p) how often each was drawn."""
        rows = np.zeros(len(self.patients), dtype=bool)
        rows[kept] = True
        return self.patients.subset(rows), self.counts[:, np.unique(self.patients.codes[kept])]


def pooled(vectors: NDArray[np.floating], patients: Patients) -> NDArray[np.float32]:
    """(p, d) the mean of each patient's vectors."""
    place = (patients.weights.astype(np.float32), (patients.codes, np.arange(len(patients))))
    mean = csr_matrix(place, shape=(patients.n_patients, len(patients)))
    return np.asarray(mean @ np.asarray(vectors, dtype=np.float32), dtype=np.float32)
