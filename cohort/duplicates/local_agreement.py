"""How far two gray images agree in their details, place by place, after registration.

Images of one body region share outlines: skull, chest wall, the border of a scan. A correlation over the whole image is
dominated by them, so that slices of different patients at one level reach 0.9. A copy agrees *everywhere*. The images
are therefore registered, reduced to a band of fine detail and compared in blocks; the agreement is a low quantile over
the blocks with content. Outlines that patients share raise the upper quantiles only.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.uint8]
Detail = NDArray[np.float32]
Mask = NDArray[np.bool_]

FINE_PX, COARSE_PX = 1.0, 4.0  # standard deviations of the Gaussian blurs whose difference is the detail, at 128 pixels
BLOCK_PX = 16  # side of a block at 128 pixels: about 4 × COARSE_PX, so that blocks vary almost independently
QUANTILE = 0.25  # a copy may differ in a quarter of its blocks: calipers, lettering, a masked name
MIN_CONTENT = 3.0  # gray levels (standard deviation of the detail): less is noise or compression
MIN_BLOCKS = 12  # at least so many blocks are compared, the richest first
_COVERED = 0.75  # of a block that the registered image must cover
_SCALES = (0.8, 1.25)  # of a registration by intensities; farther than that it fails or finds chance agreement
_MAX_SHEAR = 0.15
_STEPS, _EPSILON = 30, 1e-3


def detail(gray: Gray, scale: float = 1.0) -> Detail:
    """The band of fine detail of a gray image (h, w), in gray levels, (h, w) float32; `scale` widens both blurs."""
    values = gray.astype(np.float32)
    fine = cv2.GaussianBlur(values, (0, 0), FINE_PX * scale)
    return np.asarray(fine - cv2.GaussianBlur(values, (0, 0), COARSE_PX * scale), dtype=np.float32)


def local_agreement(first: Detail, second: Detail, inside: Mask | None = None, block_px: int = BLOCK_PX) -> float:
    """Lower quartile of the correlation of two registered details (h, w) over their blocks, −1 to 1.

    A block counts if either image has content there: what only one image shows is evidence against a copy.

    Args:
        first, second: as `detail` gives them.
        inside: (h, w), where both are known; None: everywhere.
        block_px: side of a block.
    """
    rows, columns = first.shape[0] // block_px, first.shape[1] // block_px
    if rows * columns == 0:
        return 0.0
    a, b = _blocks(first, rows, columns, block_px), _blocks(second, rows, columns, block_px)
    weight = np.ones_like(a)
    if inside is not None:
        weight = _blocks(inside.astype(np.float32), rows, columns, block_px)
    n = weight.sum(axis=1)
    whole = n >= _COVERED * block_px**2
    a, b, weight, n = a[whole], b[whole], weight[whole], n[whole]
    if len(a) < MIN_BLOCKS:
        return 0.0
    a = (a - (a * weight).sum(axis=1, keepdims=True) / n[:, None]) * weight
    b = (b - (b * weight).sum(axis=1, keepdims=True) / n[:, None]) * weight
    power_a, power_b = (a * a).sum(axis=1), (b * b).sum(axis=1)
    content = np.sqrt(np.maximum(power_a, power_b) / n)
    chosen = content >= MIN_CONTENT
    if chosen.sum() < MIN_BLOCKS:
        chosen = np.zeros(len(a), dtype=bool)
        chosen[np.argsort(-content, kind="stable")[:MIN_BLOCKS]] = True
    correlation = (a * b).sum(axis=1)[chosen] / np.sqrt(np.maximum(power_a * power_b, 1e-6)[chosen])
    return float(np.quantile(correlation, QUANTILE))


def _blocks(image: NDArray[np.float32], rows: int, columns: int, block_px: int) -> NDArray[np.float32]:
    """(blocks, pixels of a block)."""
    whole = image[: rows * block_px, : columns * block_px]
    return whole.reshape(rows, block_px, columns, block_px).swapaxes(1, 2).reshape(rows * columns, block_px**2)


def registered_agreement(first: Gray, second: Gray, move: NDArray[np.float32], scale: float = 1.0) -> float:
    """Agreement of two gray images after registration by their intensities.

    The affine map is refined from `move` by the enhanced correlation coefficient (Evangelidis and Psarakis, IEEE TPAMI
    30(10), 2008), which ignores brightness and contrast. Where that does not converge, or leads to a map that no copy
    in one orientation has, `move` is kept.

    Args:
        first, second: (h, w) and (h2, w2) uint8.
        move: (2, 3) float32, pixels of the first → pixels of the second.
        scale: of the images compared with 128 pixels.
    """
    refined = _refined(first, second, move, scale)
    return _moved_agreement(first, second, move if refined is None else refined, scale, round(BLOCK_PX * scale))


def _moved_agreement(first: Gray, second: Gray, move: NDArray[np.float32], scale: float, block_px: int) -> float:
    size = (first.shape[1], first.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(second, move, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(
        np.ones(second.shape, np.uint8), move, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    rim = 2 * round(2 * COARSE_PX * scale) + 1  # the detail this near to the border depends on what is beyond it
    inside = cv2.erode(covered, np.ones((rim, rim), np.uint8), borderValue=1) > 0
    return local_agreement(detail(first, scale), detail(np.asarray(moved, np.uint8), scale), inside, block_px)


def _refined(first: Gray, second: Gray, move: NDArray[np.float32], scale: float) -> NDArray[np.float32] | None:
    """The map, refined on images of half the size: precise enough, and three times as fast."""
    start = move.astype(np.float32).copy()
    start[:, 2] = (start[:, 2] + 0.5 * (start[:, :2].sum(axis=1) - 1)) / 2  # pixel centres
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _EPSILON)
    small, other = (cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in (first, second))
    known = np.full(other.shape, 255, np.uint8)
    try:
        _, found = cv2.findTransformECC(small, other, start, cv2.MOTION_AFFINE, stop, known, 2 * round(scale) + 1)
    except cv2.error:  # no convergence: nothing in common
        return None
    change = found[:, :2] @ np.linalg.inv(move[:, :2])
    stretch = np.linalg.svd(change, compute_uv=False)
    upright = np.abs(change - np.diag(np.diag(change))).max() <= _MAX_SHEAR
    if not (_SCALES[0] <= stretch[-1] and stretch[0] <= _SCALES[1] and upright):
        return None
    found[:, 2] = 2 * found[:, 2] - 0.5 * (found[:, :2].sum(axis=1) - 1)
    return np.asarray(found, dtype=np.float32)
