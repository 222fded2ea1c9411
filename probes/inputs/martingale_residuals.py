"""Martingale residuals and event order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def order_of(times: NDArray[np.float64], events: NDArray[np.bool_]) -> IntArray:
    """(n,) places in time, even for events and odd for patients last seen: who is last seen on the day of an event comes after it."""
    return np.asarray(2 * np.unique(times, return_inverse=True)[1] + ~events, dtype=np.int64)


def martingale_residuals(
    times: NDArray[np.float64], events: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n,) events seen minus events expected of everybody alike, by Nelson and Aalen's cumulative hazard [0].

    High where the event came early. Their sum over a group is what the log-rank test sums up, and their product with a dimension is
    the slope of Cox's likelihood at zero: what a linear probe should be fitted to first.
    """
    distinct, place = np.unique(times, return_inverse=True)
    happened = np.bincount(place, weights * events, len(distinct))
    at_risk = np.cumsum(np.bincount(place, weights, len(distinct))[::-1])[::-1]
    hazard = np.cumsum(happened / np.maximum(at_risk, 1e-300))
    return np.asarray(events - hazard[place], dtype=np.float64)
