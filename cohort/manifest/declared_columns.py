"""The columns that a study declares, as values of their kind: from the table, or from the files' own headers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.manifest.cell_values import (
    as_numbers,
    as_text,
    cleaned,
    missing_cells,
    taken_sentence,
    words_taken,
)
from pellucid.cohort.manifest.date_columns import UnsureDates, day_of, order_of
from pellucid.cohort.manifest.staff_names import NAMED_FACTS, staff_word
from pellucid.cohort.manifest.table_file import ClinicalTable
from pellucid.cohort.statistics.event_level import declared_level
from pellucid.cohort.study import DatePart, Study, Variable, as_level, is_header_fact

MOST_CELLS_NAMED = 5
# Anything may be typed into them.
_TYPED_FACTS = frozenset(
    f"header_{name}"
    for name in ("manufacturer", "model", "software", "body_part", "view", "protocol", "kernel", "lens")
)


def typed_from_table(
    table: ClinicalTable, variables: Iterable[Variable], path: Path, words: Sequence[str | int | float] | None
) -> tuple[dict[str, pd.Series], list[str]]:
    """The declared columns of the table as text (categorical, binary) or floats, and a sentence on missing words.

    Args:
        table: as read.
        variables: the declared columns.
        path: of the table, for messages.
        words: `missing` of study.yaml.

    Raises:
        UserError: values do not fit the declared kinds; all columns and cells in one message.
    """
    columns, mistakes, taken = {}, [], []
    for variable in variables:
        column, name = table.frame[variable.table_column], variable.table_column
        missing = missing_cells(column, variable.kind, words)
        words_of = words_taken(column, missing)
        if words_of and f"`{name}`: {taken_sentence(words_of)}" not in taken:
            taken.append(f"`{name}`: {taken_sentence(words_of)}")
        try:
            if variable.part is not None:
                columns[variable.name] = date_part(column.mask(missing), variable.part, str(path))
            elif variable.kind in {"continuous", "ordinal"}:
                table.require_numbers([name], path)
                columns[name] = _measures(column.mask(missing), variable, path)
            else:
                columns[name] = _levels(column.mask(missing), variable, path, words_of)
        except UserError as mistake:
            mistakes.append(str(mistake))
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))
    if not taken:
        return columns, []
    said = (
        f"{path.name}: taken as no value: {'; '.join(taken)}; if one of these words is a finding, list in study.yaml "
        "what is missing instead: `missing: [WORD, …]`"
    )
    return columns, [said]


def _levels(column: pd.Series, variable: Variable, path: Path, taken: dict[str, int]) -> pd.Series:
    """Levels as text on one line."""
    text = column.map(lambda value: " ".join(cleaned(as_level(value)).split()), na_action="ignore").astype(object)
    text = text.where(text.notna(), None)
    if variable.kind == "binary" and text.nunique() > 2:
        named = staff_word(variable.name, variable.role, variable.kind)
        count = f"`{variable.name}` is declared binary but has {text.nunique()} values: declare it categorical"
        raise UserError(f"{path}: column {count if named else _too_many(text, variable.name)}")
    try:
        _check_event(text, variable, path)
    except UserError as mistake:
        if variable.positive is not None and variable.positive.lower() in {word.lower() for word in taken}:
            raise UserError(
                f"{path}: `{variable.name}`: the level `{variable.positive}` was taken as no value "
                f"({taken_sentence(taken)}): list in study.yaml what is missing instead: `missing: [WORD, …]`"
            ) from None
        raise mistake
    return text


def _measures(column: pd.Series, variable: Variable, path: Path) -> pd.Series:
    """Floats; refused are all cells that are no numbers, each with its row."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    numbers = as_numbers(column)
    wrong = column[column.notna() & numbers.isna()]
    if wrong.empty:
        return numbers
    bound = any(str(cell).strip().startswith(("<", ">", "≤", "≥")) for cell in wrong)
    advice = "; for a value below or above a limit write a number, such as half the limit" if bound else ""
    raise UserError(
        f"{path}: column `{variable.name}` is declared {variable.kind}, but {_cells(wrong)}: correct it, or declare "
        f"the column categorical{advice}"
    )


def _cells(wrong: pd.Series, first_row: int = 2) -> str:
    """The cells that are not what a column is declared to be, with their rows."""
    shown = ", ".join(
        f"row {int(str(row)) + first_row} has `{cell}`" for row, cell in wrong.head(MOST_CELLS_NAMED).items()
    )
    return shown + (f" and {len(wrong) - MOST_CELLS_NAMED} more" if len(wrong) > MOST_CELLS_NAMED else "")


def days_of(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """A column of days as days, and the cells that are none.

    Args:
        column: days as a spreadsheet typed them or as text; missing cells are NaN.

    Returns:
        Timestamps (NaT where missing or no day), and the cells that are no days.

    Raises:
        UnsureDates: the order of day and month cannot be told.
    """
    text = as_text(column)
    _, order = order_of(text.dropna())
    found = text.map(lambda value: None if value is None else day_of(value, order))
    wrong = text[text.notna() & found.isna()]
    return pd.to_datetime(found, errors="coerce"), wrong


def date_part(column: pd.Series, part: DatePart, where: str, first_row: int = 2) -> pd.Series:
    """The year of each day, or how many days it is after the first day of the column; floats.

    Args:
        column: days, as for `days_of`.
        part: year or days.
        where: the table, for messages.
        first_row: number of the first row in messages: 2 in a file with a header.

    Raises:
        UserError: a cell is no day, or the order of day and month cannot be told.
    """
    try:
        days, wrong = days_of(column)
    except UnsureDates as reason:
        raise UserError(f"{where}: column `{column.name}` {reason}: write each day like 2021-03-04") from None
    if len(wrong):
        raise UserError(
            f"{where}: column `{column.name}` is declared date, but {_cells(wrong, first_row)}: write each day "
            "with a year of four digits, like 2021-03-04, or declare the column categorical"
        )
    found: pd.Series = days.dt.year if part == "year" else (days - days.min()).dt.days
    return found.astype(float)


def _check_event(text: pd.Series, variable: Variable, path: Path) -> None:
    """Refuse a declared event that no row has: a misspelt level would otherwise be found after hours, or never."""
    if variable.positive is None or text.isna().all():
        return
    try:
        declared_level(variable.positive, sorted(text.dropna().astype(str).unique()), variable.name)
    except UserError as reason:
        raise UserError(f"{path}: {reason}") from None


def without_patients(images: pd.DataFrame) -> pd.DataFrame:
    """The images, with those header texts emptied in which somebody typed the id of the image's own patient.

    Args:
        images: with `patient_source_id` where it is known.
    """
    columns = {}
    for name in _TYPED_FACTS & set(images.columns):
        pairs = images[["patient_source_id", name]].dropna().astype(str).drop_duplicates()
        telling = {
            (patient, text)
            for patient, text in pairs.itertuples(index=False, name=None)
            if text and Identifiers.of([patient]).named_in(text)
        }
        if telling:
            own = pd.MultiIndex.from_arrays([images["patient_source_id"].astype(str), images[name].astype(str)])
            columns[name] = images[name].mask(own.isin(telling), "")
    return images.assign(**columns)


def header_facts(study: Study, images: pd.DataFrame) -> pd.DataFrame:
    """What the study declares and the files themselves say: one column for each such name, typed; same rows.

    Raises:
        UserError: no file gives such a fact, or a value does not fit the declared kind.
    """
    facts = {v.name: v for v in study.variables if v.role == "acquisition" and is_header_fact(v.name)}
    readable = images["status"] == "ok"
    columns = {}
    for name in [*facts, *(name for name in study.config.external if is_header_fact(name) and name not in facts)]:
        text = as_text(images[name].where(readable, None)) if name in images else pd.Series(dtype=object)
        if text.isna().all():
            own = [str(c) for c in images.columns if is_header_fact(str(c)) and c != "header_patient_id"]
            known = [c for c in own if as_text(images[c][readable]).notna().any()]
            raise UserError(
                f"{study.path}: no file says anything of `{name}`{did_you_mean(name, known)}; the files give: "
                f"{', '.join(known)}"
            )
        columns[name] = _typed_fact(text, facts.get(name), images["image_id"], study.path)
    return pd.DataFrame(columns, index=images.index)


def _typed_fact(text: pd.Series, variable: Variable | None, ids: pd.Series, path: Path) -> pd.Series:
    if variable is None or variable.kind == "categorical":
        return text
    kind, name = variable.kind, variable.name
    if kind == "binary":
        if text.nunique() > 2:
            shown = "" if name in NAMED_FACTS else _too_many(text, name)
            raise UserError(f"{path}: {shown or f'`{name}` is declared binary but has {text.nunique()} values'}")
        if name not in NAMED_FACTS:  # their levels get keyed names later
            _check_event(text, variable, path)
        return text

    def not_a_number(row: int, value: str) -> str:
        what = "something else" if name in NAMED_FACTS else f"`{value}`"
        return (
            f"{path}: `{name}` is declared {kind}, but a file says {what} (first: `{ids[row]}`): declare it categorical"
        )

    return _numbers(text, not_a_number)


def _numbers(text: pd.Series, complaint: Callable[[int, str], str]) -> pd.Series:
    numbers = pd.to_numeric(text, errors="coerce")
    wrong = text[text.notna() & numbers.isna()]
    if len(wrong):
        raise UserError(complaint(int(wrong.index[0]), str(wrong.iloc[0])))
    return numbers.astype(float)


def _too_many(text: pd.Series, name: str) -> str:
    shown = ", ".join(sorted(text.dropna().unique())[:4])
    return f"`{name}` is declared binary but has {text.nunique()} values ({shown} …): declare it categorical"
