"""How unusual an image is: its distance to the nearest images of other patients, as a percentile of the cohort."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics.patient_resampling import turn_within_patient
from pellucid.embed.index.other_patients import codes_of, search_elsewhere
from pellucid.embed.index.query import Index

NEIGHBOURS = 10
_SAMPLE = 1_000
_QUANTILES = 200


def cohort_distances(index: Index, patients: NDArray[Any], seed: int = 0) -> dict[str, Any]:
    """Distances within the cohort, from a sample of its images in which patients have about equal shares.

    Args:
        patients: (n,) patient of each row.

    Returns:
        {neighbours, images, patients, quantiles}: the 0/200 … 200/200 quantiles of the mean cosine distance of an image
        to its ten nearest images of *other* patients. No quantiles if there are fewer than two patients.
    """
    groups = codes_of(patients)
    n_patients = int(groups.max()) + 1 if len(groups) else 0
    record: dict[str, Any] = {"neighbours": NEIGHBOURS, "images": 0, "patients": n_patients, "quantiles": []}
    if n_patients < 2:
        return record
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    turn = turn_within_patient(groups, shuffled)[shuffled]
    rows = np.sort(shuffled[np.argsort(turn, kind="stable")[:_SAMPLE]])
    distances = mean_distances(index, np.asarray(index.values[rows]), groups, groups[rows])
    quantiles = np.quantile(distances, np.linspace(0, 1, _QUANTILES + 1))
    return record | {"images": len(rows), "quantiles": [round(float(q), 7) for q in quantiles]}


def mean_distances(
    index: Index, queries: NDArray[np.float32], groups: NDArray[np.int64], own: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(m,) mean cosine distance of each query to its ten nearest rows of other groups; NaN if there are none."""
    similarity, rows = search_elsewhere(index, queries, NEIGHBOURS, groups, own)
    return mean_of_found(similarity, rows)


def mean_of_found(similarity: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m,) mean of 1 − cosine over the rows found."""
    distance = np.where(rows >= 0, 1 - similarity.astype(np.float64), np.nan)
    counts = (rows >= 0).sum(axis=1)
    return np.where(counts > 0, np.nansum(distance, axis=1) / np.maximum(counts, 1), np.nan)


def percentile(distances: NDArray[np.float64], record: dict[str, Any]) -> NDArray[np.float64]:
    """(m,) percentage of the cohort's images, 0 to 100, that are nearer to their neighbours; NaN if unknown."""
    quantiles = np.asarray(record.get("quantiles", []))
    if not len(quantiles):
        return np.full(len(distances), np.nan)
    shares = np.linspace(0, 100, len(quantiles))
    low = np.interp(distances, quantiles, shares, left=0, right=100)
    return np.where(np.isnan(distances), np.nan, low)
