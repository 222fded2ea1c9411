"""A workbook's sheets as rows of cells: text stays text, numbers stay numbers, merged cells hold their value."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cells = list[Any]


@dataclass(frozen=True)
class Sheet:
    """One sheet.

    Attributes:
        name: as on its tab.
        rows: number of the row, counted from 1, and its cells; rows without content are left out.
        merged: first row, last row, first column, last column of each merged range, counted from 1.
    """

    name: str
    rows: list[tuple[int, Cells]]
    merged: list[tuple[int, int, int, int]]

    def filled(self, after: int) -> list[tuple[int, Cells]]:
        """The rows; below row `after` each cell of a merged range holds the range's value."""
        known = {number: list(cells) for number, cells in self.rows}
        most = max((len(cells) for cells in known.values()), default=0)
        for top, bottom, left, right in self.merged:
            if top <= after or top not in known or right > most:
                continue
            value = known[top][left - 1]
            for number in range(top, bottom + 1):
                if number in known:
                    known[number][left - 1 : right] = [value] * (right - left + 1)
        return list(known.items())


def read_sheets(path: Path) -> list[Sheet]:
    """The visible sheets of a workbook that hold anything."""
    import openpyxl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that are of no interest here
        book = openpyxl.load_workbook(path, data_only=True)
    try:
        return [sheet for sheet in map(_sheet, book.worksheets) if sheet is not None]
    finally:
        book.close()


def _sheet(worksheet: Any) -> Sheet | None:
    if worksheet.sheet_state != "visible":
        return None
    rows = [
        (number, list(cells))
        for number, cells in enumerate(worksheet.iter_rows(values_only=True), start=1)
        if any(_holds(cell) for cell in cells)
    ]
    merged = [(r.min_row, r.max_row, r.min_col, r.max_col) for r in worksheet.merged_cells.ranges]
    return Sheet(worksheet.title, rows, merged) if rows else None


def _holds(cell: Any) -> bool:
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))
