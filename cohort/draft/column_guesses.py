"""What `init` takes the columns of a table for: the image, the patient, or a variable of a role and a kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pellucid.cohort.manifest import column_words
from pellucid.cohort.manifest.cell_values import as_ids, as_numbers, as_text, holds_lists, missing_cells, only_numbers
from pellucid.cohort.manifest.column_words import speaks_of
from pellucid.cohort.manifest.date_columns import UnsureDates, is_day
from pellucid.cohort.manifest.declared_columns import days_of
from pellucid.cohort.manifest.image_names import ImageNames, names_found
from pellucid.cohort.study import as_level, is_header_fact

_IDENTIFIER = re.compile(r"(^|[ _-])(id|serial|code|number|nr|no)($|[ _-])", re.I)  # numbers that only name something
_MAX_LEVELS = 30
_MOSTLY = 0.8  # of the values must be days for a column of days
_TAKEN = frozenset(  # what the manifest calls its own
    {"image_id", "file", "frame", "status", "reason", "sha256", "n_bytes", "shard", "shard_row", "pixel_hash"}
    | {"perceptual_hash", "prepared", "text_like", "text_read", "findings", "patient", "patient_source_id", "split"}
    | {"duplicate_of", "duplicate_kind", "duplicate_group", "duplicate_question"}
)


@dataclass(frozen=True)
class VariableGuess:
    name: str
    role: str  # clinical, acquisition, outcome or skip
    kind: str
    why: str


def image_column(frame: pd.DataFrame, ids: Sequence[str], root: str) -> tuple[str | None, int, int]:
    """The column whose rows name most files as the scan joins them, how many do, and how many name one of several."""
    known = ImageNames(ids, root)
    patient = patient_column(frame, None)
    best: tuple[str | None, int, int] = (None, 0, 0)
    for name in frame.columns:
        others = [c for c in frame.columns if c not in {name, patient}]
        hints = frame[[patient, *others]] if patient is not None and patient != name else None
        hits, unclear = names_found(as_text(frame[name]), known, hints)
        if hits + unclear > best[1] + best[2]:
            best = (str(name), hits, unclear)
    return best if best[1] + best[2] > 0.2 * min(len(frame), len(ids)) else (None, 0, 0)


def patient_column(frame: pd.DataFrame, image: str | None) -> str | None:
    """The column that is headed like a patient's id and has more than one."""
    named = [c for c in frame.columns if c != image and column_words.names_patient(c)]
    counts = {c: as_ids(frame[c]).nunique() for c in named}
    named = [c for c in named if counts[c] > 1]
    if not named:
        return None
    return str(min(named, key=lambda c: (not re.search("pa[tcz]ient|pazient|subject|proband", c, re.I), counts[c])))


def guess_variable(column: pd.Series, unclear: str = "") -> VariableGuess:
    """Role and kind of a column that is neither image nor patient; `unclear` says why its numbers are not read."""
    name = str(column.name)
    if holds_lists(column):
        return VariableGuess(name, "skip", "", "it holds lists")
    if is_header_fact(name) or name in _TAKEN or name.startswith(("phenotype_", "quality_")):
        return VariableGuess(name, "skip", "", "the scan has a column of this name: rename it in the table to use it")
    if unclear:
        return VariableGuess(name, "skip", "", unclear)
    values, numeric = _values(column)
    levels = values.nunique()
    if levels < 2:
        return VariableGuess(name, "skip", "", "it has the same value everywhere" if levels else "it is empty")
    if pd.api.types.is_datetime64_any_dtype(values) or (numeric and values.between(19000101, 21001231).all()):
        return _guess_date(column)
    if not numeric and values.map(lambda v: is_day(str(v))).mean() > _MOSTLY:
        return _guess_date(column)
    if levels == 2:
        kind, why = "binary", " / ".join(as_level(v) for v in sorted(values.unique(), key=str))
    elif numeric and levels <= 10 and (values == values.round()).all():
        kind, why = "ordinal", f"whole numbers {values.min():g} to {values.max():g}"
    elif numeric:
        kind, why = "continuous", f"numbers {values.min():g} to {values.max():g}"
    elif levels <= _MAX_LEVELS and levels < 0.5 * len(values):
        kind, why = "categorical", f"{levels} levels"
    else:
        return VariableGuess(
            name, "skip", "", f"{levels} different values: {_odd_number(column) or 'an id or free text?'}"
        )
    if not numeric and values.astype(str).str.casefold().nunique() < levels:
        why += "; SOME DIFFER ONLY IN CAPITALS: make them one in the table"
    gaps = len(column) - len(values)
    return VariableGuess(name, _role(name, kind), kind, why + (f"; missing in {gaps} rows" if gaps else ""))


def _guess_date(column: pd.Series) -> VariableGuess:
    """The kind `date` for a column of days, with what can be derived from it."""
    name = str(column.name)
    if speaks_of(name, column_words.BIRTH):
        return VariableGuess(name, "skip", "", "a date of birth identifies a person: give the age as a column")
    try:
        days, wrong = days_of(column[~missing_cells(column, "continuous")])
    except UnsureDates as reason:
        return VariableGuess(name, "skip", "", f"it {reason}: write each day like 2021-03-04")
    if len(wrong):
        row, cell = int(wrong.index[0]) + 2, str(wrong.iloc[0])[:40]
        return VariableGuess(name, "skip", "", f"days but for `{cell}` in row {row}: write each like 2021-03-04")
    years = days.dt.year
    kind = "date" if years.nunique() > 1 else "{kind: date, derive: [days]}"
    parts = " and ".join(f"{name}_{part}" for part in (("year", "days") if years.nunique() > 1 else ("days",)))
    gaps = len(column) - len(days)
    why = f"days from {years.min():.0f} to {years.max():.0f}, used as {parts}"
    return VariableGuess(name, _role(name, "date"), kind, why + (f"; missing in {gaps} rows" if gaps else ""))


def _role(name: str, kind: str) -> str:
    if speaks_of(name, column_words.OUTCOME) and kind == "binary":
        return "outcome"
    return "acquisition" if speaks_of(name, column_words.ACQUISITION) else "clinical"


def _values(column: pd.Series) -> tuple[pd.Series, bool]:
    """What is not missing, as numbers if all of it are numbers; what the scan takes for missing is missing here."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        return column.dropna(), numeric and not _IDENTIFIER.search(str(column.name))
    present = column[~missing_cells(column, "continuous")]
    if len(present) and not _IDENTIFIER.search(str(column.name)) and only_numbers(present) and not _padded(present):
        return as_numbers(present), True
    levels = column[~missing_cells(column, "categorical")]
    return levels.map(lambda v: " ".join(as_level(v).split())).astype(object), False


def _padded(present: pd.Series) -> bool:
    """Are there ids such as 007 among them?"""
    return bool(present.map(lambda v: isinstance(v, str) and re.fullmatch(r"0\d+", v.strip()) is not None).any())


def _odd_number(column: pd.Series) -> str:
    """The first cell that keeps a column from being numbers, where nearly all others are."""
    present = column[~missing_cells(column, "continuous")]
    wrong = present[as_numbers(present).isna()]
    if len(wrong) == 0 or len(wrong) > 0.2 * len(present):
        return ""
    cell, row = as_level(wrong.iloc[0])[:40], int(wrong.index[0]) + 2
    return f"numbers but for `{cell}` in row {row}: correct it to use the column"
