"""The kNN probe: a prediction from the most similar patients, without training.

- [0]: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, section 3.4
- [1]: Caron et al., DINO, 2021, section 4.1: k = 20 for every backbone

Here a neighbour is a *patient*, represented by the nearest of the patient's images, so that fifty images of one patient
are one neighbour and not twenty. Votes are weighted by exp(cosine / 0.07) as in both papers. Only the centre of the
vectors is fitted, on training patients: without it the vectors of an MAE are so similar that all votes have the same
weight.

Legend: n images, d dimensions, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import IntArray, Patients

K = 20  # patients
TEMPERATURE = 0.07
_CHUNK_CELLS = 2_000_000  # similarities at once per core: 8 MB


def knn_scores(
    vectors: NDArray[np.floating],  # (n, d)
    targets: NDArray[np.floating],  # (c, n) the votes of neighbours: a level's indicator, or a number
    patients: IntArray,  # (n,) patient number of each row
    weights: NDArray[np.float64],  # (n,) 1 / images of the patient
    folds: IntArray,  # (n,) whole patients
    k: int = K,
) -> NDArray[np.float64]:
    """Out-of-fold votes (c, n): the weighted mean target of the k most similar training patients.

    Of each neighbour, the nearest image votes. k is at most a fifth of the training patients, but at least three.
    """
    votes = np.zeros(targets.shape)
    for fold in np.unique(folds):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        votes[:, test] = knn_votes(vectors, targets, patients, weights, test, train, k)
    return votes


def knn_votes(
    vectors: NDArray[np.floating],
    targets: NDArray[np.floating],
    patients: IntArray,
    weights: NDArray[np.float64],
    test: IntArray,
    train: IntArray,
    k: int = K,
    of_patient: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """(c, len(test)) votes of the training rows' patients; arguments as for `knn_scores`, with one fold's rows.

    of_patient: (patients,) the weight of each patient's vote; None: equal weights.
    """
    train = train[np.argsort(patients[train], kind="stable")]
    centre = np.average(np.asarray(vectors[train], dtype=np.float64), axis=0, weights=weights[train])
    n_others = len(np.unique(patients[train]))
    wanted = min(k, max(3, n_others // 5), n_others)
    votes = []
    for _, image, near in _nearest(vectors, patients, test, train, centre, wanted, own=False):
        share = np.exp((near - near[:, :1]) / TEMPERATURE)
        if of_patient is not None:
            share *= of_patient[patients[image]]
        share /= share.sum(axis=1, keepdims=True)
        votes.append((targets[:, image] * share).sum(axis=2))
    return np.concatenate(votes, axis=1)


def nearest_patients(
    vectors: NDArray[np.floating],  # (n, d)
    patients: Patients,
    queries: IntArray,  # (m,) rows
    k: int,
) -> IntArray:
    """(m, k) rows: of each of the `k` patients most similar to an image, except the image's patient, the nearest image;
    nearest first.

    By cosine after subtracting the mean over patients; labels are not used.
    """
    bank = np.argsort(patients.codes, kind="stable")
    centre = np.average(np.asarray(vectors, dtype=np.float64), axis=0, weights=patients.weights)
    images = [image for _, image, _ in _nearest(vectors, patients.codes, queries, bank, centre, k, own=True)]
    return np.concatenate(images)


def _nearest(
    vectors: NDArray[np.floating],
    patients: IntArray,
    queries: IntArray,
    bank: IntArray,  # rows that may be found, sorted by patient
    centre: NDArray[np.float64],
    wanted: int,
    *,
    own: bool,  # whether the bank contains the query's patient, who is then excluded
) -> Iterator[tuple[IntArray, IntArray, NDArray[np.float64]]]:
    """(queries, (q, wanted) rows of the nearest image of the nearest patients, nearest first, their cosines), by
    parts."""
    change = np.diff(patients[bank]) > 0
    starts, owner = np.flatnonzero(np.r_[True, change]), np.cumsum(np.r_[False, change])
    ends = np.append(starts[1:], len(bank))
    place = np.full(int(patients.max()) + 1, -1, dtype=np.int64)
    place[patients[bank[starts]]] = np.arange(len(starts))
    unit = _unit(vectors[bank], centre)
    rows = max(1, _CHUNK_CELLS // len(bank))

    def search_chunk(first: int) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
        part = queries[first : first + rows]
        similarity = _unit(vectors[part], centre) @ unit.T  # (rows, bank)
        if own:
            for row, patient in zip(similarity, place[patients[part]], strict=True):
                row[starts[patient] : ends[patient]] = -np.inf
        image, near = _of_each_patient(similarity, owner, wanted, min(4 * wanted, len(bank)))
        return part, bank[image], near.astype(np.float64)

    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        yield from pool.map(search_chunk, range(0, len(queries), rows))


def _unit(vectors: NDArray[np.floating], centre: NDArray[np.float64]) -> NDArray[np.float32]:
    away = np.asarray(vectors, dtype=np.float64) - centre
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return np.asarray(away / np.maximum(lengths, 1e-12), dtype=np.float32)


def _of_each_patient(
    similarity: NDArray[np.float32],  # (m, n)
    owner: IntArray,  # (n,) whose image each column is
    wanted: int,
    most: int,  # number of most similar columns to search first
) -> tuple[IntArray, NDArray[np.float32]]:
    """Of each row the most similar column of each of the `wanted` most similar patients, nearest first, and how
    similar."""
    n = similarity.shape[1]
    some = np.sort(np.argpartition(similarity, n - most, axis=1)[:, n - most :], axis=1)
    near = np.take_along_axis(similarity, some, axis=1)
    order = np.argsort(-near, axis=1, kind="stable")
    some, near = np.take_along_axis(some, order, axis=1), np.take_along_axis(near, order, axis=1)
    by_owner = np.argsort(owner[some], axis=1, kind="stable")
    whose = np.take_along_axis(owner[some], by_owner, axis=1)
    first = np.empty(some.shape, dtype=bool)
    np.put_along_axis(first, by_owner, np.diff(whose, axis=1, prepend=-1) != 0, axis=1)
    first &= near > -np.inf
    place = np.cumsum(first, axis=1)
    first &= place <= wanted
    enough = place[:, -1] >= wanted
    images, similar = np.empty((len(some), wanted), dtype=np.int64), np.empty((len(some), wanted), dtype=np.float32)
    images[enough], similar[enough] = (found[enough][first[enough]].reshape(-1, wanted) for found in (some, near))
    if not enough.all():  # a few patients have most of the similar images
        images[~enough], similar[~enough] = _of_each_patient(similarity[~enough], owner, wanted, n)
    return images, similar
