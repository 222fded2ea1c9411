"""The 95 % interval of a score: the patient bootstrap and the balanced half samples, on a variance-stabilising
scale."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from pellucid.cohort.statistics import IntArray, Patients
from pellucid.probes.estimators.ridge import FoldedRidge
from pellucid.probes.inference.half_samples import CONTRASTS, half_sample_pairs
from pellucid.probes.inference.statistic import Statistic

Scored = tuple[float, float, float]  # score and its 95 % interval
_SAMPLED_CELLS = 100_000  # rows × bootstrap samples at once: fits into the processor's cache


def stretch(score: NDArray[np.float64], ranked: bool) -> NDArray[np.float64]:
    """To a scale on which the variance hardly depends on the score: arcsine of the square root, or Fisher's z."""
    if ranked:
        return np.arctanh(np.clip(score, -0.9999, 0.9999))
    return np.asarray(np.arcsin(np.sqrt(np.clip(score, 0.0, 1.0))))


def refit_error(statistic: Statistic, ridge: FoldedRidge, fit: NDArray[np.floating], groups: IntArray) -> float:
    """Standard error, on the stretched scale, of the score under other training and test patients (balanced half
    samples)."""
    ranked = statistic.target.metric == "spearman"
    halves = half_sample_pairs(ridge, fit, groups, statistic.strata, statistic.on_half)
    difference = np.diff(stretch(halves, ranked), axis=1)
    difference = difference[np.isfinite(difference)]
    return float(np.sqrt((difference**2).mean() / 4)) if len(difference) else 0.0


def resampled_in_chunks(
    statistic: Statistic, scores: NDArray[np.floating], patients: Patients, counts: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(bootstrap,) the statistic of each sample of patients; counts (bootstrap, n_patients)."""
    chunk = max(1, _SAMPLED_CELLS // len(patients))

    resampled = statistic.resampler(scores)

    def resample_chunk(first: int) -> NDArray[np.float64]:
        return resampled(np.take(counts[first : first + chunk], patients.codes, axis=1))

    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        return np.concatenate(list(pool.map(resample_chunk, range(0, len(counts), chunk))))


def interval(
    statistic: Statistic,
    observed: float,
    scores: NDArray[np.floating],
    patients: Patients,
    counts: NDArray[np.float32],  # (bootstrap, n_patients)
    refitted: float,  # from `refit_error`
) -> tuple[float, float]:
    """95 % interval of the expected score of the probe with this number of patients.

    The standard error is the larger of two: the patient bootstrap of the out-of-fold scores (other test patients),
    and the balanced half samples of `pellucid.probes.inference.half_samples` (other training and test patients).
    Student's t with 15 degrees of freedom, on a variance-stabilising scale. (The logistic and the kNN probe use the
    half samples of the ridge probe.)
    """
    ranked = statistic.target.metric == "spearman"
    drawn = resampled_in_chunks(statistic, scores, patients, counts)
    fixed = float(stretch(drawn[np.isfinite(drawn)], ranked).std())
    reach = float(student_t.ppf(0.975, len(CONTRASTS))) * max(fixed, refitted)
    centre = float(stretch(np.array(observed), ranked))
    if ranked:
        return float(np.tanh(centre - reach)), float(np.tanh(centre + reach))
    low = np.sin(max(centre - reach, 0.0)) ** 2
    if observed > 1 - 1e-12:  # no errors to estimate the spread from: rule of three for the scarcer side
        low = min(low, max(0.0, 1 - 1.5 / max(statistic.scarcest, 1)))
    high = np.sin(min(centre + reach, np.pi / 2)) ** 2
    return float(low), float(high)
