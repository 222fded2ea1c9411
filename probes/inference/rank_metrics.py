"""Rank measures of how well scores read off a variable, weighted by patient and restricted to strata.

Higher is better everywhere; chance is 0.5 for the AUROC and 0 for Spearman; nothing is folded: an AUROC below 0.5
stays below 0.5. Of very many score vectors, a permutation each, `pellucid.probes.inference.binned_rank_metrics` has the same without sorting.

Shapes: n images, c score vectors. A stratum restricts comparisons: two images are compared only if they lie in
the same one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import along, below, rows_of_strata, sort_order

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


def auroc_parts(
    scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray, strata: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Weight of concordant pairs and weight of all pairs (positive, negative) of the same stratum, each (c,).

    scores (c, n), positive (c, n) or (n,), weights (n,), strata (n,).
    """
    n_vectors = len(scores)
    concordant, pairs = np.zeros(n_vectors), np.zeros(n_vectors)
    for rows in rows_of_strata(strata):
        block = scores if len(rows) == scores.shape[1] else np.take(scores, rows, axis=1)  # one stratum: no copy
        is_positive = np.broadcast_to(positive if block is scores else positive[..., rows], block.shape)
        weight = weights if block is scores else weights[rows]
        order, equal = sort_order(block)
        signed = along(np.where(is_positive, weight, -weight), order)
        gain = np.maximum(signed, 0.0)
        loss = gain - signed
        concordant += np.einsum("ij,ij->i", gain, below(loss, equal))
        pairs += gain.sum(axis=1) * loss.sum(axis=1)
    return concordant, pairs


def auroc(
    scores: FloatArray, positive: NDArray[np.bool_], weights: FloatArray, strata: IntArray
) -> NDArray[np.float64]:
    """Area under the ROC curve, (c,): the chance that a positive patient scores above a negative of the same stratum.

    Ties count half; images weigh 1 / images of their patient (see `Patients.weights`), so this is a statement about
    patients. NaN where no stratum holds both classes. Range 0–1, chance 0.5 (Hanley & McNeil 1982).
    """
    concordant, pairs = auroc_parts(scores, positive, weights, strata)
    return np.asarray(np.divide(concordant, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def spearman(
    scores: FloatArray, target_ridits: FloatArray, weights: FloatArray, strata: IntArray
) -> NDArray[np.float64]:
    """Spearman's rank correlation of scores and target within strata, weighted by patient, (c,). Range -1 to 1.

    target_ridits: (c, n) or (n,), from `ridits` with the same weights and strata.
    """
    targets = np.broadcast_to(target_ridits, scores.shape)
    cross, norm = np.zeros(len(scores)), np.zeros(len(scores))
    for rows in rows_of_strata(strata):  # in sorted order: ranks are never put back into their places
        whole = len(rows) == scores.shape[1]
        weight = weights if whole else weights[rows]
        order, equal = sort_order(scores if whole else np.take(scores, rows, axis=1))
        mass = weight[order]
        ranks = below(mass, equal) / weight.sum() - 0.5
        mass *= ranks
        cross += np.einsum("ij,ij->i", mass, along(targets if whole else np.take(targets, rows, axis=1), order))
        norm += np.einsum("ij,ij->i", mass, ranks)
    norm = np.sqrt(norm * (weights * targets**2).sum(axis=1))
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(norm), where=norm > 1e-12))
