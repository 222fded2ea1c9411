"""Columns of days among the variables of an audit: a year and a number of days, by the rules of study.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from pellucid.cohort.manifest import UnsureDates, date_part, days_of, is_day, missing_cells
from pellucid.probes.inputs.variables import split_kinds


def with_dates(table: pd.DataFrame, names: Sequence[str] | Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with what is derived from columns of days, and the variables with the kinds that were given.

    A column of kind `date` becomes NAME_year (ordinal) and NAME_days (continuous). A column of text without a kind
    that holds only days becomes a column of days.

    Raises:
        UserError: a cell of a column of kind `date` is no day.
    """
    given = dict(names) if isinstance(names, Mapping) else split_kinds(names, table.columns)
    kinds: dict[str, str] = {}
    for name, kind in given.items():
        if name not in table.columns or kind not in {"", "date"}:
            kinds[name] = kind
            continue
        column = table[name]
        present = column[~missing_cells(column, "continuous")]
        if kind == "date":
            masked = column.where(column.index.isin(present.index))
            derived = {f"{name}_{part}": date_part(masked, part, "The table", 1) for part in ("year", "days")}
            table = table.assign(**derived)
            kinds |= {f"{name}_year": "ordinal", f"{name}_days": "continuous"}
            continue
        if pd.api.types.is_object_dtype(column) or isinstance(column.dtype, pd.StringDtype):
            table = _as_days(table, name, present)
        kinds[name] = kind
    return table, kinds


def _as_days(table: pd.DataFrame, name: str, present: pd.Series) -> pd.DataFrame:
    text = [value for value in present if isinstance(value, str)]
    if len(text) != len(present) or not text or not all(map(is_day, text)):
        return table
    try:
        days, wrong = days_of(present)
    except UnsureDates:
        return table
    return table if len(wrong) else table.assign(**{name: days.reindex(table.index)})
