"""How two pictures are related, possibly rotated, mirrored, cropped or scaled: register them and compare their details.

Keypoints (SIFT, Lowe 2004) of the first picture are matched with those of the second and of its mirror image. The
rotation, scale and shift that most matches support (RANSAC, Fischler and Bolles 1981) registers the pictures. In the
overlap their details are compared block by block, as for the near duplicates of the scan
(`pellucid.cohort.duplicates.local_agreement`). Matching keypoints are not enough: pictures of one device share rulers
and lettering, and slices of one region share outlines, which match even if the rest differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.duplicates import MIN_SPREAD, registered_agreement
from pellucid.cohort.images import Pixels, shrink

SIDE_PX = 224  # shorter side; finer detail does not survive re-encoding
_POINTS, _RATIO, _LEAST_INLIERS, _WITHIN_PX = 600, 0.8, 12, 3.0
_LEAST_OVERLAP = 0.2  # of the smaller picture's area; a smaller overlap is not conclusive
_SCALES = (0.25, 4.0)
_DETAIL_SCALE = SIDE_PX / 128  # the details of the scan, whose thumbnails have 128 pixels
Grey = NDArray[np.uint8]
Points = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Match:
    """How two pictures are related.

    Attributes:
        agreement: of the details in the overlap, −1 to 1.
        how: `the same`, or any of mirrored, turned, cropped, scaled.
        inliers: number of keypoint matches that support it.
        overlap: share of the first picture covered by the second.
    """

    agreement: float
    how: str
    inliers: int
    overlap: float


def related(first: Pixels, second: Pixels) -> Match | None:
    """How the second picture (H, W, 3) uint8 relates to the first; None if no rotation, scale and shift does.

    Whether they are copies is a matter of the agreement (`pellucid.cohort.duplicates.CopyLimits`).
    """
    a, b = _grey(first), _grey(second)
    if a.std() < MIN_SPREAD or b.std() < MIN_SPREAD:
        return None
    of_a = _points(a)
    best: Match | None = None
    for mirrored in (False, True):
        shown = np.ascontiguousarray(b[:, ::-1]) if mirrored else b
        match = _register(a, shown, of_a, mirrored)
        if match is not None and (best is None or match.agreement > best.agreement):
            best = match
    return best


def _grey(pixels: Pixels) -> Grey:
    return np.asarray(cv2.cvtColor(shrink(pixels, SIDE_PX), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _points(grey: Grey) -> Points | None:
    sift = cv2.SIFT.create(nfeatures=_POINTS, contrastThreshold=0.02)
    points, descriptors = sift.detectAndCompute(grey, None)
    if descriptors is None or len(points) < _LEAST_INLIERS:
        return None
    # RootSIFT (Arandjelović and Zisserman, CVPR 2012): the Hellinger distance discriminates better.
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-7))
    return np.array([p.pt for p in points], np.float32), descriptors.astype(np.float32)


def _register(a: Grey, b: Grey, of_a: Points | None, mirrored: bool) -> Match | None:
    of_b = _points(b)
    if of_a is None or of_b is None:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(of_b[1], of_a[1], k=2)
    good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < _RATIO * p[1].distance]
    if len(good) < _LEAST_INLIERS:
        return None
    source = of_b[0][[m.queryIdx for m in good]]
    target = of_a[0][[m.trainIdx for m in good]]
    cv2.setRNGSeed(0)
    move, inside = cv2.estimateAffinePartial2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=_WITHIN_PX, maxIters=2000, confidence=0.999
    )
    if move is None or inside is None or int(inside.sum()) < _LEAST_INLIERS:
        return None
    scale = float(np.hypot(move[0, 0], move[1, 0]))
    if not _SCALES[0] <= scale <= _SCALES[1]:
        return None
    size = (a.shape[1], a.shape[0])
    covered = cv2.warpAffine(np.full(b.shape, 255, np.uint8), move, size, flags=cv2.INTER_NEAREST) > 0
    if covered.sum() < _LEAST_OVERLAP * min(a.size, b.size * scale * scale):
        return None
    back = np.asarray(cv2.invertAffineTransform(move), dtype=np.float32)
    agreement = registered_agreement(a, b, back, _DETAIL_SCALE)
    turn = abs(float(np.degrees(np.arctan2(move[1, 0], move[0, 0]))))
    overlap = float(covered.mean())
    cropped = overlap < 0.93 or a.size < 0.93 * b.size * scale * scale
    words = [w for w, there in (("mirrored", mirrored), ("turned", turn > 3), ("cropped", cropped)) if there]
    if not words and abs(np.log(scale)) > 0.1:
        words = ["scaled"]
    return Match(agreement, " and ".join(words) or "the same", int(inside.sum()), overlap)
