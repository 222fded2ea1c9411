"""A csv, tsv or txt file as rows of cells: which encoding, which delimiter, quotes and all."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from pellucid.cohort.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
MOST_TITLE_ROWS = 20
_LOOKED_AT = 400  # rows by which the delimiter is chosen
_SHARE = 0.8  # of them must have as many cells as the header
Grid = list[tuple[int, list[str]]]  # number of the row as a spreadsheet counts it, from 1, and its cells


def text_grid(path: Path) -> tuple[Grid, str]:
    """The rows of a text table that hold anything, and the delimiter.

    Raises:
        UserError: the file is empty or is no text in UTF-8 or UTF-16.
    """
    text = _decoded(path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    said, skipped = re.match(r"\s*\"?sep=(.)\"?[^\n]*\n", text, re.I), 0
    if said:
        skipped, text = text[: said.end()].count("\n"), text[said.end() :]
    if not text.strip():
        raise UserError(f"{path}: the table is empty")
    delimiter = said.group(1) if said else _delimiter(text, "\t" if path.suffix.lower() == ".tsv" else "")
    return [(number + skipped, cells) for number, cells in _rows(text, delimiter)], delimiter


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in content[:2000]:
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error}); save it as CSV UTF-8") from None


def _rows(text: str, delimiter: str, most: int | None = None) -> Grid:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=delimiter != "\t")
    csv.field_size_limit(2**31 - 1)
    rows: Grid = []
    for number, cells in enumerate(reader, start=1):
        if any(cell.strip() for cell in cells):
            rows.append((number, cells))
        if most is not None and len(rows) >= most:
            break
    return rows


def width(cells: list[str]) -> int:
    """How many cells a row has, without empty ones at its end."""
    n = len(cells)
    while n and not cells[n - 1].strip():
        n -= 1
    return n


def _delimiter(text: str, expected: str) -> str:
    """The delimiter that splits the header row and the rows below it into equally many cells, the earliest such row.

    What the cells hold says nothing: decimal commas, lists and free text hold delimiters too.
    """
    grids = {d: [cells for _, cells in _rows(text, d, _LOOKED_AT)] for d in DELIMITERS}
    for row in range(MOST_TITLE_ROWS):
        fits = {d: width(grid[row]) for d, grid in grids.items() if row < len(grid) and _begins_table(grid, row)}
        if fits:
            return max(fits, key=lambda d: (fits[d], d == expected))
    return expected or max(DELIMITERS, key=lambda d: width(grids[d][0]))


def _begins_table(grid: list[list[str]], row: int) -> bool:
    """Do the rows below have as many cells as this one, with none beyond but empty ones?"""
    n, below = width(grid[row]), grid[row + 1 :]
    if n < 2 or not below:
        return False
    full = len(grid[row])
    same = [len(cells) == full or len(cells) >= n >= width(cells) or _row_names(grid[row], cells) for cells in below]
    return same[0] and sum(same) >= _SHARE * len(same)


def _row_names(header: list[str], cells: list[str]) -> bool:
    """Does the row have one cell more than the header, as where a program writes row names?"""
    return len(cells) == width(cells) == len(header) + 1 and bool(cells[0].strip())
