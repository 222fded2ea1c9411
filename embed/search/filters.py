"""Filters on columns, as on the command line: `device=A`, `age>60`, `grade=2|3`, `site!=`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest import as_level_text

_WRITTEN = re.compile(r"\s*(?P<column>[^=<>!]+?)\s*(?P<sign>>=|<=|!=|==|=|>|<)(?P<value>.*)", re.DOTALL)
_HOW = "write column=value, column!=value, column>number (or >=, <, <=), several values as a|b, column= for missing"


@dataclass(frozen=True)
class Filter:
    """One condition: a column, a sign (=, !=, <, <=, >, >=) and a value as text."""

    column: str
    sign: str
    value: str


def parse_filter(text: str) -> Filter:
    """Parse a condition such as `device=A`.

    Raises:
        UserError: not a condition.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise UserError(f"filter `{text}`: {_HOW}")
    sign = "=" if found["sign"] == "==" else found["sign"]
    return Filter(found["column"], sign, found["value"].strip())


def allowed_rows(table: pd.DataFrame, filters: Sequence[str | Filter]) -> NDArray[np.bool_]:
    """(n,) mask of the rows that meet every condition. A missing value meets only `column=` and `column!=value`.

    Raises:
        UserError: an unknown column, a value that no row has, or a comparison with something that is not a number.
    """
    allowed = np.ones(len(table), dtype=bool)
    for given in filters:
        condition = parse_filter(given) if isinstance(given, str) else given
        if condition.column not in table.columns:
            known = [str(c) for c in table.columns]
            near = did_you_mean(condition.column, known)
            raise UserError(
                f"filter `{_text(condition)}`: unknown column `{condition.column}`{near}; available: {_some(known)}"
            )
        column = table[condition.column]
        equality = condition.sign in ("=", "!=")
        allowed &= _equal(column, condition) if equality else _compared(column, condition)
    return allowed


def _equal(column: pd.Series[Any], condition: Filter) -> NDArray[np.bool_]:
    text = as_level_text(column)
    if condition.value == "":
        missing = text.isna().to_numpy()
        return np.asarray(missing if condition.sign == "=" else ~missing, dtype=bool)
    wanted = [part.strip() for part in condition.value.split("|")]
    found = np.zeros(len(column), dtype=bool)
    numbers = pd.to_numeric(column, errors="coerce") if pd.api.types.is_numeric_dtype(column) else None
    for value in wanted:
        here = (text == value).to_numpy(dtype=bool, na_value=False)
        if numbers is not None and not pd.api.types.is_bool_dtype(column) and _number(value) is not None:
            here = here | (numbers == _number(value)).to_numpy(dtype=bool, na_value=False)
        if not here.any():
            here = (text.str.lower() == value.lower()).to_numpy(dtype=bool, na_value=False)
        if not here.any():
            known = sorted(set(text.dropna()))
            hint = f"{did_you_mean(value, known)}; available: {_some(known)}" if len(known) <= 1000 else ""
            raise UserError(f"filter `{_text(condition)}`: no image has `{condition.column}` = `{value}`{hint}")
        found |= here
    return found if condition.sign == "=" else ~found


def _compared(column: pd.Series[Any], condition: Filter) -> NDArray[np.bool_]:
    limit = _number(condition.value)
    if limit is None:
        raise UserError(f"filter `{_text(condition)}`: `{condition.value}` is not a number; {_HOW}")
    numbers = pd.to_numeric(as_level_text(column), errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    if np.isnan(numbers).all():
        raise UserError(f"filter `{_text(condition)}`: `{condition.column}` contains no numbers: use = or !=")
    with np.errstate(invalid="ignore"):
        found = {">": numbers > limit, ">=": numbers >= limit, "<": numbers < limit, "<=": numbers <= limit}
    return np.asarray(found[condition.sign], dtype=bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(condition: Filter) -> str:
    return f"{condition.column}{condition.sign}{condition.value}"


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
