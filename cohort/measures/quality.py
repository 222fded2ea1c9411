"""How good each picture is, as a clinician would grade it: a number per measure, its grade, and a person's word over
it.

The numbers come from the one pass (`measure`); grades are given later from thresholds in configs/specialty/*.yaml, so
that changing a threshold never reads an image again. Each measure is defined over one column of the manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.measures.field_of_view import Outline, outline
from pellucid.cohort.measures.phenotypes import (
    PHENOTYPES,
    Look,
    described,
    histogram,
    look,
    percentile,
    variance,
)


@dataclass(frozen=True)
class Measure:
    """One aspect of quality: the column that holds its number, what that says, its unit, and which side is bad."""

    column: str
    says: str
    unit: str
    bad: Literal["low", "high"]


QUALITY: dict[str, Measure] = {
    "sharpness": Measure(
        "quality_focus",
        "how fine the finest structure is, whatever the contrast: log10 energy of the Laplacian over that of the slope",
        "log10",
        "low",
    ),
    "exposure": Measure(
        "quality_exposure",
        "share of the field that is nearly black (L* < 10) or burnt out (a colour at its limit)",
        "0–1",
        "high",
    ),
    "reflection": Measure("phenotype_reflection", PHENOTYPES["reflection"][0], PHENOTYPES["reflection"][1], "high"),
    "obstruction": Measure(
        "quality_veil",
        "how much a veil (fog, smear, fluid) hides: mean dark channel over the brightest light",
        "0–1",
        "high",
    ),
    "completeness": Measure(
        "quality_completeness",
        "share of the round field of view that lies in the picture; 1 where it is not round",
        "0–1",
        "low",
    ),
    "compression": Measure(
        "quality_compression", "JPEG quality (IJG scale); 100 where nothing was lost", "1–100", "low"
    ),
}

# The columns that this module itself measures; the others are phenotypes.
QUALITY_COLUMNS = tuple(m.column for m in QUALITY.values() if m.column.startswith("quality_"))

_DARK, _BURNT = 26, 250  # 8-bit: L* 10, and what a channel that has clipped shows after averaging

_PATCH = np.ones((3, 3), np.uint8)  # 12 × 12 pixels of the full copy; He et al. have 15 × 15


def measure(pixels: NDArray[np.uint8], jpeg_quality: float | None) -> dict[str, float]:
    """Every phenotype and quality measure of one picture, by the manifest's column names.

    Args:
        pixels: (H, W, 3) uint8 RGB, the prepared copy before it is encoded.
        jpeg_quality: what the original's quantisation tables speak of; None where nothing was lost to JPEG.
    """
    seen = look(pixels)
    return {f"phenotype_{name}": value for name, value in described(seen).items()} | judged(seen, jpeg_quality)


def quality(pixels: NDArray[np.uint8], *, jpeg_quality: float | None) -> dict[str, float]:
    """The `quality_*` columns of one (H, W, 3) uint8 RGB picture."""
    return judged(look(pixels), jpeg_quality)


def judged(seen: Look, jpeg_quality: float | None) -> dict[str, float]:
    """`quality` of a picture that is already prepared, rounded to five decimals."""
    shape = outline(seen.inside) if seen.share >= 0.01 else Outline(np.full_like(seen.inside, 255), 1.0)
    measured = {
        "quality_focus": focus(seen),
        "quality_exposure": exposure(seen, shape),
        "quality_veil": veil(seen),
        "quality_completeness": shape.completeness,
        "quality_compression": 100.0 if jpeg_quality is None else float(jpeg_quality),
    }
    return {name: round(value, 5) for name, value in measured.items()}


def focus(seen: Look) -> float:
    """Log10 of fine (Laplacian, full copy) over coarse (Sobel, half-size copy) energy; contrast cancels out.

    The energies are the two classical focus measures (Pertuz et al., Pattern Recognition 2013: LAPV and TENV). Taken
    off is what rounding to 8 bits adds by itself (1/12 per pixel: 20/12 to the one, 2 to the other at full size); the
    constants make a picture without any structure, whose focus nobody can tell, neither good nor bad.
    """
    coarse = variance(seen.slope[0], seen.core) + variance(seen.slope[1], seen.core)
    return math.log10((max(0.0, seen.fine - 20 / 12) + 0.5) / (coarse + 50))


def exposure(seen: Look, shape: Outline) -> float:
    """Share of the field, dark holes included, that is nearly black (L* < 10) or burnt out (a channel at 250 or more).

    On the quarter copy: patches count, glints have a measure of their own. Red tissue burns out in red alone, long
    before L* says white.
    """
    height, width = seen.tiny_inside.shape
    field = cv2.resize(shape.filled, (width, height), interpolation=cv2.INTER_NEAREST)
    dark = cv2.threshold(seen.tiny_lab[:, :, 0], _DARK - 1, 255, cv2.THRESH_BINARY_INV)[1]
    burnt = cv2.threshold(_brightest(seen), _BURNT - 1, 255, cv2.THRESH_BINARY)[1]
    return cv2.countNonZero(cv2.bitwise_and(cv2.bitwise_or(dark, burnt), field)) / max(1, cv2.countNonZero(field))


def _brightest(seen: Look) -> NDArray[np.uint8]:
    red, green, blue = cv2.split(seen.tiny)
    return np.asarray(cv2.max(cv2.max(red, green), blue), dtype=np.uint8)


def veil(seen: Look) -> float:
    """1 − transmission by the dark channel prior (He, Sun and Tang, CVPR 2009, eq. 11), averaged over the field.

    In a clear picture every small patch has some pixel that is dark in some channel. The light of the veil is taken
    as the 99th percentile of the brightest channel. An image that is pale all over is not distinguished from a veiled
    one.
    """
    red, green, blue = cv2.split(seen.tiny)
    darkest = cv2.bitwise_or(
        cv2.min(cv2.min(red, green), blue), cv2.bitwise_not(seen.tiny_inside)
    )  # outside: no minimum
    dark = cv2.mean(cv2.erode(darkest, _PATCH), mask=seen.tiny_inside)[0]
    light = percentile(histogram(_brightest(seen), seen.tiny_inside), 0.99)
    return min(1.0, dark / max(1, light))
