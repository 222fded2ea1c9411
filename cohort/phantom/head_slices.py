"""Slices of standardised anatomy: heads that look alike at the same level, and differ in each patient's details.

A test of copy detection. Outline, skull, ventricles and the main furrows are the same for all patients at one level;
fine furrows, size, position, brightness and noise are each patient's. Two slices of one level are therefore alike to
the eye, and to a perceptual hash, without being copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
_WAVES = 48  # random waves of a field of furrows
_CYCLES = (4.0, 16.0)  # wave numbers over half the image side: furrows of about 8 to 32 pixels at 256


@dataclass(frozen=True)
class HeadSlice:
    """One slice.

    Attributes:
        patient: number of the patient, from 0.
        level: number of the slice, from 0 (base) upwards; the same level is the same place in all patients.
        pixels: (size, size, 3) uint8, gray.
    """

    patient: int
    level: int
    pixels: NDArray[np.uint8]


def head_slices(
    patients: int,
    levels: int,
    *,
    size_px: int = 256,
    shared: float = 0.7,
    noise: float = 0.03,
    seed: int = 0,
) -> Iterator[HeadSlice]:
    """Draw the slices patient by patient.

    Args:
        patients, levels: how many; each patient has one slice per level.
        size_px: side of a slice.
        shared: share of the variance of the furrows that all patients have in common, 0 to 1.
        noise: standard deviation of the noise in both channels of the magnitude (Rician), 1 is white.
        seed: of everything.
    """
    x, y = np.meshgrid(*[np.linspace(-1, 1, size_px, dtype=np.float32)] * 2)
    common = _Furrows(np.random.default_rng([seed, 0]), x, y)
    for patient in range(patients):
        rng = np.random.default_rng([seed, 1 + patient])
        own = _Furrows(rng, x, y)
        move = _pose(rng, size_px)
        contrast = rng.normal([0.78, 0.45, 0.12], [0.03, 0.025, 0.015])
        bias = np.exp(rng.normal(0, 0.05) * x + rng.normal(0, 0.05) * y + rng.normal(0, 0.03) * x * y)
        ventricle = rng.normal(1.0, 0.12)
        for level in range(levels):
            z = (level + 0.5) / levels
            furrows = np.sqrt(shared) * common.at(z) + np.sqrt(1 - shared) * own.at(z)
            head = _anatomy(x, y, z, furrows, contrast, ventricle)
            head = cv2.warpAffine(head, move, (size_px, size_px), flags=cv2.INTER_LINEAR) * bias
            real, imaginary = rng.normal(0, noise, (2, size_px, size_px))
            gray = np.clip(255 * np.hypot(head + real, imaginary), 0, 255).astype(np.uint8)
            yield HeadSlice(patient, level, np.repeat(gray[:, :, None], 3, axis=2))


class _Furrows:
    """A random field of unit variance over (x, y) that changes smoothly with the level z: a sum of random waves."""

    def __init__(self, rng: np.random.Generator, x: Float, y: Float) -> None:
        length = np.exp(rng.uniform(float(np.log(_CYCLES[0])), float(np.log(_CYCLES[1])), _WAVES)) * np.pi
        angle, self.phase = rng.uniform(0, 2 * np.pi, (2, _WAVES))
        self.climb = rng.normal(0, 0.35, _WAVES) * length
        along = (length * np.cos(angle))[:, None] * x.ravel() + (length * np.sin(angle))[:, None] * y.ravel()
        self.waves = np.concatenate([np.cos(along), np.sin(along)]).astype(np.float32)
        self.shape = x.shape

    def at(self, z: float) -> Float:
        turn = self.phase + self.climb * z
        weights = np.concatenate([np.cos(turn), -np.sin(turn)]) * np.sqrt(2 / _WAVES)
        return np.asarray((weights.astype(np.float32) @ self.waves).reshape(self.shape), dtype=np.float32)


def _anatomy(
    x: Float, y: Float, z: float, furrows: Float, contrast: NDArray[np.float64], ventricle: float
) -> NDArray[np.float32]:
    """White matter, gray matter and fluid inside skull and scalp, 0 to 1."""
    white, grey, fluid = contrast
    width, height = 0.66 * np.sqrt(1 - 0.55 * z**2), 0.80 * np.sqrt(1 - 0.5 * z**2)
    radius = np.sqrt((x / width) ** 2 + (y / height) ** 2)
    depth = (1 - radius) * width + 0.035 * furrows  # below the surface; furrows fold the cortex
    brain = grey + (white - grey) * _step(depth - 0.13, 0.012)
    brain = fluid + (brain - fluid) * _step(depth + 0.01, 0.01) * _step(
        furrows + 1.6 * _step(depth - 0.2, 0.05) + 0.9, 0.25
    )
    side = np.abs(x) - 0.10 - 0.06 * np.sin(2 * y + 2.5 * z)
    hollow = _step(0.05 * ventricle * np.sin(np.pi * min(1.0, 0.15 + z)) - np.abs(side), 0.01)
    hollow = hollow * _step(0.30 - np.abs(y + 0.05), 0.02)
    brain = brain + (fluid - brain) * hollow
    brain = brain + (fluid - brain) * 0.8 * _step(0.008 - np.abs(x), 0.006) * _step(np.abs(y) - 0.25, 0.05)
    skull = fluid * 0.5 + (brain - fluid * 0.5) * _step(1.0 - radius, 0.008)
    scalp = 0.92 * _step(radius - 1.09, 0.01) * _step(1.17 - radius, 0.01)
    return np.asarray(skull * (1 - _step(radius - 1.09, 0.01)) + scalp, dtype=np.float32)


def _step(values: NDArray[Any], width: float) -> NDArray[np.float32]:
    """0 below 0, 1 above, over about `width`."""
    return np.asarray(np.clip(values / width + 0.5, 0, 1), dtype=np.float32)


def _pose(rng: np.random.Generator, size_px: int) -> NDArray[np.float64]:
    """Affine matrix of a head's size, position and roll after standardisation: a few per cent and degrees."""
    centre = (size_px - 1) / 2
    move = cv2.getRotationMatrix2D((centre, centre), rng.normal(0, 1.5), 1.0)
    stretch = np.diag(np.exp(rng.normal(0, 0.02, 2)))
    linear = stretch @ move[:, :2]
    middle = np.array([centre, centre])
    offset = middle - linear @ middle + rng.normal(0, 0.008 * size_px, 2)
    return np.column_stack([linear, offset])
