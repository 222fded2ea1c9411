"""Rows of cells → DataFrame: where the header is, which columns have a name, and which rows are no data."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pellucid.cohort.errors import UserError

Rows = Sequence[tuple[int, Sequence[Any]]]
_LOOKED_AT = 400
_MOST_TITLE_ROWS = 20
_HEADER_SHARE = 0.7  # of the usual number of filled cells; a title above the header fills fewer
_TOTAL = re.compile(
    r"(grand |sub)?(total|totals|sum|mean|average|avg|median|std|sd|stdev|count|min|max|minimum|maximum|n|range|iqr|"
    r"summe|gesamt|gesamtsumme|mittelwert|mittel|durchschnitt|anzahl|standardabweichung|"
    r"somme|moyenne|médiane|ecart-type|suma|promedio|media|mediana|totale|somma|soma|média)\b[ .:=()\d]*",
    re.I,
)
_UNIT = re.compile(
    r"[\[(][^\])]*[\])]|%|[µumkcd]?[gml]|mm|cm|mm[²³23]|cm[²³23]|kg/m[²2^]*2?|[mµun]?g/d?l|mmol/l|µmol/l|mmhg|bpm|hz|"
    r"years?|yrs?|y|jahre|ans|años|anni|anos|months?|days?|weeks?|hours?|h|min|s|sec|ms|kvp?|mas?|°c|px|pixels?|"
    r"u/l|iu/l|ng/ml|text|string|integer|float|yyyy-mm-dd|dd[./]mm[./]yyyy|dd.mm.jjjj|unit|units|einheit",
    re.I,
)
_UNNAMED = re.compile(r"unnamed: \d+(_level_\d+)?", re.I)


def is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and cell != cell) or (isinstance(cell, str) and not cell.strip())


def header_place(rows: Rows) -> int:
    """Which of the rows is the header: the first that has about as many filled cells as rows of the table have."""
    filled = [sum(not is_empty(cell) for cell in cells) for _, cells in rows[:_LOOKED_AT]]
    usual = statistics.median(filled)
    if len(rows) > 1 and filled[0] == usual - 1 and filled[1] == usual and str(rows[1][1][0]).strip().isdigit():
        return 0  # every row begins with its number, which the header does not name
    enough = [i for i, n in enumerate(filled[:_MOST_TITLE_ROWS]) if n >= max(min(2, usual), _HEADER_SHARE * usual)]
    return enough[0] if enough else 0


def frame_of(path: Path, rows: Rows, header: int) -> tuple[pd.DataFrame, list[str]]:
    """The table below the header, and a sentence for each thing that was left out.

    The label of a row is its number in the file less 2, so that row 2 of a plain table has the label 0.

    Raises:
        UserError: two columns of one name, or a row with more cells than the header.
    """
    names = [" ".join(str(cell).split()) if not is_empty(cell) else "" for cell in rows[header][1]]
    data = [(number, list(cells)) for number, cells in rows[header + 1 :]]
    if data and _have_row_names(names, data):
        names = ["", *names]
    notes: list[str] = []
    if header:
        notes.append(f"{path.name}: the header is row {rows[header][0]}; what is above it is no part of the table")
    while (
        names and not names[-1] and all(len(cells) < len(names) or is_empty(cells[len(names) - 1]) for _, cells in data)
    ):
        names.pop()
    _refuse_long_rows(path, names, data)
    data = _without_units_and_totals(path, names, data, notes)
    columns: dict[str, list[Any]] = {}
    for place, name in enumerate(names):
        values = [cells[place] if place < len(cells) and not is_empty(cells[place]) else None for _, cells in data]
        if not name or _UNNAMED.fullmatch(name):
            if any(value is not None for value in values) and not _counts(values):
                notes.append(f"{path.name}: column {place + 1} has no name in the header: it is left out")
            continue
        if name in columns:
            raise UserError(f"{path}: two columns are called `{name}`: rename one")
        columns[name] = values
    index = pd.Index([number - 2 for number, _ in data], dtype="int64")
    return pd.DataFrame({name: pd.Series(v, index=index, dtype=object) for name, v in columns.items()}), notes


def _have_row_names(names: list[str], data: Sequence[tuple[int, list[Any]]]) -> bool:
    """Has every row one cell more than the header, the first of them filled and different in each row?"""
    first = [cells[0] for _, cells in data]
    return (
        all(names)
        and len(set(first)) == len(first)
        and all(
            len(cells) == len(names) + 1 and not is_empty(cells[0]) and not is_empty(cells[-1]) for _, cells in data
        )
    )


def _refuse_long_rows(path: Path, names: list[str], data: Sequence[tuple[int, list[Any]]]) -> None:
    long = [(n, cells) for n, cells in data if any(not is_empty(cell) for cell in cells[len(names) :])]
    if long:
        number, cells = long[0]
        raise UserError(
            f"{path}: row {number} has {len(cells)} cells, but the header has {len(names)} ({len(long)} such row(s)): "
            "put texts that contain the delimiter into quotes, or name every column"
        )


def _counts(values: list[Any]) -> bool:
    """Is it the running number that pandas writes as a column without a name?"""
    return [str(value) for value in values] in (
        [str(i) for i in range(len(values))],
        [str(i + 1) for i in range(len(values))],
    )


def _without_units_and_totals(
    path: Path, names: list[str], data: list[tuple[int, list[Any]]], notes: list[str]
) -> list[tuple[int, list[Any]]]:
    """The rows without one of units below the header and without totals and means at the end."""
    if len(data) > 1 and _is_unit_row(data[0][1], len(names)):
        notes.append(f"{path.name}: row {data[0][0]} gives units: it is left out")
        data = data[1:]
    end = len(data)
    while end > 1 and _is_total_row(data[end - 1][1], len(names)):
        end -= 1
    if end < len(data):
        shown = ", ".join(f"row {number} `{_first(cells)}`" for number, cells in data[end : end + 3])
        notes.append(f"{path.name}: {len(data) - end} row(s) at the end are totals, not data ({shown}): left out")
    return data[:end]


def _first(cells: Sequence[Any]) -> str:
    return next((str(cell).strip() for cell in cells if not is_empty(cell)), "")


def _is_total_row(cells: Sequence[Any], n: int) -> bool:
    gaps = n - sum(not is_empty(cell) for cell in cells)
    return gaps > 0 and _TOTAL.fullmatch(_first(cells)) is not None


def _is_unit_row(cells: Sequence[Any], n: int) -> bool:
    filled = [str(cell).strip() for cell in cells if not is_empty(cell)]
    return len(filled) < n and bool(filled) and all(_UNIT.fullmatch(cell) for cell in filled)


def typed_cells(column: pd.Series[Any]) -> pd.Series[Any]:
    """Cells that a spreadsheet typed, as a column of one type where all have it; text is never made a number."""
    present = [value for value in column if value is not None]
    if not present:
        return column
    if all(isinstance(value, bool) for value in present):
        return column.astype(bool) if len(present) == len(column) else column
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return pd.to_numeric(column)
    if all(isinstance(value, datetime | date) for value in present):
        return pd.to_datetime(column)
    return column
