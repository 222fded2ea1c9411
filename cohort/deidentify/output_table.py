"""The clinical table and study.yaml of the de-identified study: declared columns only, ids replaced, dates shifted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.deidentify.header_columns import declared_facts, fact_column, new_level
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.personal_columns import capped_ages, id_in, is_age, is_free_text, is_personal
from pellucid.cohort.deidentify.text_masking import plain_text
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.manifest.cell_values import as_text
from pellucid.cohort.manifest.date_columns import Order, UnsureDates, is_day, moved, order_of
from pellucid.cohort.manifest.staff_names import named_columns
from pellucid.cohort.runs.atomic_files import atomic_path
from pellucid.cohort.study import Study, is_header_fact

Texts = Mapping[str, tuple[str, ...]]


def declared_columns(study: Study) -> list[str]:
    """Columns of the study's table that go into the new one."""
    c = study.config
    names = [v.table_column for v in study.variables] + [name for name in c.external if name not in study.derived]
    names += [c.split.column] if c.split.column else []
    facts = declared_facts(study)
    return list(dict.fromkeys(name for name in names if name not in facts))


def refuse_personal(
    study: Study, frame: pd.DataFrame, *, keep_dates: bool, keep_text: Collection[str] = (), texts: Texts | None = None
) -> None:
    """Refuse declared columns that name people, free text, and dates that cannot be shifted with certainty.

    Columns that name staff are not refused: they get keyed names.

    Args:
        study: whose columns are meant.
        frame: of `pellucid.cohort.deidentify.file_owners.who_and_what`.
        keep_dates: shift full dates.
        keep_text: columns of free text that are wanted in the copy.
        texts: what the table says of each patient, by the patient's own id.

    Raises:
        UserError: by the column's own name, because it holds free text, holds or repeats the patients' ids, or because
            of its dates.
    """
    declared = declared_columns(study)
    for name in keep_text:
        if name not in declared:
            raise UserError(f"keep-text: `{name}` is no declared column of the table{did_you_mean(name, declared)}")
    staff = named_columns(study)
    known = frame["patient_source_id"].dropna().astype(str)
    ids, holds_id = set(known.map(plain_text)) - {""}, id_in(known.unique())
    kinds = {v.name: v.kind for v in study.variables}
    for name in declared_columns(study):
        if name in staff:
            continue
        if is_personal(name):
            raise UserError(
                f"{study.path}: the column `{name}` looks like names, birth dates or addresses and would be written to "
                "the de-identified table: take it out of study.yaml, or rename it if it is not"
            )
        cells = as_text(frame[name]).dropna().astype(str)
        values = cells.map(plain_text)
        if len(values) and values.nunique() > 1 and values.isin(ids).mean() > 0.5:
            raise UserError(
                f"{study.path}: the column `{name}` repeats the patients' own ids and would be written to the "
                "de-identified table: take it out of study.yaml"
            )
        if kinds.get(name) not in {"continuous", "ordinal"} and is_free_text(name, cells):
            _refuse_free_text(study, name, frame, keep_text, texts or {})
        distinct = cells.unique()
        dates = _dates_of(study, name, distinct) if keep_dates else None
        if kinds.get(name) in {"continuous", "ordinal"}:
            continue  # measurements: one of them may well be the number that somebody has as an id
        telling = {v for v in distinct if holds_id(v) and (dates is None or moved(v, 0, dates) is None)}
        if telling:
            raise UserError(
                f"{study.path}: the column `{name}` holds the id of a patient of the study in "
                f"{int(cells.isin(telling).sum())} row(s) and would be written to the de-identified table: take it out "
                "of study.yaml, or remove the ids from the table"
            )


def _refuse_free_text(study: Study, name: str, frame: pd.DataFrame, keep_text: Collection[str], texts: Texts) -> None:
    """Refuse a column of free text that is not asked for, and one with an identifier that the table knows."""
    if name not in keep_text:
        raise UserError(
            f"{study.path}: the column `{name}` holds free text, in which anybody may be named, and would be written "
            "to the de-identified table: take it out of study.yaml, or, if somebody has read all of it, give "
            f"--keep-text {name} (in Python keep_text=[{name!r}])"
        )
    rows = frame[[name, "patient_source_id"]].dropna().astype(str).drop_duplicates()
    telling = 0
    for patient, cells in rows.groupby("patient_source_id")[name]:
        known = Identifiers.of([str(patient), *texts.get(str(patient), ())], texts.get(str(patient), ()))
        telling += sum(known.in_text(cell) for cell in cells)
    if telling:
        raise UserError(
            f"{study.path}: the column `{name}` names its own patient, staff or a full date in {telling} cell(s): "
            "remove them from the table, or take the column out of study.yaml"
        )


def _dates_of(study: Study, name: str, values: Iterable[str]) -> Order | None:
    """In which order a column's days are written; None if it holds none."""
    try:
        any_date, order = order_of(values)
    except UnsureDates as reason:
        raise UserError(
            f"{study.path}: the column `{name}` {reason}, so they cannot be shifted: write them as 2019-03-17 in the "
            "table, take the column out of study.yaml, or give dates=remove"
        ) from None
    return order if any_date else None


def write_table(
    path: Path,
    study: Study,
    frame: pd.DataFrame,
    new_file: Mapping[str, str],
    facts: Mapping[str, Mapping[str, str]],
    linkage: Linkage,
    *,
    keep_dates: bool,
) -> None:
    """Write `clinical.csv`: one row for each file that was written, and for each frame that had a row of its own.

    Args:
        path: of the table.
        study: whose columns are meant.
        frame: file, frame, patient_source_id and the declared columns.
        new_file: path of each written file below `raw/`, by the original's path.
        facts: what the headers said of each original, by its path (see `pellucid.cohort.deidentify.header_columns`).
        linkage: gives research ids and date shifts.
        keep_dates: shift full dates; otherwise they become empty.
    """
    staff = named_columns(study)
    rows = frame[frame["file"].isin(new_file.keys()) & frame["patient_source_id"].notna()]
    patients = rows["patient_source_id"].astype(str)
    images = rows["file"].map(new_file) + rows["frame"].map(lambda frame: f"#{frame}" if frame else "")
    out = pd.DataFrame({"image": images, "patient": patients.map(linkage.patients)})
    for name in declared_columns(study):
        text = as_text(rows[name])
        if name in staff:
            names = linkage.staff(text.dropna().astype(str), staff[name])
            out[_column(name)] = text.map(names, na_action="ignore")
            continue
        all_values = (
            as_text(frame[name]).dropna().astype(str).unique()
        )  # of files that were refused too: as it was checked
        if keep_dates and (order := _dates_of(study, name, all_values)):
            # once a column holds dates, a value that is not understood as one may be one as well
            text = pd.Series(
                [
                    moved(value, linkage.shift_days(patient), order) if isinstance(value, str) else None
                    for value, patient in zip(text, patients, strict=True)
                ],
                index=text.index,
                dtype=object,
            )
        elif not keep_dates and any(map(is_day, all_values)):
            text = pd.Series([None] * len(text), index=text.index, dtype=object)
        elif is_age(name):
            text = capped_ages(text, name)
        out[_column(name)] = text
    for name in map(fact_column, declared_facts(study)):
        if name in out:
            raise UserError(f"{study.path}: the column `{name}` stands for what the files say themselves: rename it")
        out[name] = rows["file"].map(lambda file, name=name: facts[file].get(name))
    out = out.sort_values("image")
    with atomic_path(path) as temporary:
        out.to_csv(temporary, index=False)


def _column(name: str) -> str:
    if is_header_fact(name):
        return fact_column(name)
    return f"{name}_" if name in {"image", "patient"} else name  # ours come first


def write_study(path: Path, study: Study, linkage: Linkage) -> None:
    """Write the `study.yaml` of the de-identified study, which `pellucid scan` accepts as it is."""
    c = study.config
    patient = "none" if c.patient == "none" else "patient"
    content: dict[str, Any] = {"images": "raw", "table": "clinical.csv", "image": "image", "patient": patient}
    for role in ("clinical", "acquisition", "outcome"):
        columns = {
            _column(name): declared if isinstance(declared, str) else declared.model_dump(mode="json")
            for name, declared in getattr(c, role).items()
        }
        if columns:
            content[role] = columns
    split = c.split.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if c.split.column:
        split["column"] = _column(c.split.column)
    if c.split.stratify is not None:
        split["stratify"] = [_column(name) for name in c.split.stratify]
    content["split"] = split or {"test": c.split.test}
    if c.external:
        content["external"] = {
            _column(name): [new_level(name, level, linkage) for level in levels] for name, levels in c.external.items()
        }
    if c.specialty:
        content["specialty"] = c.specialty
    if c.quality:
        content["quality"] = dict(c.quality)
    settings = c.scan.model_dump(mode="json", exclude_defaults=True, exclude={"workers"})
    if settings:
        content["scan"] = settings
    with atomic_path(path) as temporary:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        temporary.write_text("# The de-identified study, written by `pellucid deidentify`.\n" + text, encoding="utf-8")
