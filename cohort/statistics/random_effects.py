"""How much a patient's mean over images scatters, by the number of images: what makes patients of few and of many
comparable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics.patient_resampling import Patients

FloatArray = NDArray[np.float64]


def standardised(columns: FloatArray, patients: Patients) -> tuple[FloatArray, FloatArray]:
    """Patients' deviations in units of their own standard error, and these errors, if all patients are of one kind.

    Between patients the true means have variance τ², the images of one patient σ²: a mean of n images has τ² + σ²/n.
    σ² is pooled with weight 1 - 1/n a patient; τ² is the method-of-moments estimate of Paule & Mandel (J Res Natl Bur
    Stand 1982;87:377; DerSimonian & Kacker, Contemp Clin Trials 2007;28:105), in which each patient counts once.

    Args:
        columns: (n_images, k) numbers or indicators; each column is judged alone.

    Returns:
        deviations (n_patients, k) with mean 0, and errors (n_patients, k). Errors are 1, and deviations plain, in a
        column that does not vary within any patient, or where all have equally many images.
    """
    means, sizes = patient_means(columns, patients), patients.sizes
    errors = np.ones_like(means)
    deviations = means - means.mean(axis=0)
    if sizes.min() == sizes.max():
        return deviations, errors
    for k, column in enumerate(columns.T):
        mean = means[:, k]
        within = float((patients.weights * (column - mean[patients.codes]) ** 2).sum() / (1 - 1 / sizes).sum())
        if within <= 1e-12 * float(column.var()):
            continue
        error = np.sqrt(_between(mean, within / sizes) + within / sizes)
        deviation = (mean - (mean / error**2).sum() / (1 / error**2).sum()) / error
        deviation -= deviation.mean()
        # With τ² = 0 the means may lie closer together than σ² allows; by chance, which must not narrow the null.
        deviation *= max(1.0, np.sqrt((len(mean) - 1) / max(float((deviation**2).sum()), 1e-12)))
        errors[:, k], deviations[:, k] = error, deviation
    return deviations, errors


def patient_means(columns: FloatArray, patients: Patients) -> FloatArray:
    """Means over each patient's images, (n_images, k) → (n_patients, k)."""
    weights = patients.weights
    return np.stack([np.bincount(patients.codes, weights * c, patients.n_patients) for c in columns.T], axis=1)


def _between(mean: FloatArray, sampling: FloatArray) -> float:
    """τ² ≥ 0 at which the weighted squares of patients' means are as large as their degrees of freedom."""

    def excess(tau2: float) -> float:
        weight = 1 / (tau2 + sampling)
        centre = (weight * mean).sum() / weight.sum()
        return float((weight * (mean - centre) ** 2).sum() - (len(mean) - 1))

    if excess(0.0) <= 0:
        return 0.0
    most = float(mean.var(ddof=1)) * (1 + 1e-9)  # there the excess is below 0: the mean itself is no better centre
    from scipy.optimize import brentq  # here: workers that compute vectors do not need its second of import

    return float(brentq(excess, 0.0, most, xtol=1e-9 * most))
