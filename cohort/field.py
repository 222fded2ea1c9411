"""The outline of the field of view: where it lies, and how much of a round one the picture holds.

Read by `cohort.quality`; the field itself (what is not black border) comes from `cohort.phenotypes.look`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
_SMALL_PART = 0.02  # of the picture: what is smaller is lettering or noise, not part of the field
_FULL = 0.97  # of its bounding box: from here on an outline is a rectangle
_ON_CIRCLE_PX = 1.0
_ARC_SHARE = 0.5  # of the outline away from its box that must lie on the circle, or it is no circle


@dataclass(frozen=True)
class Outline:
    """The field without holes.

    Attributes:
        filled: (h, w) uint8 mask, 0 or 255: the convex hull of the field.
        completeness: share of a round field that lies in the picture, 0–1; 1 for one that is not round.
    """

    filled: NDArray[np.uint8]
    completeness: float


def outline(inside: NDArray[np.uint8]) -> Outline:
    """The outline of a field mask (h, w), uint8 0 or 255.

    A circle is fitted to that part of the hull's outline that does not run along its bounding box. If at least half of
    it lies on the circle, completeness is the hull's share of the circle's area: a disc cut by the frame, by
    straight bands or by something dark loses the share that was cut. A rectangle or any other shape says
    nothing of what may lie beyond it, and counts as complete.
    """
    if cv2.countNonZero(inside) >= _FULL * inside.size:  # most photographs: nothing to find
        return Outline(np.full_like(inside, 255), 1.0)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = [c for c in contours if cv2.contourArea(c) >= _SMALL_PART * inside.size]
    if not parts:
        return Outline(np.full_like(inside, 255), 1.0)
    hull = cv2.convexHull(np.concatenate(parts))
    filled = np.zeros_like(inside)
    cv2.fillConvexPoly(filled, hull, 255)
    _, _, box_width, box_height = cv2.boundingRect(hull)
    area = cv2.countNonZero(filled)
    if area >= _FULL * box_width * box_height:
        return Outline(filled, 1.0)
    dense, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rim = dense[0][:, 0, :].astype(np.float64)
    # Where the outline runs along its own box it may have been cut, by the frame or by a straight band.
    free = rim[((rim > rim.min(axis=0) + 1) & (rim < rim.max(axis=0) - 1)).all(axis=1)]
    circle = _circle(free, hull)
    if circle is None:
        return Outline(filled, 1.0)
    disc = np.zeros_like(inside)
    x, y, radius = circle
    # OpenCV takes fixed-point numbers: four bits after the point
    cv2.circle(disc, (round(16 * x), round(16 * y)), round(16 * radius), 255, thickness=-1, shift=4)
    within = cv2.countNonZero(cv2.bitwise_and(filled, disc))
    return Outline(filled, min(1.0, within / (np.pi * radius**2)))


def _circle(free: Points, hull: NDArray[Any]) -> tuple[float, float, float] | None:
    """Centre and radius of the circle that at least half of the free points lie on, or None.

    The smallest circle around the hull is the right one, and quickly found, while two opposite ends of the disc are in
    the picture; else a fit has to find it.
    """
    if len(free) < 20:
        return None
    (x, y), radius = cv2.minEnclosingCircle(hull)
    for candidate in ((x, y, radius), None):
        found = candidate or _fit_circle(free[:: 1 + len(free) // 120])  # enough points for a tenth of a pixel
        if found is None:
            return None
        distance = np.hypot(free[:, 0] - found[0], free[:, 1] - found[1]) - found[2]
        on_circle = np.abs(distance) <= max(_ON_CIRCLE_PX, 0.015 * found[2])
        flat = found[2] > 2 * np.ptp(free, axis=0).max()  # so flat an arc may be anything
        if np.count_nonzero(on_circle) >= _ARC_SHARE * len(free) and not flat:
            return found
    return None


def _fit_circle(points: Points) -> tuple[float, float, float] | None:
    """Kåsa's algebraic fit (IEEE Trans Instrum Meas 1976), reweighted by Cauchy's function of the residuals of the
    round before, so that straight cuts lose their say; None for points on one line."""
    origin = points.mean(axis=0)
    x, y = (points - origin).T
    system = np.stack([x, y, np.ones_like(x)])
    square = x * x + y * y
    weight = np.ones_like(x)
    for scale in (4.0, 2.0, 1.0, 1.0, 1.0):
        weighted = system * weight
        try:
            two_x, two_y, rest = np.linalg.solve(weighted @ system.T, weighted @ square)
        except np.linalg.LinAlgError:
            return None
        cx, cy = two_x / 2, two_y / 2
        radius = float(np.sqrt(max(1e-9, rest + cx * cx + cy * cy)))
        weight = 1 / (1 + ((np.hypot(x - cx, y - cy) - radius) / scale) ** 2)
    return float(cx + origin[0]), float(cy + origin[1]), radius
