"""The manifest's columns as the source audit needs them: codes and numbers beside the patients, no text per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.statistics.event_level import EventLevel, event_level
from pellucid.cohort.statistics.patient_resampling import IntArray, Patients
from pellucid.cohort.study import Kind, Variable, as_level

MAX_LEVELS_SHOWN = 30
MAX_LEVELS_AS_THEY_ARE = 8  # ordinal numbers of more values are shown by quartile


@dataclass(frozen=True, eq=False)
class Column:
    """One variable of n images.

    `values` (n,): int64 codes into `levels`, -1 where missing; or, where `levels` is empty, float64 with NaN.
    `shown` (n,): codes into `shown_levels` for tables and figures (numbers of many values by quartile).
    """

    name: str
    role: str  # clinical, outcome, acquisition; candidate (a header field); quality; calendar
    kind: Kind
    values: NDArray[Any]
    levels: tuple[str, ...]
    shown: IntArray
    shown_levels: tuple[str, ...]
    positive: str | None = None  # the level that study.yaml declares as the event

    @property
    def known(self) -> NDArray[np.bool_]:
        """Images whose value is not missing, (n,)."""
        return self.values >= 0 if self.levels else ~np.isnan(self.values)

    @classmethod
    def from_values(cls, values: pd.Series, variable: Variable, role: str = "") -> Column:
        """A column of the manifest as its declared kind says."""
        numbers = variable.kind in {"ordinal", "continuous"}
        if numbers:
            values = pd.to_numeric(values, errors="coerce")
        elif not pd.api.types.is_numeric_dtype(values):
            values = values.astype(object).where(values.notna() & (values != ""), None)  # a header says nothing as ""
        codes, levels = _coded(levels_of(values, variable))
        return cls(
            variable.name,
            role or variable.role,
            variable.kind,
            values.to_numpy(dtype=np.float64, na_value=np.nan) if numbers else codes,
            () if numbers else levels,
            codes,
            levels,
            variable.positive,
        )

    @classmethod
    def flag(cls, name: str, role: str, marked: NDArray[np.bool_], known: NDArray[np.bool_]) -> Column:
        """A yes-or-no column (levels `no`, `yes`) known for some images."""
        codes = np.where(known, marked.astype(np.int64), -1)
        return cls(name, role, "binary", codes, ("no", "yes"), codes, ("no", "yes"))

    @classmethod
    def number(cls, name: str, role: str, values: NDArray[np.float64]) -> Column:
        """A measured number."""
        nothing = np.full(len(values), -1, dtype=np.int64)
        return cls(name, role, "continuous", values, (), nothing, ())


@dataclass(frozen=True, eq=False)
class SourceColumns:
    """All that the source audit counts and tests: the usable images, their patients and the declared variables."""

    images: pd.DataFrame  # usable rows of the manifest
    patients: Patients
    variables: tuple[Column, ...]
    seed: int

    @classmethod
    def from_table(cls, usable: pd.DataFrame, variables: Sequence[Variable], seed: int) -> SourceColumns:
        columns = tuple(Column.from_values(usable[v.name], v) for v in variables if v.name in usable)
        return cls(usable, Patients.from_ids(usable["patient"].to_numpy()), columns, seed)

    def with_role(self, *roles: str) -> list[Column]:
        return [column for column in self.variables if column.role in roles]

    @cached_property
    def binary(self) -> list[tuple[Column, int]]:
        """Outcomes, then clinical variables, of exactly two levels, each with the code of its event."""
        found = []
        for column in [*self.with_role("outcome"), *self.with_role("clinical")]:
            if len(column.shown_levels) == 2 and (column.levels or column.kind == "ordinal"):
                found.append((column, event_code(column, self.patients)))
        return found

    def patients_with(self, codes: IntArray, n_levels: int, rows: NDArray[np.bool_] | None = None) -> IntArray:
        """Patients who have at least one image at each level, (n_levels,)."""
        keep = codes >= 0 if rows is None else (codes >= 0) & rows
        cells = np.unique(self.patients.codes[keep] * n_levels + codes[keep])
        return np.bincount(cells % n_levels, minlength=n_levels).astype(np.int64)


def event_code(column: Column, patients: Patients) -> int:
    """Which of a two-level column's codes is the event."""
    return column.shown_levels.index(event_of(column, patients).level)


def event_of(column: Column, patients: Patients) -> EventLevel:
    """The event of a two-level column, and the rule that chose it.

    Raises:
        UserError: study.yaml declares a level that the column does not have.
    """
    counts = {level: patients.count(column.shown == code) for code, level in enumerate(column.shown_levels)}
    return event_level(counts, column.name, column.positive)


def levels_of(values: pd.Series, variable: Variable) -> pd.Series:
    """The variable as levels: continuous ones, and ordinal ones of many values, by quartile."""
    if variable.kind in {"categorical", "binary"} or values.nunique() <= MAX_LEVELS_AS_THEY_ARE:
        names = {v: as_level(v) for v in values.dropna().unique()}
        return values.astype(object).map(names).where(values.notna(), None)
    binned, least = pd.qcut(values, 4, duplicates="drop"), values.min()  # the first bin begins a little below it
    return binned.map(lambda b: f"{max(b.left, least):.4g}–{b.right:.4g}", na_action="ignore").astype(object)


def _coded(levels: pd.Series) -> tuple[IntArray, tuple[str, ...]]:
    """Codes (-1 missing) and levels in their natural order: numbers and ranges by their first number, text as text."""
    codes, found = pd.factorize(levels)
    names = [str(name) for name in found]
    try:
        order = sorted(range(len(names)), key=lambda i: float(names[i].partition("–")[0]))
    except ValueError:
        order = sorted(range(len(names)), key=lambda i: names[i])
    place = np.empty(len(names) + 1, dtype=np.int64)
    place[order] = np.arange(len(names))
    place[-1] = -1
    return place[codes], tuple(names[i] for i in order)
