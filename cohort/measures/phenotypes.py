"""Named visual measures that a clinician understands, computed on the prepared copy during the one pass.

`look` prepares once what every measure needs (CIELAB, the field of view, a half-size copy); `phenotypes` describes the
picture, and `pellucid.cohort.measures.quality` judges it from the same look. docs/measures.md gives each formula with
its source.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.images.pixels import halved, shrink

# name → (what it says, unit); the report and the explorer take their words from here.
PHENOTYPES: dict[str, tuple[str, str]] = {
    "brightness": ("how bright the tissue is: mean CIELAB L*", "0–100"),
    "contrast": ("how much brightness varies: standard deviation of L*", "0–100"),
    "shadows": ("how dark the darkest parts are: 5th percentile of L*", "0–100"),
    "highlights": ("how bright the brightest parts are: 95th percentile of L*", "0–100"),
    "skewness": ("whether few bright parts stand out of the dark (positive) or few dark ones: skewness of L*", "–"),
    "redness": ("how red the tissue is: mean CIELAB a*", "−128–127"),
    "yellowness": ("how yellow the tissue is: mean CIELAB b*", "−128–127"),
    "saturation": ("how colourful it is: mean CIELAB chroma", "0–181"),
    "colour_variation": ("how much its colours differ: root mean squared distance from the mean a*, b*", "0–181"),
    "erythema": ("how red as blood makes it: erythema index, 100 × mean log10 of red over green light", "100 log10"),
    "sharpness": ("how much fine detail it has: log10 variance of the Laplacian of L*", "log10"),
    "entropy": ("how varied its grey values are: entropy of the L* histogram", "bits, 0–8"),
    "texture_contrast": ("how much neighbours differ: GLCM contrast of L* in 32 levels", "0–961"),
    "texture_homogeneity": ("how alike neighbours are: GLCM homogeneity", "0–1"),
    "texture_correlation": ("how far a texture reaches: GLCM correlation of neighbours", "−1–1"),
    "edges": ("how much of the field lies on an edge: Canny", "0–1"),
    "vessels": ("how much of the field lies on a thin dark line or spot: black top-hat of green", "0–1"),
    "reflection": ("share of the field that is bright and colourless: L* > 92 and chroma < 14", "0–1"),
    "vignetting": ("how much darker the rim of the field is than its centre: 1 − mean L* / mean L*", "share"),
    "field": ("share of the picture that is not black border: L* > 4", "0–1"),
}

SIDE_PX = 256  # everything is measured at this short side, so that thresholds hold whatever `scan.size_px` is
BORDER_LEVEL = 10  # 8-bit L*: up to here (L* ≤ 4) a pixel counts as black border
Plane = NDArray[np.uint8]

_LEVELS = np.arange(256)
LSTAR = _LEVELS * (100 / 255)  # CIELAB L* of an 8-bit lightness
_LSTAR_POWERS = np.stack([LSTAR, LSTAR**2, LSTAR**3])
_AXIS = _LEVELS - 128.0  # a* or b* of an 8-bit value
_CHROMA = np.hypot(*np.meshgrid(_AXIS, _AXIS, indexing="ij"))
_BRIGHT_GREY = 227  # no sRGB colour of L* > 92 and chroma < 14 has an 8-bit grey below it
# IEC 61966-2-1: the light behind an sRGB value; black, which has no logarithm, is taken as half a step.
_LIGHT = np.maximum(_LEVELS, 0.5) / 255
_LOG_LIGHT = np.log10(np.where(_LIGHT <= 0.04045, _LIGHT / 12.92, ((_LIGHT + 0.055) / 1.055) ** 2.4))
_LOG_GREY = np.round(255 * np.log1p(_LEVELS) / np.log(256)).astype(np.uint8)
_GREY_LEVELS = 32
_GLCM_LEVEL = (1 + _LEVELS // (256 // _GREY_LEVELS)).astype(np.uint8)
_STEP = np.arange(_GREY_LEVELS)
_APART = (_STEP[:, None] - _STEP[None, :]) ** 2
_VESSEL = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
_VESSEL_STEP = 5  # of the 8-bit log scale: at least 12 % darker than what surrounds it
_FAINTEST_EDGE = 10  # of the quartered Sobel sum: an edge of 2 L* per pixel; below it is noise whatever Otsu says
_RADIUS = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, 65)[1::2]] * 2, indexing="ij"))  # (32, 32), 1 at the mid-sides
_CENTRE, _RIM = (_RADIUS < 0.5).astype(np.float64), (_RADIUS >= 0.75).astype(np.float64)


@dataclass(frozen=True)
class Look:
    """One picture as every measure sees it: full size for fine detail, half for structure, a quarter for colour.

    Each is the one before it by averages of 2 × 2. Planes are uint8, masks 0 or 255.

    Attributes:
        pixels: (2h, 2w, 3) RGB.
        grey: (2h, 2w) its luma (ITU-R BT.601).
        small: (h, w, 3) RGB by area averaging.
        lab: (h, w, 3) 8-bit CIELAB of `small`: L* × 255 / 100, a* + 128, b* + 128.
        lightness: (h, w) its first channel.
        inside: (h, w) the field of view: what is not black border; the whole of a picture that is black.
        core: (h, w) the field without two pixels along its border, whose edge is not tissue.
        counts: (256,) pixels of the field at each 8-bit lightness.
        share: of the picture that is not black border, 0–1.
        tiny, tiny_lab: (h / 2, w / 2, 3) RGB and CIELAB at a quarter of the size.
        tiny_inside: (h / 2, w / 2) the field at that size.
        slope: (h, w) int16, twice: the Sobel derivatives of lightness along x and y.
        fine: variance of the Laplacian of grey over the core.
    """

    pixels: Plane
    grey: Plane
    small: Plane
    lab: Plane
    lightness: Plane
    inside: Plane
    core: Plane
    counts: NDArray[np.float64]
    share: float
    tiny: Plane
    tiny_lab: Plane
    tiny_inside: Plane
    slope: tuple[NDArray[np.int16], NDArray[np.int16]]
    fine: float


def look(pixels: Plane) -> Look:
    """Prepare (H, W, 3) uint8 RGB for measuring; a picture with a longer short side is reduced to `SIDE_PX`."""
    if min(pixels.shape[:2]) > SIDE_PX:
        pixels = shrink(pixels, SIDE_PX)
    if min(pixels.shape[:2]) < 4:  # so that there is a quarter of it
        pixels = np.repeat(np.repeat(pixels, 4, axis=0), 4, axis=1)
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    pixels = np.ascontiguousarray(pixels[:height, :width])
    grey = _u8(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    small = halved(pixels)
    lab = _u8(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
    lightness = _u8(cv2.extractChannel(lab, 0))
    counts = histogram(lightness)
    share = float(counts[BORDER_LEVEL + 1 :].sum() / lightness.size)
    tiny, tiny_lab = halved(small), halved(lab)
    level = BORDER_LEVEL if share >= 0.01 else -1  # a black picture is measured whole rather than not at all
    counts[: level + 1] = 0
    inside = brighter(lightness, level)
    tiny_inside = brighter(_u8(cv2.extractChannel(tiny_lab, 0)), level)
    tiny_inside = tiny_inside if tiny_inside.any() else np.full_like(tiny_inside, 255)
    core = _u8(cv2.erode(inside, np.ones((5, 5), np.uint8)))
    core = core if core.any() else inside
    slope = _s16(cv2.Sobel(lightness, cv2.CV_16S, 1, 0)), _s16(cv2.Sobel(lightness, cv2.CV_16S, 0, 1))
    fine = variance(_s16(cv2.Laplacian(grey, cv2.CV_16S)), core)
    return Look(
        pixels, grey, small, lab, lightness, inside, core, counts, share, tiny, tiny_lab, tiny_inside, slope, fine
    )


def phenotypes(pixels: Plane) -> dict[str, float]:
    """Measures of one picture over its field of view (pixels that are not black border).

    Args:
        pixels: (H, W, 3) uint8 RGB.

    Returns:
        One number for each name in `PHENOTYPES`, rounded to five decimals: beyond those lies the order of summation.
    """
    return described(look(pixels))


def described(seen: Look) -> dict[str, float]:
    """`phenotypes` of a picture that is already prepared."""
    measured = {
        **_brightness(seen),
        **_colour(seen),
        # variance of the Laplacian (Pech-Pacheco et al., ICPR 2000); a hundred steps of lightness, as L* has
        "sharpness": float(np.log10(seen.fine * (100 / 255) ** 2 + 1e-3)),
        **_texture(seen),
        "edges": _edges(seen),
        "vessels": _vessels(seen),
        "reflection": _reflection(seen),
        "vignetting": _vignetting(seen),
        "field": seen.share,
    }
    return {name: round(measured[name], 5) for name in PHENOTYPES}


def histogram(plane: Plane, inside: Plane | None = None) -> NDArray[np.float64]:
    """(256,) pixels of each value of an 8-bit plane, all of them or those inside a mask."""
    return np.asarray(cv2.calcHist([plane], [0], inside, [256], [0, 256]), dtype=np.float64).ravel()


def percentile(counts: NDArray[np.float64], share: float) -> int:
    """The lowest value below or at which lies that share of a histogram."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))


def variance(plane: NDArray[np.int16], inside: Plane) -> float:
    """Variance of an int16 plane over a mask of its size or half of it.

    Exact sums of whole numbers, in a tenth of the time of `meanStdDev`.
    """
    n = cv2.countNonZero(inside) * (plane.size // inside.size)
    if n < plane.size:
        if plane.shape != inside.shape:
            inside = _u8(cv2.resize(inside, plane.shape[::-1], interpolation=cv2.INTER_NEAREST))
        plane = _s16(cv2.copyTo(plane, inside))
    return float(cv2.norm(plane, cv2.NORM_L2SQR) / n - (cv2.sumElems(plane)[0] / n) ** 2)


def brighter(plane: Plane, level: int) -> Plane:
    """The mask (0 or 255) of what is above a level."""
    return _u8(cv2.threshold(plane, level, 255, cv2.THRESH_BINARY)[1])


def _u8(plane: object) -> Plane:
    return np.asarray(plane, dtype=np.uint8)  # OpenCV's annotations do not say so


def _s16(plane: object) -> NDArray[np.int16]:
    return np.asarray(plane, dtype=np.int16)


def _brightness(seen: Look) -> dict[str, float]:
    p = seen.counts / seen.counts.sum()
    mean, square, cube = (float(moment) for moment in _LSTAR_POWERS @ p)
    spread = max(0.0, square - mean**2)
    filled = p[p > 0]
    return {
        "brightness": mean,
        "contrast": spread**0.5,
        "shadows": float(LSTAR[percentile(seen.counts, 0.05)]),
        "highlights": float(LSTAR[percentile(seen.counts, 0.95)]),
        # below half a step of 8 bits there is no shape of the distribution to speak of
        "skewness": (cube - 3 * mean * square + 2 * mean**3) / spread**1.5 if spread > 0.04 else 0.0,
        "entropy": max(0.0, float(-(filled * np.log2(filled)).sum())),
    }


def _colour(seen: Look) -> dict[str, float]:
    """From the joint histogram of a* and b*, and for erythema from those of red and green.

    The erythema index is that of Diffey et al. (Br J Dermatol 1984), 100 log10(red / green) of reflected light, on
    linearised sRGB in place of their two narrow bands, as Yamamoto et al. (Skin Res Technol 2008) do with cameras.
    """
    red, green = _channel(seen.tiny, 0, seen), _channel(seen.tiny, 1, seen)
    p_a, p_b = _channel(seen.tiny_lab, 1, seen), _channel(seen.tiny_lab, 2, seen)
    a, b = float(p_a @ _AXIS), float(p_b @ _AXIS)
    rows, columns = (
        slice(used[0], used[-1] + 1) for used in (np.flatnonzero(p_a).tolist(), np.flatnonzero(p_b).tolist())
    )
    box = [rows.start, rows.stop, columns.start, columns.stop]
    bins = [rows.stop - rows.start, columns.stop - columns.start]
    joint = np.asarray(cv2.calcHist([seen.tiny_lab], [1, 2], seen.tiny_inside, bins, box), dtype=np.float64)
    return {
        "redness": a,
        "yellowness": b,
        "saturation": float(np.vdot(joint, _CHROMA[rows, columns]) / joint.sum()),
        "colour_variation": float(p_a @ (_AXIS - a) ** 2 + p_b @ (_AXIS - b) ** 2) ** 0.5,
        "erythema": float(100 * ((red - green) @ _LOG_LIGHT)),
    }


def _channel(picture: Plane, channel: int, seen: Look) -> NDArray[np.float64]:
    """(256,) shares of the field at each value of one channel."""
    counts = np.asarray(cv2.calcHist([picture], [channel], seen.tiny_inside, [256], [0, 256]), dtype=np.float64).ravel()
    return np.asarray(counts / counts.sum())


def grey_level_matrix(seen: Look) -> NDArray[np.float64]:
    """(32, 32) symmetric co-occurrence matrix, in shares, of L* in 32 levels on the small copy.

    Neighbours at distance 1 in the four directions, both inside the field, all counted together (Haralick et al.,
    IEEE Trans SMC 1973). Zeros throughout where no two pixels of the field are neighbours.
    """
    levels = _u8(cv2.bitwise_and(cv2.LUT(seen.lightness, _GLCM_LEVEL), seen.inside))  # 0 outside
    pairs = (
        (levels[:, :-1], levels[:, 1:]),
        (levels[:-1], levels[1:]),
        (levels[:-1, :-1], levels[1:, 1:]),
        (levels[1:, :-1], levels[:-1, 1:]),
    )
    matrix = np.zeros((_GREY_LEVELS, _GREY_LEVELS))
    for one, other in pairs:
        if one.size:
            ranges = [1, 1 + _GREY_LEVELS] * 2  # level 0, the border, falls outside and is not counted
            matrix += cv2.calcHist([one, other], [0, 1], None, [_GREY_LEVELS] * 2, ranges)
    matrix += matrix.T
    return np.asarray(matrix / max(1.0, matrix.sum()))


def _texture(seen: Look) -> dict[str, float]:
    p = grey_level_matrix(seen)
    marginal = p.sum(0)
    contrast = float(np.vdot(p, _APART))
    spread = float(marginal @ (_STEP - marginal @ _STEP) ** 2)
    return {
        "texture_contrast": contrast,
        "texture_homogeneity": float(np.vdot(p, 1 / (1 + _APART))),
        # of a symmetric matrix the covariance is variance − contrast / 2; a picture of one level has 1, as in
        # scikit-image
        "texture_correlation": 1 - contrast / (2 * spread) if spread > 1e-12 else 1.0,
    }


def _edges(seen: Look) -> float:
    """Canny (IEEE Trans PAMI 1986); the upper threshold is Otsu's of the gradient, the lower half of it."""
    dx, dy = seen.slope
    gradient = _u8(cv2.add(cv2.convertScaleAbs(dx, alpha=0.25), cv2.convertScaleAbs(dy, alpha=0.25)))
    otsu, _ = cv2.threshold(gradient[seen.core > 0], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    upper = 4 * max(_FAINTEST_EDGE, otsu)
    edges = cv2.bitwise_and(cv2.Canny(dx, dy, upper / 2, upper), seen.core)
    return cv2.countNonZero(edges) / cv2.countNonZero(seen.core)


def _vessels(seen: Look) -> float:
    """Black top-hat of the logarithm of green: closing − picture (Zana and Klein, IEEE Trans Image Process 2001;
    Mendonça and Campilho, IEEE Trans Med Imaging 2006). The logarithm makes it a share of the light around."""
    green = _u8(cv2.LUT(_u8(cv2.extractChannel(seen.small, 1)), _LOG_GREY))
    hollows = _u8(cv2.morphologyEx(green, cv2.MORPH_BLACKHAT, _VESSEL))
    dark = cv2.bitwise_and(brighter(hollows, _VESSEL_STEP), seen.core)
    return cv2.countNonZero(dark) / cv2.countNonZero(seen.core)


def _reflection(seen: Look) -> float:
    """At full size, for glints are small; only the few bright pixels are taken to CIELAB."""
    bright = np.flatnonzero(seen.grey >= _BRIGHT_GREY)
    if not len(bright):
        return 0.0
    lab = cv2.cvtColor(seen.pixels.reshape(-1, 1, 3)[bright], cv2.COLOR_RGB2LAB)[:, 0].astype(np.intp)
    colourless = (lab[:, 0] >= 235) & (_CHROMA[lab[:, 1], lab[:, 2]] < 14)  # 8-bit L* 235 is 92.2
    return float(min(1.0, np.count_nonzero(colourless) / (4 * seen.counts.sum())))


def _vignetting(seen: Look) -> float:
    """The bounding box of the field is stretched onto a square, so that a rectangle's rim is its rim too."""
    x, y, width, height = cv2.boundingRect(seen.tiny_inside)
    box = np.s_[y : y + height, x : x + width]
    inside = seen.tiny_inside[box]
    light = _u8(cv2.bitwise_and(seen.tiny_lab[box][:, :, 0], inside))
    light, inside = (_u8(cv2.resize(p, _RADIUS.shape, interpolation=cv2.INTER_AREA)) for p in (light, inside))
    at_rim, at_centre = float((inside * _RIM).sum()), float((inside * _CENTRE).sum())
    centre = float((light * _CENTRE).sum())
    if not (at_rim and at_centre and centre):
        return 0.0
    return 1 - (float((light * _RIM).sum()) / at_rim) / (centre / at_centre)
