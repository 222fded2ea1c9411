"""From which agreement on two images are copies: far outside what images of different patients reach in this study.

The agreements of pairs that are certainly not copies, images of two patients at the same place, are the null
distribution. A pair counts as a copy only if its agreement is improbable under it even as the highest of the study;
the limit is never below a fixed one. Normalising a similarity by a cohort of impostors is usual in speaker
verification (Auckenthaler, Carey and Lloyd-Thomas, Digital Signal Processing 10, 2000, z-norm) and in copy
detection (Pizzi et al., CVPR 2022, section 5.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

Verdict = Literal["copy", "question", "different"]

# docs/splits.md has the measurements behind these three.
MIN_AGREEMENT = 0.95  # of a copy, whatever the study: copies have 0.988 and more
MIN_QUESTION = 0.8
CERTAIN = 0.98  # pairs that agree by more are copies, and no part of the null distribution
MIN_NULL = 20  # pairs; with fewer, images of this study are seldom alike
FALSE_COPIES = 0.01  # expected per study, over all its images
_LARGEST = 0.999  # beyond it Fisher's z depends on rounding


@dataclass(frozen=True)
class CopyLimits:
    """Limits of the agreement.

    Attributes:
        copy: from here on, a pair is a copy.
        question: from here on, a pair of two patients is reported as a question and binds nobody.
        n_null: pairs of different patients that it is computed from; 0: too few, the fixed limit holds.
        usual: their median agreement; NaN without them.
    """

    copy: float
    question: float
    n_null: int
    usual: float

    def verdict(self, agreement: float) -> Verdict:
        """What a pair with this agreement is."""
        if agreement >= self.copy:
            return "copy"
        return "question" if agreement >= self.question else "different"


def copy_limits(null: Sequence[float], n_images: int) -> CopyLimits:
    """Limits for a study.

    With Fisher's z = artanh(agreement), m its median over the null and s = (q90 − m) / 1.28 the spread of its upper
    half (unlike a standard deviation, neither moves much if a few of the pairs are copies after all), the limit is
    tanh(m + k s). k is the normal quantile of 1 − 0.01 / n: each of n images has one most similar image of
    another patient, and over all of them 0.01 false copies are expected.

    A pair must reach this limit *and* the fixed one to be a copy. If it reaches only one of them (and MIN_QUESTION) it
    is a question: alike enough for a copy elsewhere but not in this study, or the reverse.

    Args:
        null: agreements of images of two different patients at the same place.
        n_images: images compared.
    """
    values = np.asarray(null, dtype=np.float64)
    values = values[values < CERTAIN]
    if len(values) < MIN_NULL:
        return CopyLimits(MIN_AGREEMENT, MIN_QUESTION, 0, float("nan"))
    z = np.arctanh(np.clip(values, -_LARGEST, _LARGEST))
    middle, high = np.quantile(z, [0.5, 0.9])
    spread = (high - middle) / NormalDist().inv_cdf(0.9)
    k = NormalDist().inv_cdf(1 - FALSE_COPIES / max(n_images, 1))
    calibrated = float(np.tanh(middle + k * spread))
    question = max(MIN_QUESTION, min(MIN_AGREEMENT, calibrated))
    return CopyLimits(max(MIN_AGREEMENT, calibrated), question, len(values), float(np.tanh(middle)))
