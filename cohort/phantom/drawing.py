"""Draws the phantom cohort's pictures: an endoscopy-like scene from what is true of patient, device and operator.

Lengths are in image heights and the lesion sits at the origin of the tissue's own coordinates (u, v); the
operator's framing is the homography between tissue and camera. The order is that of a real picture:
tissue and lesion → framing → light → the device's optics, colour and noise → the round field of view.
Pictures stay planar (3, height, width) until the end: NumPy is many times faster on whole planes than on a
trailing axis of three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[Any]  # float32 throughout; OpenCV's annotations do not say so
Points = NDArray[np.float64]

MAX_SEVERITY = 3
DRAWN_SHARE = 0.75  # of the lines on which the scene is drawn: the lens blurs it anyway, and it halves the time
CANVAS_EXTENT = (2.0, 1.6)  # width and height of a patient's tissue; mirrored beyond
N_TREES = 7  # of mucosal vessels
N_CURLS = 16  # tortuous vessels on the lesion itself; how well they show is a matter of severity
GLINT_SPREAD = 0.014
MUCOSA = np.array([0.86, 0.52, 0.41], dtype=np.float32)


@dataclass(frozen=True)
class Dials:
    """How strongly each cause shows in the picture; 0 switches it off."""

    disease: float = 1.0
    device: float = 1.0
    operator: float = 1.0
    within_patient: float = 0.7


@dataclass(frozen=True)
class DeviceLook:
    """What an endoscope does to every picture, as departures from a neutral one."""

    cast: tuple[float, float, float]  # log gain of red, green, blue
    defocus_px: float  # departure of the blur's sigma, at 240 lines
    sharpening: float
    vignette: float
    noise: float
    contrast: float  # log gamma
    jpeg_quality: int


@dataclass(frozen=True)
class Framing:
    """An operator's habits: log zoom, where the lesion is put, obliqueness and roll of the camera."""

    zoom: float
    offset: tuple[float, float]
    tilt: tuple[float, float]
    roll_rad: float


DEVICES = {
    "Aurora 1": DeviceLook((0.05, 0.00, -0.08), -0.15, 0.00, -0.10, -0.004, 0.00, 6),
    "Borealis X": DeviceLook((-0.04, -0.02, 0.09), -0.35, 0.50, 0.00, 0.002, 0.08, -2),
    "Cirrus 200": DeviceLook((-0.04, 0.04, -0.02), 0.60, 0.00, 0.30, 0.008, -0.10, -22),
}
OPERATORS = {
    "A": Framing(0.20, (0.00, 0.02), (0.00, 0.08), 0.00),
    "B": Framing(-0.20, (0.02, -0.01), (0.05, -0.08), 0.10),
    "C": Framing(0.00, (-0.11, 0.03), (-0.35, 0.05), -0.15),
    "D": Framing(0.03, (0.10, -0.06), (0.30, 0.15), 0.20),
}
NEUTRAL_DEFOCUS_PX, NEUTRAL_VIGNETTE, NEUTRAL_NOISE, NEUTRAL_QUALITY = 0.55, 0.30, 0.010, 88


@dataclass(frozen=True)
class Traits:
    """What varies between lesions and tissues with no disease behind it, as standard normal numbers."""

    tissue: NDArray[np.float64]  # (6,)  hue, lightness, vessel density, fold phase, lumen angle, lumen distance
    lesion: NDArray[np.float64]  # (8,)  size, redness, paleness, elevation, roughness, vessels, pits, softness
    border: NDArray[np.float64]  # (14, 2)  cosine and sine of harmonics 2 to 15


@dataclass(frozen=True)
class Tissue:
    """One patient: the surface and lesion that all of the patient's images share."""

    fields: Float  # (h, w, 4)  relief, blood, fine texture, fold warp; each of unit variance
    trees: tuple[Points, ...]  # vessels by calibre, thick to thin: (tree, branch, point, 2) in (u, v)
    traits: Traits
    full_frame: bool


def patient_tissue(rng: np.random.Generator, height_px: int, *, full_frame: bool = False) -> Tissue:
    """The surface of one patient, at the resolution of images of `height_px` lines."""
    height_px = round(height_px * DRAWN_SHARE)
    shape = (round(CANVAS_EXTENT[1] * height_px), round(CANVAS_EXTENT[0] * height_px))
    fields = _fields(rng, shape, height_px)
    return Tissue(fields, _vessel_trees(rng), draw_traits(rng), full_frame)


def draw_image(
    tissue: Tissue,
    rng: np.random.Generator,
    size_px: tuple[int, int],
    *,
    severity: int,
    device: str,
    operator: str,
    dials: Dials,
    blur_px: float = 0.0,
) -> NDArray[np.uint8]:
    """One picture, uint8 (height, width, 3) RGB, of a patient's lesion of `severity` 0 to 3.

    The same generator state gives the same picture but for what the dials let through: with `disease=0`
    severity leaves no trace in the pixels, with `device=0` the device leaves none, and so on. `size_px` is
    (width, height); `blur_px` spoils the picture with that sigma.
    """
    full_px, size_px = size_px, _drawn_size(size_px)
    width, height = size_px
    # Everything random is drawn here, in fixed order and number, so that no cause shifts another's draws.
    own_traits, own_trees, own_fields = draw_traits(rng), _vessel_trees(rng), _fields(rng, (height, width), height)
    keep_tree = (rng.random(N_TREES) < dials.within_patient)[:, None, None, None]
    curls = _curls(rng)
    camera_jitter, light_jitter, colour_jitter = (rng.standard_normal(n) for n in (6, 3, 4))
    grain, chroma_grain = _grain(rng, (full_px[1], full_px[0])), _grain(rng, (3, height // 2, width // 2))

    expression = dials.disease * severity / MAX_SEVERITY
    traits = _mix_traits(tissue.traits, own_traits, dials.within_patient)
    trees = [np.where(keep_tree, a, b) for a, b in zip(tissue.trees, own_trees, strict=True)]
    to_tissue = _homography(OPERATORS[operator], dials.operator, camera_jitter, size_px)
    u, v = _tissue_coordinates(to_tissue, size_px)
    canvas_h, canvas_w = tissue.fields.shape[:2]
    shared = cv2.remap(
        tissue.fields,
        (u * height + canvas_w / 2).astype(np.float32),
        (v * height + canvas_h / 2).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    relief, blood, fine, warp = cv2.split(
        cv2.addWeighted(shared, dials.within_patient**0.5, own_fields, (1 - dials.within_patient) ** 0.5, 0)
    )

    # --- the lesion: where it is, how high, how rough
    size = float(0.215 * np.exp(0.14 * traits.lesion[0]))
    inside, depth_in = lesion_shape(u, v, size, traits, expression)
    pits = fine * float((0.10 + 0.03 * traits.lesion[6]) * (1 - 0.5 * expression))
    gyri = (1 - np.abs(relief + 0.6 * fine)) * 0.22 * expression  # ridged noise: the furrows of a neoplasm
    dome = depth_in * (1.6 - 0.6 * depth_in) * float(size * (0.66 + 0.12 * traits.lesion[3]))
    surface = dome + (pits + gyri) * size * 0.10 * inside

    # --- the bowel around it: folds run round the lumen, which swallows the light
    fold, lumen_light = _folds(u, v, warp, traits)
    calm = 1 - 0.85 * _spread(inside, 0.05 * height)
    surface = surface + 0.030 * fold * calm + relief * 0.0035 * calm + fine * 0.0004

    # --- its colour
    project: Points = np.linalg.inv(to_tissue).astype(np.float64)
    network = _draw_lines([(lines, 3 - i) for i, lines in enumerate(trees)], project, size_px)
    on_lesion = _draw_lines([(line * size, calibre) for line, calibre in curls], project, size_px)
    strength = float(0.34 * np.exp(0.25 * traits.tissue[2]))
    lesion_strength = float(0.10 * np.exp(0.5 * traits.lesion[5]) + 0.85 * expression)
    ink = network * strength * (1 - 0.9 * inside) + on_lesion * lesion_strength * inside
    albedo = _albedo(traits, blood, inside, ink, expression, colour_jitter)

    picture = _light(surface, albedo, depth_in, inside, lumen_light, fine, light_jitter, size_px)
    picture = np.stack([cv2.resize(plane, full_px, interpolation=cv2.INTER_LINEAR) for plane in picture])
    if blur_px > 0:
        picture = np.stack([_blur(plane, blur_px) for plane in picture])
    picture = _expose(picture, DEVICES[device], dials.device, grain, chroma_grain)
    if not tissue.full_frame:
        picture *= field_of_view(full_px)
    np.maximum(picture, 0, out=picture)
    return np.asarray(cv2.convertScaleAbs(cv2.merge(list(picture)), alpha=255), dtype=np.uint8)


def _drawn_size(size_px: tuple[int, int]) -> tuple[int, int]:
    return round(size_px[0] * DRAWN_SHARE), round(size_px[1] * DRAWN_SHARE)


def jpeg_quality(device: str, dials: Dials) -> int:
    """The quality at which a device stores its JPEG files."""
    return int(np.clip(round(NEUTRAL_QUALITY + dials.device * DEVICES[device].jpeg_quality), 30, 97))


@lru_cache(maxsize=4)
def field_of_view(size_px: tuple[int, int]) -> Float:
    """1 inside the endoscope's round field, cut off above and below, 0 outside; float32 (height, width)."""
    x, y = _camera_plane(size_px)
    radius = min(0.565, 0.49 * size_px[0] / size_px[1])
    edge = np.minimum(radius - np.hypot(x, y), 0.485 - np.abs(y)) * size_px[1]
    return np.clip(edge + 0.5, 0, 1).astype(np.float32)


# ---------------------------------------------------------------------------------------------- randomness


def _noise(rng: np.random.Generator, shape: tuple[int, int], cells: Sequence[float], height_px: int) -> Float:
    """Smooth noise of about unit variance; `cells` are the sizes of its octaves in image heights, coarse to fine."""
    total: Float = np.zeros((1, 1), dtype=np.float32)
    for cell in cells:  # each octave on the grid of the coarser ones: a pyramid, enlarged once at the end
        rows, columns = (max(4, round(side / (cell * height_px))) for side in shape)
        octave = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(cell**0.5)
        total = cv2.resize(total, (columns, rows), interpolation=cv2.INTER_CUBIC) + octave
    total = cv2.resize(total, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    # Interpolating white noise keeps about 0.6 of its variance.
    return np.asarray(total * np.float32((0.6 * sum(cells)) ** -0.5))


def _grain(rng: np.random.Generator, shape: tuple[int, ...]) -> Float:
    """White noise of unit variance; triangular, which the eye cannot tell from normal and is drawn faster."""
    first, second = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    return np.asarray((first.astype(np.float32) + second - 255) * np.float32(1 / 104.5))


def _fields(rng: np.random.Generator, shape: tuple[int, int], height_px: int) -> Float:
    """Four fields (h, w, 4): relief, blood, fine texture, fold warp."""
    octaves = ((0.12, 0.05, 0.022), (0.35, 0.12, 0.04), (0.030, 0.011), (0.5, 0.2))
    return np.asarray(cv2.merge([_noise(rng, shape, cells, height_px) for cells in octaves]))


def draw_traits(rng: np.random.Generator) -> Traits:
    return Traits(rng.standard_normal(6), rng.standard_normal(8), rng.standard_normal((14, 2)))


def _mix_traits(shared: Traits, own: Traits, rho: float) -> Traits:
    """Traits of one image, correlated by rho with those of the patient's other images."""
    a, b = rho**0.5, (1 - rho) ** 0.5
    return Traits(
        a * shared.tissue + b * own.tissue,
        a * shared.lesion + b * own.lesion,
        a * shared.border + b * own.border,
    )


def _walk(rng: np.random.Generator, start: Points, heading: Points, steps: int, step: float, bend: float) -> Points:
    """Random walks from (..., 2) in the direction (...): points (..., steps, 2)."""
    turns = heading[..., None] + np.cumsum(rng.standard_normal((*heading.shape, steps)) * bend, axis=-1)
    moves = np.stack([np.cos(turns), np.sin(turns)], axis=-1) * step
    return np.asarray(start[..., None, :] + np.cumsum(moves, axis=-2))


def _vessel_trees(rng: np.random.Generator) -> tuple[Points, ...]:
    """Branching mucosal vessels: stems, their branches, and theirs, each thinner."""
    start = rng.uniform((-0.9, -0.7), (0.9, 0.7), (N_TREES, 1, 2))
    calibres = [_walk(rng, start, rng.uniform(0, 2 * np.pi, (N_TREES, 1)), 18, 0.028, 0.28)]
    for n_branches, steps, step in ((4, 11, 0.022), (8, 8, 0.018)):
        parents = calibres[-1]
        tree = np.arange(N_TREES)[:, None]
        parent = np.arange(n_branches) % parents.shape[1]
        at = rng.integers(1, parents.shape[2], (N_TREES, n_branches))
        root = parents[tree, parent, at]
        along = root - parents[tree, parent, at - 1]
        aside = rng.choice((-1, 1), at.shape) * rng.uniform(0.5, 1.1, at.shape)
        calibres.append(_walk(rng, root, np.arctan2(along[..., 1], along[..., 0]) + aside, steps, step, 0.34))
    return tuple(calibres)


def _curls(rng: np.random.Generator) -> list[tuple[Points, int]]:
    """Short tortuous vessels on a lesion of radius 1, with their calibre."""
    angle, heading = rng.uniform(0, 2 * np.pi, (2, N_CURLS))
    start = 0.85 * np.sqrt(rng.random(N_CURLS)) * np.array([np.cos(angle), np.sin(angle)])
    lines = _walk(rng, start.T, heading, 9, 0.085, 0.85)
    return [(lines[: N_CURLS // 2], 1), (lines[N_CURLS // 2 :], 2)]


# ------------------------------------------------------------------------------------------------ geometry


def _homography(
    habit: Framing, strength: float, jitter: NDArray[np.float64], size_px: tuple[int, int]
) -> NDArray[np.float64]:
    """3×3 matrix from camera pixels to tissue (u, v)."""
    width, height = size_px
    zoom = np.exp(strength * habit.zoom + 0.09 * jitter[0])
    dx, dy = strength * np.array(habit.offset) + 0.035 * jitter[1:3]
    tilt_x, tilt_y = strength * np.array(habit.tilt) + 0.10 * jitter[3:5]
    roll = strength * habit.roll_rad + 0.20 * jitter[5]
    centre = np.array([[1 / height, 0, -width / 2 / height - dx], [0, 1 / height, -0.5 - dy], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]])
    turn = np.array(
        [
            [np.cos(roll) / zoom, -np.sin(roll) / zoom, 0],
            [np.sin(roll) / zoom, np.cos(roll) / zoom, 0],
            [0, 0, 1],
        ]
    )
    return np.asarray(turn @ tilt @ centre, dtype=np.float64)


def _tissue_coordinates(to_tissue: NDArray[np.float64], size_px: tuple[int, int]) -> tuple[Float, Float]:
    width, height = size_px
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    h = to_tissue.astype(np.float32)
    scale = np.maximum(h[2, 0] * x + h[2, 1] * y + h[2, 2], np.float32(0.25))
    return (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / scale, (h[1, 0] * x + h[1, 1] * y + h[1, 2]) / scale


def lesion_shape(u: Float, v: Float, size: float, traits: Traits, expression: float) -> tuple[Float, Float]:
    """(inside, depth): a mask with a soft edge, and 1 - (r/R)², 0 outside the border R(angle)."""
    radius, angle = cv2.cartToPolar(u, v)
    # Low harmonics make it oval or bean-shaped, in health too; high ones make the border ragged.
    harmonics = np.arange(2, 16)
    ragged = 0.012 * np.exp(0.35 * traits.lesion[4]) + 0.030 * expression
    amplitude = np.where(harmonics <= 3, 0.055, ragged * (5 / np.maximum(harmonics, 5)) ** 0.7)
    wave = np.concatenate(amplitude * traits.border.T) @ _waves()
    border = size * np.exp(0.34 * np.tanh(wave / 0.34))
    limit = border.astype(np.float32)[(angle * np.float32(720 / (2 * np.pi))).astype(np.int32)]
    softness = np.float32(0.014 * np.exp(0.3 * traits.lesion[7]))
    inside = np.clip((limit - radius) / softness + 0.5, 0, 1)
    # The border's lobes fade towards the middle; else they would crease the whole dome like a star.
    share = np.minimum((radius / limit) ** 2, 1)
    depth = np.maximum(1 - (radius / (size + (limit - size) * share)) ** 2, 0) * (share < 1)
    return inside, depth


@lru_cache(maxsize=1)
def _waves() -> NDArray[np.float64]:
    """Cosines, then sines, of harmonics 2 to 15 at 721 angles of a full turn: (28, 721)."""
    turns = np.arange(2, 16)[:, None] * np.linspace(0, 2 * np.pi, 721)
    return np.concatenate([np.cos(turns), np.sin(turns)])


def _folds(u: Float, v: Float, warp: Float, traits: Traits) -> tuple[Float, Float]:
    """(height of the folds, 0 to 1; light that comes back, falling to nearly 0 in the lumen)."""
    angle, distance = 2.2 * traits.tissue[4], 0.66 + 0.07 * traits.tissue[5]
    to_lumen = cv2.magnitude(u - float(distance * np.cos(angle)), v - float(distance * np.sin(angle)))
    phase = -2.1 * cv2.log(to_lumen + 0.10) + 0.14 * warp + float(0.5 * traits.tissue[3])
    phase -= np.floor(phase)
    # A fold rises slowly towards the lumen and drops off behind its crest at 0.8.
    height = np.minimum(phase / 0.80, (1 - phase) / 0.20) ** 2
    light = 1 - 0.90 * np.exp(-((to_lumen / 0.30) ** 2))
    return height, light


def _draw_lines(lines: Sequence[tuple[Points, int]], project: NDArray[np.float64], size_px: tuple[int, int]) -> Float:
    """Polylines (..., point, 2) in (u, v), with their calibre 1 to 3, as soft strokes on the picture, 0 to 1."""
    width, height = size_px
    mask = np.zeros((height, width), dtype=np.uint8)
    for points, calibre in sorted(lines, key=lambda line: line[1]):  # thick over thin
        h = points @ project[:, :2].T + project[:, 2]
        in_front = np.maximum(h[..., 2:], 0.05)
        pixels = np.rint(np.clip(h[..., :2] / in_front, -1e3, 1e4) * 16).astype(np.int32)
        thickness = max(1, round((0.4 + 0.55 * calibre) * height / 240))
        strokes = list(pixels.reshape(-1, *points.shape[-2:]))
        cv2.polylines(mask, strokes, False, 95 + 53 * calibre, thickness, cv2.LINE_AA, 4)
    return _blur(mask.astype(np.float32) / 255, 0.8 * height / 240)


# ------------------------------------------------------------------------------------------ light and colour


@lru_cache(maxsize=4)
def _camera_plane(size_px: tuple[int, int]) -> tuple[Float, Float]:
    """Camera coordinates in image heights from the middle: x (1, width), y (height, 1)."""
    width, height = size_px
    x = (np.arange(width, dtype=np.float32)[None] - (width - 1) / 2) / height
    y = (np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2) / height
    return x, y


def _blur(plane: Float, sigma_px: float) -> Float:
    side = 2 * int(np.ceil(2.5 * sigma_px)) + 1
    return np.asarray(cv2.GaussianBlur(plane, (side, side), sigma_px))


def _halve(plane: Float) -> Float:
    height, width = plane.shape
    return np.asarray(cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA))


def _spread(plane: Float, sigma_px: float) -> Float:
    """A wide Gaussian blur, computed on a quarter of the lines."""
    height, width = plane.shape
    small = cv2.resize(plane, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    small = _blur(small, sigma_px / 4)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _albedo(
    traits: Traits, blood: Float, inside: Float, ink: Float, expression: float, jitter: NDArray[np.float64]
) -> Float:
    """Colour of the surface, float32 (3, h, w) RGB: pink mucosa, paler or redder on the lesion, red vessels."""
    hue, lightness = traits.tissue[:2]
    base = np.log(MUCOSA) + 0.05 * lightness + 0.02 * jitter[0] + hue * np.array([0.01, -0.035, -0.065])
    paleness = 0.16 + 0.05 * traits.lesion[2] - 0.14 * expression
    redness = 0.07 * traits.lesion[1] + 0.50 * expression
    lesion = np.array([0.20, 0.75, 0.85]) * paleness - np.array([0.10, 0.75, 0.60]) * redness
    uneven = blood * (1 + 0.9 * expression * inside)
    uneven += 1.6 * expression * _spread(inside, 0.11 * blood.shape[0])  # the flush around it
    albedo = np.empty((3, *blood.shape), dtype=np.float32)
    for plane, start, patch, bleeding, vessel in zip(
        albedo, base, lesion, (0.02, 0.13, 0.12), (0.30, 0.95, 0.80), strict=True
    ):
        cv2.exp(inside * float(patch) - uneven * bleeding - ink * vessel + float(start), dst=plane)
    return albedo


def _light(
    surface: Float,
    albedo: Float,
    depth_in: Float,
    inside: Float,
    lumen_light: Float,
    fine: Float,
    jitter: NDArray[np.float64],
    size_px: tuple[int, int],
) -> Float:
    """Lit by a lamp beside the lens: Lambert's law, the lumen's darkness, and the wet surface's reflections."""
    height = size_px[1]
    x, y = _camera_plane(size_px)
    smooth = _blur(surface, 1.1 * height / 240)
    slope_x = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=height / 8)
    slope_y = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=height / 8)
    lamp_x = float(-0.30 + 0.06 * jitter[0]) - 0.7 * x
    lamp_y = float(-0.42 + 0.06 * jitter[1]) - 0.7 * y
    lambert = (1 - slope_x * lamp_x - slope_y * lamp_y) / np.sqrt(
        (1 + slope_x**2 + slope_y**2) * (1 + lamp_x**2 + lamp_y**2)
    )
    # Little light reaches the foot of the lesion.
    foot = _spread(inside, 0.022 * height) * (1 - inside)
    shade = (0.34 + 0.76 * np.maximum(lambert, 0)) * (1 - 0.40 * foot) * (0.94 + 0.10 * depth_in)
    shade *= lumen_light * float(np.exp(0.06 * jitter[2]))
    # Mirror reflections where the surface faces half-way between lamp and lens, broken up by the texture.
    # The film of mucus is smoother than what it covers, so the reflections need no more than half of the lines.
    wet_x, wet_y, rough = (_halve(plane) for plane in (slope_x + lamp_x / 2, slope_y + lamp_y / 2, fine))
    miss = (wet_x + GLINT_SPREAD * rough) ** 2 + (wet_y - GLINT_SPREAD * rough) ** 2
    glint = np.maximum(1 - miss * (1 / 0.0035), 0)
    glint = np.minimum(1.3 * glint + 0.5 * _blur(glint, 1.2 * height / 240), 1)
    glint = cv2.resize(glint, size_px, interpolation=cv2.INTER_LINEAR) * lumen_light
    matt, mirrored = shade * (1 - glint), 1.02 * glint
    for plane in albedo:
        plane *= matt
        plane += mirrored
    return albedo


def _expose(picture: Float, look: DeviceLook, strength: float, grain: Float, chroma_grain: Float) -> Float:
    """The device: optics, colour, sharpening and noise; planar in and out."""
    height, width = picture.shape[1:]
    lines = height / 240
    x, y = _camera_plane((width, height))
    fall_off = max(0.0, NEUTRAL_VIGNETTE + strength * look.vignette) * (x**2 + y**2) / 0.36
    vignette = 1 - np.minimum(fall_off, 0.9)
    defocus = max(0.15, NEUTRAL_DEFOCUS_PX + strength * look.defocus_px) * lines
    amount = strength * max(look.sharpening, 0.0)
    sigma = max(0.0, NEUTRAL_NOISE + strength * look.noise)
    out = np.empty_like(picture)
    for i, gain in enumerate(np.exp(strength * np.array(look.cast))):
        plane = _blur(picture[i], defocus)
        plane *= vignette
        np.clip(plane, 0, 1, out=plane)
        cv2.pow(plane, float(np.exp(strength * look.contrast)), dst=plane)
        plane *= np.float32(gain)
        if amount > 0:
            plane = cv2.addWeighted(plane, 1 + amount, _blur(plane, 1.4 * lines), -amount, 0)
        coarse = cv2.resize(chroma_grain[i], (width, height), interpolation=cv2.INTER_LINEAR)
        coarse += grain
        cv2.scaleAdd(coarse, sigma, plane, dst=out[i])
    return out
