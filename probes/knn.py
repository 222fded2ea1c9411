"""The kNN probe, beside the linear ones: what a new patient's most similar patients say, without any training.

- [0]: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, section 3.4
- [1]: Caron et al., DINO, 2021, section 4.1: k = 20 for every backbone

Here a neighbour is a *patient*, found by the nearest of his or her images, so that fifty pictures of one person are one
neighbour and not twenty. Votes are weighted by exp(cosine / 0.07) as in both papers. The one thing fitted, the centre of the
vectors, is the training patients': without it the vectors of an MAE are so alike that all votes weigh the same.

Legend: n images, d dimensions, k neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cohort.patients import IntArray

K = 20  # patients
TEMPERATURE = 0.07
_CHUNK_CELLS = 20_000_000  # similarities at once: 80 MB


def knn_scores(
    vectors: NDArray[np.floating],  # (n, d)
    targets: NDArray[np.floating],  # (c, n) what neighbours vote: a level's indicator, or a number
    patients: IntArray,  # (n,) patient number of each row
    weights: NDArray[np.float64],  # (n,) 1 / images of the patient
    folds: IntArray,  # (n,) whole patients
    k: int = K,
) -> NDArray[np.float64]:
    """Out-of-fold votes (c, n): the weighted mean target of the k most similar training patients.

    Of a neighbour that image votes which is nearest. k is at most a fifth of the training patients, but at least three.
    """
    votes = np.zeros(targets.shape)
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        train = train[np.argsort(patients[train], kind="stable")]
        starts = np.flatnonzero(np.r_[True, np.diff(patients[train]) > 0])
        owner = np.cumsum(np.r_[False, np.diff(patients[train]) > 0])  # 0 … training patients - 1
        centre = np.average(np.asarray(vectors[train], dtype=np.float64), axis=0, weights=weights[train])
        bank = _unit(vectors[train], centre)
        wanted = min(k, max(3, len(starts) // 5), len(starts))
        rows = max(1, _CHUNK_CELLS // len(train))
        for first in range(0, len(test), rows):
            part = test[first : first + rows]
            similarity = _unit(vectors[part], centre) @ bank.T  # (rows, training images)
            nearest = np.maximum.reduceat(similarity, starts, axis=1)  # (rows, training patients)
            chosen = np.argpartition(-nearest, wanted - 1, axis=1)[:, :wanted]
            near = np.take_along_axis(nearest, chosen, axis=1).astype(np.float64)
            share = np.exp((near - near.max(axis=1, keepdims=True)) / TEMPERATURE)
            share /= share.sum(axis=1, keepdims=True)
            image = _nearest_image(similarity, nearest, chosen, owner)  # (rows, wanted)
            votes[:, part] = (targets[:, train][:, image] * share).sum(axis=2)
    return votes


def _unit(vectors: NDArray[np.floating], centre: NDArray[np.float64]) -> NDArray[np.float32]:
    away = np.asarray(vectors, dtype=np.float64) - centre
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return np.asarray(away / np.maximum(lengths, 1e-12), dtype=np.float32)


def _nearest_image(
    similarity: NDArray[np.float32], nearest: NDArray[np.float32], chosen: IntArray, owner: IntArray
) -> IntArray:
    """Column of `similarity` in which each chosen patient has his or her nearest image, (rows, wanted)."""
    found = np.empty(chosen.shape, dtype=np.int64)
    for row in range(len(chosen)):
        first = np.full(nearest.shape[1], -1, dtype=np.int64)
        columns = np.flatnonzero(similarity[row] >= nearest[row, owner])
        first[owner[columns[::-1]]] = columns[::-1]  # of equally near ones the first
        found[row] = first[chosen[row]]
    return found
