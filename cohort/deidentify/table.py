"""The clinical table and study.yaml of the de-identified study: declared columns only, ids replaced, dates shifted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cohort.deidentify.facts import declared_facts, fact_column
from cohort.deidentify.linkage import Linkage
from cohort.deidentify.masking import plain_text
from cohort.errors import UserError
from cohort.runs import atomic_path
from cohort.study import Study, is_header_fact
from cohort.table import as_text

_PERSONAL = re.compile(
    r"^names?$|(^|_)((sur|first|last|given|family|full|patient|maiden|mother)s?_?name|(date_of_)?birth(_?da(y|te))?|dob|"
    r"geburtsdatum|(home|e_?mail|street|postal)?_?address|phone|telephone|e_?mail|mrn|ssn|passport|accession(_?.*)?)$",
    re.I,
)
_AGE = re.compile(r"(^|_)age(_|$)", re.I)
_OLDEST_SHOWN = 90
_DATES = (
    (re.compile(r"\d{4}-\d{2}-\d{2}"), "%Y-%m-%d"),
    (re.compile(r"(19|20)\d{6}"), "%Y%m%d"),
    (re.compile(r"\d{1,2}\.\d{1,2}\.\d{4}"), "%d.%m.%Y"),
    (re.compile(r"\d{4}/\d{2}/\d{2}"), "%Y/%m/%d"),
)


def declared_columns(study: Study) -> list[str]:
    """Columns of the study's table that go into the new one."""
    c = study.config
    names = [v.name for v in study.variables] + list(c.external) + ([c.split.column] if c.split.column else [])
    facts = declared_facts(study)
    return list(dict.fromkeys(name for name in names if name not in facts))


def refuse_personal(study: Study, frame: pd.DataFrame) -> None:
    """Refuse declared columns that name people.

    Raises:
        UserError: by the column's own name, or because it repeats the patients' ids.
    """
    ids = {plain_text(str(p)) for p in frame["patient_source_id"].dropna()} - {""}
    for name in declared_columns(study):
        # `last_name` and `PatientName` alike; `device_name` names no person
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace(" ", "_")
        if _PERSONAL.search(words) and not re.search(r"device|scanner|site|model|camera|operator", words, re.I):
            raise UserError(
                f"{study.path}: the column `{name}` looks like names, birth dates or addresses and would be written to "
                "the de-identified table: take it out of study.yaml, or rename it if it is not"
            )
        values = as_text(frame[name]).dropna().map(plain_text)
        if len(values) and values.nunique() > 1 and values.isin(ids).mean() > 0.5:
            raise UserError(
                f"{study.path}: the column `{name}` repeats the patients' own ids and would be written to the "
                "de-identified table: take it out of study.yaml"
            )


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
    """Write `clinical.csv`: one row for each image that was written.

    Args:
        path: of the table.
        study: whose columns are meant.
        frame: image_id, patient_source_id and the declared columns.
        new_file: path of each written image below `raw/`, by image_id.
        facts: what the headers said of each image, by image_id (see `cohort.deidentify.facts`).
        linkage: gives research ids and date shifts.
        keep_dates: shift full dates; otherwise they become empty.
    """
    rows = frame[frame["image_id"].isin(new_file.keys())]
    patients = rows["patient_source_id"].astype(str)
    out = pd.DataFrame({"image": rows["image_id"].map(new_file), "patient": patients.map(linkage.patients)})
    kinds = {v.name: v.kind for v in study.variables}
    for name in declared_columns(study):
        text = as_text(rows[name])
        days = text.map(lambda value: _date_form(value) is not None)
        if days.any():
            # once a column holds dates, a value that is not understood as one may be one as well
            text = pd.Series(
                [_moved(v, linkage.shift_days(p)) if keep_dates else None for v, p in zip(text, patients, strict=True)],
                index=text.index,
                dtype=object,
            )
        elif _AGE.search(name) and kinds.get(name) in {"continuous", "ordinal"}:
            ages = pd.to_numeric(text, errors="coerce")
            text = text.where(~(ages > _OLDEST_SHOWN - 1), str(_OLDEST_SHOWN))
        out[_column(name)] = text
    for name in map(fact_column, declared_facts(study)):
        if name in out:
            raise UserError(f"{study.path}: the column `{name}` stands for what the files say themselves: rename it")
        out[name] = rows["image_id"].map(lambda image_id, name=name: facts[image_id].get(name))
    out = out.sort_values("image")
    with atomic_path(path) as temporary:
        out.to_csv(temporary, index=False)


def _column(name: str) -> str:
    if is_header_fact(name):
        return fact_column(name)
    return f"{name}_" if name in {"image", "patient"} else name  # ours come first


def _date_form(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    day = re.split(r"[T ]", value.strip())[0]
    for pattern, form in _DATES:
        if pattern.fullmatch(day):
            try:
                datetime.strptime(day, form)
            except ValueError:
                continue
            return form
    return None


def _moved(value: Any, days: int) -> str | None:
    """A date moved, in its own form, without a time of day."""
    form = _date_form(value)
    if form is None:
        return None
    return (datetime.strptime(re.split(r"[T ]", value.strip())[0], form) + timedelta(days)).strftime(form)


def write_study(path: Path, study: Study) -> None:
    """Write the `study.yaml` of the de-identified study, which `pellucid scan` accepts as it is."""
    c = study.config
    patient = "none" if c.patient == "none" else "patient"
    content: dict[str, Any] = {"images": "raw", "table": "clinical.csv", "image": "image", "patient": patient}
    for role in ("clinical", "acquisition", "outcome"):
        columns = {_column(name): kind for name, kind in getattr(c, role).items()}
        if columns:
            content[role] = columns
    content["split"] = c.split.model_dump(mode="json", exclude_none=True, exclude_defaults=True) or {"test": 0.2}
    if c.external:
        content["external"] = {_column(name): list(levels) for name, levels in c.external.items()}
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
