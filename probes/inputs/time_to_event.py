"""Two columns of the user's table as one variable: a time, and whether the event or censoring happened at that time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.statistics import EVENT_WORDS, Patients
from pellucid.probes.inputs.martingale_residuals import martingale_residuals, order_of
from pellucid.probes.inputs.variables import (
    MIN_PATIENTS,
    ProbeVariable,
    Role,
    as_numbers,
    is_missing,
    time_and_event,
)

_CAME = EVENT_WORDS | {"dead", "died", "death", "deceased", "relapse", "recurrence", "progression"}
_DID_NOT = {"0", "false", "no", "n", "negative", "neg", "censored", "alive", "absent"}


def read_time_to_event(table: pd.DataFrame, name: str, role: Role, patients: Patients) -> ProbeVariable:
    """The variable "time/event" of a table.

    Raises:
        UserError: times are not numbers or below 0, the event column is not yes or no, or no patient had the event.
    """
    pair = time_and_event(name, table.columns)
    assert pair is not None  # checked by `resolve_kinds`
    time, event = pair
    missing = (is_missing(table[time], "continuous") | is_missing(table[event])).to_numpy()
    if missing.all():
        raise UserError(f'Variable "{name}" is empty: no row has both "{time}" and "{event}".')
    times = as_numbers(table[time][~missing]) if not pd.api.types.is_datetime64_any_dtype(table[time]) else None
    if times is None or not np.isfinite(times).all() or times.min() < 0:
        raise UserError(
            f'Variable "{name}": "{time}" must be the days, months or years from the image to the event or to when the '
            "patient was last seen: numbers from 0."
        )
    events = _events(table[event][~missing], name, event)
    inside = patients.subset(~missing)
    n_events = inside.count(events)
    if not n_events:
        raise UserError(f'Variable "{name}": no patient had the event; it cannot be probed.')
    values = np.full(len(table), np.nan)
    values[~missing] = martingale_residuals(times, events, inside.weights)
    order = np.full(len(table), -1, dtype=np.int64)
    order[~missing] = order_of(times, events)
    notes = []
    if missing.any():
        notes.append(
            f"{missing.sum()} of {len(table)} images ({patients.count(missing)} patients) have no value "
            "and are excluded from this variable."
        )
    several = int((~inside.constant(order[~missing])).sum())
    if several:
        notes.append(f"{several} patients have images with different times, assumed to be of different visits.")
    refusal = ""
    if inside.n_patients < 2 * MIN_PATIENTS:
        refusal = f"too few patients ({inside.n_patients}; {2 * MIN_PATIENTS} needed)"
    elif n_events < MIN_PATIENTS:
        refusal = f"too few patients ({n_events} with the event; {MIN_PATIENTS} needed)"
    counted = {"event": n_events, "no event": inside.n_patients - n_events}
    return ProbeVariable(
        name, role, "time_to_event", (), np.zeros(0, np.int64), values, ~missing, int(missing.sum()), counted,
        tuple(notes), refusal, missing, order,
    )  # fmt: skip


def _events(column: pd.Series[Any], name: str, event: str) -> NDArray[np.bool_]:
    text = column.astype(str).str.strip().str.lower().str.removesuffix(".0")
    unclear = text[~text.isin(_CAME | _DID_NOT)]
    if len(unclear):
        raise UserError(
            f'Variable "{name}": "{event}" holds "{unclear.iloc[0]}"; write 1 where the event came and 0 where it '
            "had not when the patient was last seen."
        )
    return np.asarray(text.isin(_CAME), dtype=bool)
