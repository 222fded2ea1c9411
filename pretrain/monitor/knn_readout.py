"""Predict a variable from the nearest images of other patients: AUROC or Spearman correlation, with a 95 % interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.statistics import auroc, correlation, ridits
from pellucid.embed.index import normalised

FEWEST_PATIENTS = 5  # of a level, among the predicted patients; with fewer a note replaces the score
RESAMPLES = 200

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def nearest(vectors: NDArray[np.float32], asked: Ints, known: Ints, patients: Ints, k: int) -> tuple[Ints, Floats]:
    """The `k` rows of `known` nearest to each row of `asked`, never of the same patient.

    By cosine similarity after the mean of `known` is subtracted: features with a large common component, like MAE's,
    are all similar without it.

    Returns:
        (q, k) rows of `vectors`, nearest first, and (q, k) cosines; −inf where there are fewer than k.
    """
    unit = normalised((vectors - vectors[known].mean(axis=0)).astype(np.float32))
    similarity = (unit[asked] @ unit[known].T).astype(np.float64)
    similarity[patients[asked][:, None] == patients[known][None, :]] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(known))]
    return known[order], np.take_along_axis(similarity, order, axis=1)


def predict_from_neighbours(
    vectors: NDArray[np.float32], values: pd.Series, kind: str, patients: Ints, *, asked: Ints, known: Ints, k: int
) -> dict[str, Any]:
    """How well `values` of the `asked` images are predicted from the nearest `known` images.

    Binary and categorical: the prediction is the share of neighbours with a level; the score is the AUROC, averaged
    over the levels of at least FEWEST_PATIENTS predicted patients. Ordinal and continuous: the prediction is the mean
    of the neighbours; the score is Spearman's correlation. Every patient has the same weight, regardless of the number
    of images. The interval is the 95 % percentile bootstrap over patients.

    No patient should be both asked and known: in leave-one-out prediction a patient with a finding leaves fewer such
    patients among the neighbours, which puts scores below chance.

    Args:
        vectors: (n, d). values: (n,), may be missing. patients: (n,) codes. asked, known: rows. k: number of
            neighbours.

    Returns:
        metric, score, ci_low, ci_high (None where a note explains why), chance, patients, images, levels, note.
    """
    present = values.notna().to_numpy()
    asked, known = asked[present[asked]], known[present[known]]
    ranked = kind in {"ordinal", "continuous"}
    n_patients = len(np.unique(patients[asked]))
    answer: dict[str, Any] = {
        "metric": "spearman" if ranked else "auroc", "score": None, "ci_low": None, "ci_high": None,
        "chance": 0.0 if ranked else 0.5, "patients": n_patients, "images": len(asked), "levels": {}, "note": "",
    }  # fmt: skip
    if n_patients < 2 * FEWEST_PATIENTS or len(np.unique(patients[known])) < 2:
        return answer | {"note": f"too few patients ({n_patients})"}
    rows, similarity = nearest(vectors, asked, known, patients, k)
    there = np.isfinite(similarity).astype(np.float64)
    if not there.any(axis=1).all():
        return answer | {"note": "too few patients among the neighbours"}
    weights, one_stratum = _weights(patients[asked]), np.zeros(len(asked), np.int64)
    if ranked:
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
        if len(np.unique(numbers[asked])) < 2:
            return answer | {"note": "only one value"}
        predicted = (numbers[rows] * there).sum(axis=1) / there.sum(axis=1)
        ranks = ridits(np.stack([numbers[asked], predicted]), weights[0], one_stratum)
        left, right = (side - (weights @ side / weights.sum(axis=1))[:, None] for side in ranks)
        return answer | _estimate(correlation(left, right, weights))
    names = values.astype(str).to_numpy()
    counts = {level: len(np.unique(patients[asked][names[asked] == level])) for level in sorted(set(names[asked]))}
    few = {level: n for level, n in counts.items() if n < FEWEST_PATIENTS}
    enough = [level for level in counts if level not in few]
    answer["levels"] = counts
    if few:
        answer["note"] = "too few patients with " + ", ".join(f"{level} ({n})" for level, n in few.items())
    if len(enough) < 2 and not (len(enough) == 1 and sum(few.values()) >= FEWEST_PATIENTS):
        return answer | {"note": answer["note"] or "only one level"}
    if len(counts) == 2:
        enough = enough[-1:]  # the AUROC of two levels is the same for both
    per_level = []
    for level in enough:
        of_level = (names == level).astype(np.float64)
        votes = (of_level[rows] * there).sum(axis=1) / there.sum(axis=1)
        per_level.append(auroc(votes, names[asked] == level, weights, one_stratum))
    return answer | _estimate(np.mean(per_level, axis=0))


def _weights(patients: Ints) -> Floats:
    """(1 + RESAMPLES, q): every patient has weight 1 in the first row, and the number of times drawn in the others."""
    _, codes, counts = np.unique(patients, return_inverse=True, return_counts=True)
    n = len(counts)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    times = np.vstack([np.ones((1, n)), drawn])
    return np.asarray((times / counts)[:, codes], dtype=np.float64)


def _estimate(scores: Floats) -> dict[str, Any]:
    drawn = scores[1:][np.isfinite(scores[1:])]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return {
        key: None if not np.isfinite(value) else round(float(value), 6)
        for key, value in (("score", scores[0]), ("ci_low", low), ("ci_high", high))
    }
