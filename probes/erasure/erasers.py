"""Three ways to remove an acquisition factor from vectors, each learnt on training patients and applicable to any
patient.

- [0]: Belrose et al., LEACE: Perfect linear concept erasure in closed form, 2023, theorem 4.3 and equation 1
- [1]: Johnson, Li & Rabinovic, Adjusting batch effects in microarray expression data using empirical Bayes methods,
  2007 (ComBat, by the library combatlearn)

Legend: n images, d dimensions, b columns of the factor (an indicator per level; or one column of numbers).
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Values = NDArray[np.float64]
Erase = Callable[[Values, Values], Values]  # (vectors, factor) → vectors without it

NAMES = {
    "leace": "LEACE",
    "residual": "linear residuals",
    "combat": "ComBat",
}


def fit_leace(vectors: Values, factor: Values, weights: Values) -> Erase:
    """The smallest change of the vectors after which no linear probe of the training patients finds the factor [0].

    r(x) = x − W⁺ P W (x − mean), W the whitening of the vectors and P the projection onto the columns of W Σ_xz. It
    does not need the factor of a new image.

    Args:
        vectors: (n, d) of training patients.
        factor: (n, b).
        weights: (n,) each patient weighing 1.
    """
    share = weights / weights.sum()
    mean = share @ vectors
    rooted = (vectors - mean) * np.sqrt(share)[:, None]
    other = (factor - share @ factor) * np.sqrt(share)[:, None]
    values, directions = np.linalg.eigh(rooted.T @ rooted)
    there = values > 1e-9 * max(float(values.max(initial=0.0)), 1e-300)
    values, directions = values[there], directions[:, there]
    white = directions / np.sqrt(values)  # (d, r): the columns of Wᵀ
    left, size, _ = np.linalg.svd(white.T @ (rooted.T @ other), full_matrices=False)
    left = left[:, size > 1e-7 * np.linalg.norm(other)]  # drop directions that are rounding error
    out, back = white @ left, (directions * np.sqrt(values)) @ left  # (d, rank) each

    def erase(x: Values, _: Values) -> Values:
        return np.asarray(x - ((x - mean) @ out) @ back.T)

    return erase


def fit_residual(vectors: Values, factor: Values, weights: Values) -> Erase:
    """Residuals of a weighted linear regression on the factor; for levels, the mean of each level is subtracted."""
    share = weights / weights.sum()
    mean, centre = share @ vectors, share @ factor
    rooted = np.sqrt(share)[:, None]
    slope = np.linalg.lstsq((factor - centre) * rooted, (vectors - mean) * rooted, rcond=None)[0]

    def erase(x: Values, z: Values) -> Values:
        return np.asarray(x - (z - centre) @ slope)

    return erase


def has_combat() -> bool:
    """Whether the library is installed (extra `combat`)."""
    return importlib.util.find_spec("combatlearn") is not None


def fit_combat(vectors: Values, factor: Values, weights: Values) -> Erase:
    """ComBat [1]: mean and spread of each dimension and level, drawn towards those of the other dimensions.

    The library has no weights: every image counts equally. No spread can be learnt from a level with one training
    image.
    """
    from combatlearn import ComBat

    varies = vectors.std(axis=0) > 1e-12
    batch = np.argmax(factor, axis=1)

    def framed(x: Values, z: Values) -> tuple[pd.DataFrame, pd.Series[Any]]:
        return pd.DataFrame(x[:, varies]), pd.Series(np.argmax(z, axis=1))

    frame, _ = framed(vectors, factor)

    def erase(x: Values, z: Values) -> Values:
        shown, level = framed(x, z)
        both = pd.concat([pd.Series(batch), level], ignore_index=True)
        shown.index = pd.RangeIndex(len(frame), len(frame) + len(shown))
        model = ComBat(batch=both, method="johnson")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(frame)
            changed = np.asarray(model.transform(shown), dtype=np.float64)
        out = np.array(x, dtype=np.float64)
        out[:, varies] = changed
        return out

    return erase


FITS: dict[str, Callable[[Values, Values, Values], Erase]] = {
    "leace": fit_leace,
    "residual": fit_residual,
    "combat": fit_combat,
}
