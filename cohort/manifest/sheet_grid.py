"""A workbook's sheets as rows of cells: text stays text, numbers stay numbers, merged cells hold their value."""

from __future__ import annotations

import posixpath
import re
import warnings
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

Cells = list[Any]


@dataclass(frozen=True)
class Sheet:
    """One sheet.

    Attributes:
        name: as on its tab.
        rows: number of the row, counted from 1, and its cells; rows without content are left out.
        merged: first row, last row, first column, last column of each merged range, counted from 1.
        uncomputed: row and column of each cell with a formula of which the file holds no result, counted from 1.
    """

    name: str
    rows: list[tuple[int, Cells]]
    merged: list[tuple[int, int, int, int]]
    uncomputed: tuple[tuple[int, int], ...] = ()

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
        formulas = _uncomputed(path)
        found = [_sheet(worksheet, formulas.get(worksheet.title, ())) for worksheet in book.worksheets]
        return [sheet for sheet in found if sheet is not None]
    finally:
        book.close()


def _uncomputed(path: Path) -> dict[str, tuple[tuple[int, int], ...]]:
    """By sheet the cells whose formula has no stored result: a program wrote the workbook, and none has computed it."""
    relation = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
    found = {}
    with zipfile.ZipFile(path) as parts:
        names = set(parts.namelist())
        if not {"xl/workbook.xml", "xl/_rels/workbook.xml.rels"} <= names:
            return {}
        targets = {
            item.get("Id"): item.get("Target", "")
            for item in ElementTree.fromstring(parts.read("xl/_rels/workbook.xml.rels"))
        }
        for item in ElementTree.fromstring(parts.read("xl/workbook.xml")).iter():
            target = targets.get(item.get(relation), "") if item.tag.endswith("}sheet") else ""
            part = target.lstrip("/") if target.startswith("/") else posixpath.normpath(f"xl/{target}")
            if target and part in names:
                content = parts.read(part)
                if re.search(rb"<(\w+:)?f[ />]", content):
                    found[str(item.get("name"))] = _formulas_without_result(content)
    return found


def _formulas_without_result(content: bytes) -> tuple[tuple[int, int], ...]:
    from openpyxl.utils.cell import coordinate_to_tuple

    cells = []
    for _, cell in ElementTree.iterparse(BytesIO(content)):
        if not cell.tag.endswith("}c"):
            continue
        kinds = {child.tag.rpartition("}")[2]: child.text for child in cell}
        # the text "" is a result, which Excel stores with the type str
        if "f" in kinds and not kinds.get("v") and cell.get("t") != "str" and cell.get("r"):
            cells.append(coordinate_to_tuple(str(cell.get("r"))))
        cell.clear()
    return tuple(cells)


def _sheet(worksheet: Any, uncomputed: tuple[tuple[int, int], ...]) -> Sheet | None:
    if worksheet.sheet_state != "visible":
        return None
    rows = [
        (number, list(cells))
        for number, cells in enumerate(worksheet.iter_rows(values_only=True), start=1)
        if any(_holds(cell) for cell in cells)
    ]
    merged = [(r.min_row, r.max_row, r.min_col, r.max_col) for r in worksheet.merged_cells.ranges]
    return Sheet(worksheet.title, rows, merged, uncomputed) if rows else None


def _holds(cell: Any) -> bool:
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))
