"""Named visual measures that a clinician understands, computed on the prepared copy during the one pass."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# name → (what it says, unit); the report and the explorer take their words from here.
PHENOTYPES: dict[str, tuple[str, str]] = {
    "brightness": ("how bright the tissue is: mean CIELAB L*", "0–100"),
    "contrast": ("how much brightness varies: standard deviation of L*", "0–100"),
    "redness": ("how red the tissue is: mean CIELAB a*", "−128–127"),
    "yellowness": ("how yellow the tissue is: mean CIELAB b*", "−128–127"),
    "saturation": ("how colourful it is: mean CIELAB chroma", "0–181"),
    "sharpness": ("how much fine detail it has: log10 variance of the Laplacian of L*", "log10"),
    "entropy": ("how varied its grey values are: entropy of the L* histogram", "bits, 0–8"),
    "reflection": ("share of the field that is bright and colourless: L* > 92 and chroma < 14", "0–1"),
    "field": ("share of the picture that is not black border: L* > 4", "0–1"),
}


def phenotypes(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Measures of one picture over its field of view (pixels that are not black border).

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        One number for each name in `PHENOTYPES`. Colour is CIELAB of sRGB under D65 (CIE 15:2004); sharpness is the
        variance of the Laplacian (Pech-Pacheco et al., ICPR 2000).
    """
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lightness = lab[:, :, 0].astype(np.float32) * (100 / 255)
    a, b = lab[:, :, 1].astype(np.float32) - 128, lab[:, :, 2].astype(np.float32) - 128
    chroma = np.hypot(a, b)
    inside = (lightness > 4).astype(np.uint8)
    share = float(inside.mean())
    if share < 0.01:  # a black picture: measured whole rather than not at all
        inside = np.ones_like(inside)
    eroded = cv2.erode(inside, np.ones((5, 5), np.uint8))  # without the border's own edge
    laplacian = cv2.Laplacian(lightness, cv2.CV_32F)
    spread = cv2.meanStdDev(laplacian, mask=eroded if eroded.any() else inside)[1].item()
    histogram = cv2.calcHist([lab], [0], inside, [256], [0, 256]).ravel() / inside.sum()
    filled = histogram[histogram > 0]
    mean_l, std_l = (v.item() for v in cv2.meanStdDev(lightness, mask=inside))
    reflecting = ((lightness > 92) & (chroma < 14)).astype(np.float32)
    measured = {
        "brightness": mean_l,
        "contrast": std_l,
        "redness": cv2.mean(a, mask=inside)[0],
        "yellowness": cv2.mean(b, mask=inside)[0],
        "saturation": cv2.mean(chroma, mask=inside)[0],
        "sharpness": float(np.log10(spread**2 + 1e-3)),
        "entropy": float(-(filled * np.log2(filled)).sum()),
        "reflection": cv2.mean(reflecting, mask=inside)[0],
        "field": share,
    }
    return {name: round(value, 5) for name, value in measured.items()}  # the rest is the order of summation
