"""Filters on columns, as they are typed on a command line: `device=A`, `age>60`, `grade=2|3`, `site!=`."""

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
from pellucid.cohort.manifest import as_text

_WRITTEN = re.compile(r"\s*(?P<column>[^=<>!]+?)\s*(?P<sign>>=|<=|!=|==|=|>|<)(?P<value>.*)", re.DOTALL)
_HOW = "write column=value, column!=value, column>number (or >=, <, <=), several values as a|b, nothing for a gap"


@dataclass(frozen=True)
class Filter:
    """One condition: a column, a sign (=, !=, <, <=, >, >=) and the text behind it."""

    column: str
    sign: str
    value: str


def parse_filter(text: str) -> Filter:
    """`device=A` and the like.

    Raises:
        UserError: not written like that.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise UserError(f"filter `{text}`: {_HOW}")
    sign = "=" if found["sign"] == "==" else found["sign"]
    return Filter(found["column"], sign, found["value"].strip())


def allowed_rows(table: pd.DataFrame, filters: Sequence[str | Filter]) -> NDArray[np.bool_]:
    """(n,) which rows of the table meet every condition. A gap meets none but `column=` and `column!=value`.

    Raises:
        UserError: an unknown column, a value that no row has, or a comparison of what is no number.
    """
    allowed = np.ones(len(table), dtype=bool)
    for given in filters:
        one = parse_filter(given) if isinstance(given, str) else given
        if one.column not in table.columns:
            known = [str(c) for c in table.columns]
            near = did_you_mean(one.column, known)
            raise UserError(
                f"filter `{_text(one)}`: there is no column `{one.column}`{near}; there are: {_some(known)}"
            )
        column = table[one.column]
        allowed &= _equal(column, one) if one.sign in ("=", "!=") else _compared(column, one)
    return allowed


def _equal(column: pd.Series[Any], one: Filter) -> NDArray[np.bool_]:
    text = as_text(column)
    if one.value == "":
        gaps = text.isna().to_numpy()
        return np.asarray(gaps if one.sign == "=" else ~gaps, dtype=bool)
    wanted = [part.strip() for part in one.value.split("|")]
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
            hint = f"{did_you_mean(value, known)}; there are: {_some(known)}" if len(known) <= 1000 else ""
            raise UserError(f"filter `{_text(one)}`: no image has `{one.column}` = `{value}`{hint}")
        found |= here
    return found if one.sign == "=" else ~found


def _compared(column: pd.Series[Any], one: Filter) -> NDArray[np.bool_]:
    limit = _number(one.value)
    if limit is None:
        raise UserError(f"filter `{_text(one)}`: `{one.value}` is no number; {_HOW}")
    numbers = pd.to_numeric(as_text(column), errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    if np.isnan(numbers).all():
        raise UserError(f"filter `{_text(one)}`: `{one.column}` holds no numbers: use = or !=")
    with np.errstate(invalid="ignore"):
        found = {">": numbers > limit, ">=": numbers >= limit, "<": numbers < limit, "<=": numbers <= limit}[one.sign]
    return np.asarray(found, dtype=bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(one: Filter) -> str:
    return f"{one.column}{one.sign}{one.value}"


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
