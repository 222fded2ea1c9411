"""A clinical table from a file: csv, tsv, xlsx or parquet to a DataFrame, with a sentence for all that can be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.study import as_level

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "none", "null", "unk", "unknown", "missing", "?"})
_PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d*[1-9])?")  # written the one way that a number comes back as


def as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Values as the text a person would write: 17.0 → `17`, True → `True`; a missing value, or a word for one →
    None."""

    def text_or_none(value: Any) -> str | None:
        text = None if pd.isna(value) else as_level(value)
        return None if text is None or text.lower() in MISSING_WORDS else text

    return column.map(text_or_none).astype(object)


def read_table(path: Path, columns: Iterable[str] = ()) -> pd.DataFrame:
    """A clinical table: csv, tsv, xlsx or parquet; a column of ids such as 007 stays text.

    Raises:
        UserError: missing, unreadable or empty table, or a named column that it does not have.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(f"{path}: the table is not there; correct its name, or the folder it is relative to")
    try:
        if suffix in {".csv", ".tsv", ".txt"}:
            frame = _read_text(path, "\t" if suffix == ".tsv" else ",")
        elif suffix == ".xlsx":
            frame = pd.read_excel(path)  # typed by the spreadsheet itself
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise UserError(f"{path}: a table is .csv, .tsv, .xlsx or .parquet, not `{suffix}`")
    except UserError:
        raise
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the table is empty") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error}); save it as CSV UTF-8") from None
    except Exception as error:
        raise UserError(f"{path}: the table cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(frame.index, pd.RangeIndex):  # parquet may carry one
        frame = frame.reset_index(drop=frame.index.names == [None])
    if frame.empty:
        raise UserError(f"{path}: the table has no rows")
    frame.columns = [str(c).strip() for c in frame.columns]
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: two columns are called `{repeated[0]}`: rename one")
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise UserError(
            "\n".join(f"{path}: there is no column `{c}`{did_you_mean(c, frame.columns)}" for c in missing)
            + f"\nthe table has: {', '.join(frame.columns)}"
        )
    return frame


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    """A text table; a column becomes numbers only where nothing is lost by it (007 and 12.10 are ids, not numbers)."""
    frame = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig")
    european = frame.shape[1] == 1 and ";" in str(frame.columns[0])
    if european:  # a spreadsheet saved where the comma is the decimal sign
        frame = pd.read_csv(path, sep=";", dtype=str, encoding="utf-8-sig")
    for name in frame.columns:
        text = frame[name].str.replace(",", ".") if european else frame[name]
        present = text.dropna().str.strip()
        if len(present) and present.map(lambda value: _PLAIN_NUMBER.fullmatch(value) is not None).all():
            frame[name] = pd.to_numeric(text)
        elif european and pd.to_numeric(present, errors="coerce").notna().all():
            frame[name] = text  # 1,50 is meant as a number, wherever one is asked for
    return frame
