"""A clinical table from a file: csv, tsv, xlsx or parquet to a DataFrame, with a sentence for all that can be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.cell_values import (
    DecimalSign,
    decimal_sign,
    holds_lists,
    with_decimal_point,
)
from pellucid.cohort.manifest.sheet_grid import Sheet, read_sheets
from pellucid.cohort.manifest.table_grid import frame_of, header_place, typed_cells
from pellucid.cohort.manifest.text_grid import text_grid
from pellucid.cohort.study import Study

SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".parquet")
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d*[1-9])?")  # written the one way that a number comes back as


@dataclass(frozen=True)
class ClinicalTable:
    """A table and what is to be said of it.

    Attributes:
        frame: a row's label is its number in the file less 2. Text is as written; measures have a decimal point.
        notes: a sentence for each thing that was left out or decided.
        unclear: by column a number that means two things (`1.040`), and why nothing was decided.
        uncomputed: by column of a workbook that its formulas have no stored results.
        sheet: of a workbook the sheet that was read.
        sheets: of a workbook all that hold anything.
    """

    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    unclear: dict[str, str] = field(default_factory=dict)
    uncomputed: dict[str, str] = field(default_factory=dict)
    sheet: str = ""
    sheets: tuple[str, ...] = ()

    def require_numbers(self, columns: Iterable[str], path: Path) -> None:
        """Refuse columns that are to be numbers and that the table writes in two ways.

        Raises:
            UserError: one line for each such column.
        """
        said = [f"{path}: column `{name}`: {self.unclear[name]}" for name in columns if name in self.unclear]
        if said:
            raise UserError("\n".join(said))


def is_lock_file(path: Path) -> bool:
    """Is it what Excel, LibreOffice or a Mac puts beside a table that somebody has open?"""
    return path.name.startswith(("~$", "._", ".~lock"))


def study_table(study: Study, columns: Iterable[str] = ()) -> ClinicalTable:
    """The table of a study by its `sheet` and `decimal`.

    Raises:
        UserError: as `load_table`.
    """
    assert study.table is not None
    return load_table(study.table, columns, sheet=study.config.sheet, decimal=study.config.decimal)


def load_table(
    path: Path, columns: Iterable[str] = (), *, sheet: str | None = None, decimal: str | None = None
) -> ClinicalTable:
    """A clinical table with what is to be said of it; a column of ids such as 007 stays text.

    Args:
        path: csv, tsv, txt, xlsx, xlsm or parquet.
        columns: that it must have; of several sheets the one that has them is read.
        sheet: name of the sheet; None: the only one that holds anything, or the only one with `columns`.
        decimal: `,` or `.` if the table does not tell.

    Raises:
        UserError: missing, unreadable or empty table, no such sheet, or a named column that it does not have.
    """
    wanted = list(columns)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"{path}: the table is not there; correct its name, or the folder it is relative to")
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: a table is .csv, .tsv, .xlsx or .parquet, not `{suffix}`")
    if is_lock_file(path):
        raise UserError(f"{path}: is a lock file of a program, not a table: name the table itself")
    try:
        if suffix in {".xlsx", ".xlsm"}:
            table = _from_workbook(path, wanted, sheet, decimal)
        elif suffix == ".parquet":
            table = _from_parquet(path)
        else:
            table = _from_text(path, decimal)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: the table cannot be read ({type(error).__name__}: {error})") from None
    frame = table.frame
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    missing = [c for c in wanted if c not in frame.columns]
    if missing:
        raise UserError(
            "\n".join(f"{path}: {_no_column(c, table)}{did_you_mean(c, frame.columns)}" for c in missing)
            + f"\nthe table has: {', '.join(frame.columns)}"
        )
    said = [f"{path}: column `{c}`: {table.uncomputed[c]}" for c in wanted if c in table.uncomputed]
    if said:
        raise UserError("\n".join(said))
    return table


def _no_column(name: str, table: ClinicalTable) -> str:
    lists = next((note for note in table.notes if note.startswith(f"`{name}` ")), "")
    if lists:
        return f"column {lists}"
    where = f" on the sheet `{table.sheet}`" if len(table.sheets) > 1 else ""
    return f"there is no column `{name}`{where}"


def _from_text(path: Path, decimal: str | None) -> ClinicalTable:
    rows, delimiter = text_grid(path)
    frame, notes = frame_of(path, rows, header_place(rows))
    frame = frame.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    sign = DecimalSign(decimal) if decimal else decimal_sign(_columns(frame), "" if delimiter == ";" else ".")
    frame, unclear = _with_numbers(frame, sign, path, notes)
    for name in frame.columns:
        if name not in unclear:
            frame[name] = _numeric(frame[name])
    return ClinicalTable(frame, notes, unclear)


def _columns(frame: pd.DataFrame) -> list[pd.Series[Any]]:
    return [frame[name] for name in frame.columns]


def _with_numbers(
    frame: pd.DataFrame, sign: DecimalSign, path: Path, notes: list[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Measures with a decimal point, and the columns that could not be decided."""
    unclear, columns = {}, {}
    for name in frame.columns:
        columns[name], asked, thousands = with_decimal_point(frame[name], sign)
        if asked:
            unclear[name] = _question(frame[name], asked)
        if thousands:
            whole = thousands.replace(".", "").replace(",", "")
            notes.append(
                f"{path.name}: column `{name}`: `{thousands}` was read as {whole}, because the table's decimal sign is "
                f"`{',' if '.' in thousands else '.'}`; otherwise write `decimal` in study.yaml"
            )
    return pd.DataFrame(columns, index=frame.index), unclear


def _question(column: pd.Series[Any], asked: str) -> str:
    row = int(column.index[(column.astype(str).str.strip() == asked).to_numpy()][0]) + 2
    as_decimal, as_thousands = asked.replace(",", "."), asked.replace(",", "").replace(".", "")
    if re.fullmatch(r"[+-]?\d{1,3}[.,]\d{3}", asked):
        return (
            f"`{asked}` (row {row}) may mean {as_decimal} or {as_thousands}, and the table does not tell: write "
            "`decimal: ','` or `decimal: '.'` (the sign before the decimals) into study.yaml"
        )
    return f"has decimal points and decimal commas (`{asked}`, row {row}): write all in the same way"


def _numeric(text: pd.Series[Any]) -> pd.Series[Any]:
    """Numbers only where nothing is lost by it: 007 and 12.10 are ids, not numbers."""
    present = text.dropna()
    if len(present) and present.map(lambda v: isinstance(v, str) and _PLAIN_NUMBER.fullmatch(v) is not None).all():
        return pd.to_numeric(text)
    return text


def _from_workbook(path: Path, wanted: Sequence[str], name: str | None, decimal: str | None) -> ClinicalTable:
    sheets = read_sheets(path)
    if not sheets:
        raise UserError(f"{path}: the table is empty")
    names = tuple(sheet.name for sheet in sheets)
    if name is not None:
        chosen = [sheet for sheet in sheets if sheet.name == name]
        if not chosen:
            raise UserError(
                f"{path}: there is no sheet `{name}`{did_you_mean(name, names)}; it has: {', '.join(names)}"
            )
        return _from_sheet(path, chosen[0], names, decimal)
    if len(sheets) == 1:
        return _from_sheet(path, sheets[0], names, decimal)
    tables = []
    for sheet in sheets:
        try:
            tables.append(_from_sheet(path, sheet, names, decimal))
        except UserError:  # a sheet of notes or figures
            continue
    fits = [table for table in tables if set(wanted) <= set(table.frame.columns) and not table.frame.empty]
    if len(fits) == 1 and wanted:
        return fits[0]
    if len(fits) > 1 or not wanted:
        which = ", ".join(table.sheet for table in fits) or ", ".join(names)
        raise UserError(f"{path}: has several sheets ({which}): write which one holds the table, `sheet: NAME`")
    return max(tables, key=lambda table: len(set(wanted) & set(table.frame.columns)))


def sheet_names(path: Path) -> list[str]:
    """The sheets of a workbook that hold anything; none for other files."""
    return [sheet.name for sheet in read_sheets(path)] if path.suffix.lower() in {".xlsx", ".xlsm"} else []


def _from_sheet(path: Path, sheet: Sheet, names: tuple[str, ...], decimal: str | None) -> ClinicalTable:
    header = header_place(sheet.rows)
    frame, notes = frame_of(path, sheet.filled(sheet.rows[header][0]), header)
    frame = frame.apply(typed_cells) if not frame.empty else frame
    sign = DecimalSign(decimal) if decimal else decimal_sign(_columns(frame), "")
    frame, unclear = _with_numbers(frame, sign, path, notes)
    uncomputed = _without_results(sheet, header)
    notes += [f"{path.name}: column `{name}`: {said}" for name, said in uncomputed.items()]
    return ClinicalTable(frame, notes, unclear, uncomputed, sheet.name, names)


def _without_results(sheet: Sheet, header: int) -> dict[str, str]:
    """By column a sentence on formulas below the header without stored results."""
    from openpyxl.utils.cell import get_column_letter

    number, cells = sheet.rows[header]
    by_column: dict[int, list[int]] = {}
    for row, column in sheet.uncomputed:
        if row > number and column <= len(cells):
            by_column.setdefault(column, []).append(row)
    return {
        " ".join(str(cells[column - 1]).split()): (
            f"{len(rows)} formula(s) have no stored result (first: cell {get_column_letter(column)}{min(rows)}), so "
            "their cells are empty here: open the workbook in Excel or LibreOffice, save it, and repeat the command"
        )
        for column, rows in by_column.items()
    }


def _from_parquet(path: Path) -> ClinicalTable:
    frame = pd.read_parquet(path)
    if not isinstance(frame.index, pd.RangeIndex) or frame.index.names != [None]:
        frame = frame.reset_index(drop=frame.index.names == [None])
    frame = frame.reset_index(drop=True)
    frame.columns = [" ".join(str(c).split()) for c in frame.columns]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: two columns are called `{repeated[0]}`: rename one")
    nested = [name for name in frame.columns if holds_lists(frame[name])]
    notes = [f"`{name}` holds lists or bytes, not one value in each row: it is left out" for name in nested]
    return ClinicalTable(frame.drop(columns=nested), notes)
