"""The `pixels` baseline: features without any learning, with which every backbone is compared."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

PIXELS_SIZE_PX = 128
_THUMBNAIL, _BINS, _RINGS = 16, 16, 32
PIXELS_DIM = _THUMBNAIL * _THUMBNAIL * 3 + _BINS * 3 + _RINGS


def pixel_features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(128, 128, 3) uint8 RGB → (848,) float32: 16 × 16 thumbnail, colour histogram, radial power spectrum.

    The thumbnail is in 0–1. Each channel's 16-bin histogram sums to 1. The spectrum is the log10 power of the grey
    image under a Hann window, averaged over 32 rings of equal width up to the Nyquist frequency.
    """
    thumbnail = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    histogram = np.concatenate(
        [np.bincount(pixels[:, :, c].ravel() >> 4, minlength=_BINS) / pixels[:, :, c].size for c in range(3)]
    )
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    size = gray.shape[0]
    window = np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft2((gray - gray.mean()) * window[:, None] * window[None, :])) ** 2
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    # Corners beyond the Nyquist frequency go to an extra ring, which is dropped.
    ring = np.minimum((radius / 0.5 * _RINGS).astype(int), _RINGS)
    sums = np.bincount(ring.ravel(), power.ravel(), _RINGS + 1)[:_RINGS]
    counts = np.bincount(ring.ravel(), minlength=_RINGS + 1)[:_RINGS]
    spectrum = np.log10(sums / counts + 1e-6)
    return np.concatenate([thumbnail.ravel(), histogram, spectrum]).astype(np.float32)
