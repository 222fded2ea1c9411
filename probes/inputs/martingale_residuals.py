"""Martingale residuals and event order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def order_of(times: NDArray[np.float64], events: NDArray[np.bool_]) -> IntArray:
    """(n,) ranks of the times, even for events and odd for censored patients: a patient censored on the day of an event
    comes after it."""
    return np.asarray(2 * np.unique(times, return_inverse=True)[1] + ~events, dtype=np.int64)


def martingale_residuals(
    times: NDArray[np.float64], events: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n,) observed minus expected events, with the Nelson–Aalen cumulative hazard of all patients (Therneau, Grambsch
    & Fleming 1990, equation 3, without covariates).

    High if the event came early. Their sum over a group is the numerator of the log-rank test, and their product with a
    dimension is the slope of the Cox likelihood at zero, the first step of a Cox model.
    """
    distinct, place = np.unique(times, return_inverse=True)
    happened = np.bincount(place, weights * events, len(distinct))
    at_risk = np.cumsum(np.bincount(place, weights, len(distinct))[::-1])[::-1]
    hazard = np.cumsum(happened / np.maximum(at_risk, 1e-300))
    return np.asarray(events - hazard[place], dtype=np.float64)
