"""The outline of the field of view: where it lies, and how much of a round one the picture holds.

Read by `pellucid.cohort.measures.quality`; the field itself (what is not black border) comes from
`pellucid.cohort.measures.phenotypes.look`.
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
    left, top, box_width, box_height = cv2.boundingRect(hull)
    if cv2.countNonZero(filled) >= _FULL * box_width * box_height:
        return Outline(filled, 1.0)
    dense, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    x, y = dense[0][:, 0, :].T.astype(np.float64)
    # Where the outline runs along its own box it may have been cut, by the frame or by a straight band.
    free = (x > left + 1) & (x < left + box_width - 2) & (y > top + 1) & (y < top + box_height - 2)
    circle = _circle(x[free], y[free], hull)
    if circle is None:
        return Outline(filled, 1.0)
    disc = np.zeros_like(inside)
    cx, cy, radius = circle
    # OpenCV takes fixed-point numbers: four bits after the point
    cv2.circle(disc, (round(16 * cx), round(16 * cy)), round(16 * radius), 255, thickness=-1, shift=4)
    within = cv2.countNonZero(cv2.bitwise_and(filled, disc))
    return Outline(filled, min(1.0, within / (np.pi * radius**2)))


def _circle(x: Points, y: Points, hull: NDArray[Any]) -> tuple[float, float, float] | None:
    """Centre and radius of the circle that at least half of the free points lie on, or None.

    The smallest circle around the hull is the right one, and quickly found, while two opposite ends of the disc are in
    the picture; else a fit has to find it.
    """
    if len(x) < 20:
        return None
    (cx, cy), radius = cv2.minEnclosingCircle(hull)
    every = slice(None, None, 1 + len(x) // 120)  # enough points for a tenth of a pixel
    for candidate in ((cx, cy, radius), None):
        found = candidate or _fit_circle(x[every], y[every])
        if found is None:
            return None
        away = np.abs(np.hypot(x - found[0], y - found[1]) - found[2])
        on_circle = np.count_nonzero(away <= max(_ON_CIRCLE_PX, 0.015 * found[2]))
        flat = found[2] > 2 * max(np.ptp(x), np.ptp(y))  # so flat an arc may be anything
        if on_circle >= _ARC_SHARE * len(x) and not flat:
            return found
    return None


def _fit_circle(x: Points, y: Points) -> tuple[float, float, float] | None:
    """Kåsa's algebraic fit (IEEE Trans Instrum Meas 1976), reweighted by Cauchy's function of the residuals of the
    round before, so that straight cuts lose their say; None for points on one line."""
    x_mean, y_mean = float(x.mean()), float(y.mean())
    x, y = x - x_mean, y - y_mean
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
    return float(cx + x_mean), float(cy + y_mean), radius
