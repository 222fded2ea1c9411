"""Thresholds → grades; manual grades override them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import model_validator

from pellucid.cohort.config import Config, find_recipe, read_yaml, validate
from pellucid.cohort.errors import UserError
from pellucid.cohort.measures.quality import QUALITY

GRADES = ("good", "borderline", "poor")

OVERALL, WITHDRAWN = "overall", "withdrawn"

ANNOTATION_COLUMNS = ["image_id", "measure", "grade", "author", "time"]

# ------------------------------------------------------------------------------------------------ thresholds and grades


class Limits(Config):
    """From `borderline` on a picture is borderline, from `poor` on poor; on which side depends on the measure."""

    borderline: float
    poor: float


class QualityThresholds(Config):
    """The limits of each measure; null where a specialty does not judge by it."""

    sharpness: Limits | None = None
    exposure: Limits | None = None
    reflection: Limits | None = None
    obstruction: Limits | None = None
    completeness: Limits | None = None
    compression: Limits | None = None

    @model_validator(mode="after")
    def _in_order(self) -> QualityThresholds:
        for name, limits in self:
            sign = 1 if QUALITY[name].bad == "high" else -1
            if limits is not None and sign * limits.poor < sign * limits.borderline:
                side = "above" if sign > 0 else "below"
                raise ValueError(
                    f"{name}: poor is {limits.poor:g} and borderline {limits.borderline:g}, but poor must lie {side}: "
                    f"{QUALITY[name].bad} values are the bad ones"
                )
        return self


def load_thresholds(specialty: str | None, overrides: Mapping[str, Any] | None = None) -> QualityThresholds:
    """The thresholds of a specialty: configs/specialty/default.yaml, then the specialty's own, then `overrides`.

    Args:
        specialty: a name under configs/specialty; None for the default.
        overrides: measure → `{borderline, poor}`, either of them, or None to leave the measure out.

    Raises:
        UserError: there is no such specialty, an unknown measure, or limits in the wrong order.
    """
    name = specialty or "default"
    paths = [find_recipe("specialty", "default"), find_recipe("specialty", name)]
    merged: dict[str, Any] = dict(read_yaml(list(dict.fromkeys(paths))).get("quality") or {})
    for key, value in (overrides or {}).items():
        known = merged.get(key)
        merged[key] = {**known, **value} if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return validate(QualityThresholds, merged, f"quality thresholds for `{name}`")


def grades(frame: pd.DataFrame, thresholds: QualityThresholds) -> pd.DataFrame:
    """Each picture's grade per measure, and the worst of them.

    Args:
        frame: `image_id` and the columns that `QUALITY` names; one row per image.
        thresholds: of its specialty.

    Returns:
        `image_id`, `image_grade_<measure>` for each measure and `image_grade`, on the index of `frame`: good,
        borderline, poor, or "" where there is no number (an unreadable file) or the specialty does not judge by it.

    Raises:
        UserError: a column is missing.
    """
    missing = [m.column for m in QUALITY.values() if m.column not in frame.columns]
    if missing:
        raise UserError(
            f"the manifest has no column `{missing[0]}`: it is older than the grading of quality; scan again"
        )
    graded = frame[["image_id"]].copy()
    for name, measured in QUALITY.items():
        graded[f"image_grade_{name}"] = _grade(frame[measured.column], getattr(thresholds, name), measured.bad)
    graded["image_grade"] = _worst(graded)
    return graded


def _grade(values: pd.Series[Any], limits: Limits | None, bad: str) -> NDArray[np.object_]:
    if limits is None:
        return np.full(len(values), "", dtype=object)
    sign = 1 if bad == "high" else -1
    number = sign * pd.to_numeric(values).to_numpy(dtype=float)
    known = [np.isnan(number), number >= sign * limits.poor, number >= sign * limits.borderline]
    return np.select(known, ["", "poor", "borderline"], default="good").astype(object)


def _worst(graded: pd.DataFrame) -> NDArray[np.object_]:
    columns = graded[[f"image_grade_{name}" for name in QUALITY]].to_numpy(dtype=object)
    conditions = [(columns == grade).any(axis=1) for grade in reversed(GRADES)]
    return np.select(conditions, list(reversed(GRADES)), default="").astype(object)


# ------------------------------------------------------------------------------------------------ a person's word


def read_annotations(path: Path) -> pd.DataFrame:
    """`annotation/quality.csv` as text, one row per judgement in the order of writing; no rows if there is no file.

    Raises:
        UserError: it cannot be read, or its header is not `image_id,measure,grade,author,time`.
    """
    if not path.exists():
        return pd.DataFrame(columns=ANNOTATION_COLUMNS, dtype=str)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error})") from None
    if list(table.columns) != ANNOTATION_COLUMNS:
        raise UserError(f"{path}: its first line must be {','.join(ANNOTATION_COLUMNS)}, not {','.join(table.columns)}")
    return table


def apply_annotations(graded: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """Grades with a person's in place of the computed one; of several on the same measure the latest counts.

    Args:
        graded: what `grades` returns.
        annotations: image_id, measure (of `QUALITY`, or `overall` for the picture as a whole), grade (good,
            borderline, poor, or `withdrawn` to return to the computed one), author, time (ISO 8601).

    Returns:
        The same with `image_grade` renewed and `image_grade_by`: who overruled anything in the row, "" if nobody.

    Raises:
        UserError: a row names an unknown image, measure, grade or time, or no author.
    """
    result = graded.copy()
    result["image_grade_by"] = ""
    if annotations.empty:
        return result
    rows = _checked(annotations, set(graded["image_id"]))
    latest = rows.sort_values("when", kind="stable").drop_duplicates(["image_id", "measure"], keep="last")
    latest = latest[latest["grade"] != WITHDRAWN]
    place = pd.Series(graded.index, index=graded["image_id"])
    for name, chosen in latest[latest["measure"] != OVERALL].groupby("measure"):
        result.loc[place[chosen["image_id"]], f"image_grade_{name}"] = chosen["grade"].to_numpy()
    result["image_grade"] = _worst(result)
    whole = latest[latest["measure"] == OVERALL]
    result.loc[place[whole["image_id"]], "image_grade"] = whole["grade"].to_numpy()
    by = latest.groupby("image_id")["author"].agg(lambda authors: "; ".join(dict.fromkeys(authors)))
    result.loc[place[by.index], "image_grade_by"] = by.to_numpy()
    return result


def _checked(annotations: pd.DataFrame, image_ids: set[str]) -> pd.DataFrame:
    """The annotations with their time parsed as `when`; the first mistake is reported with its row, counted as in
    the file."""
    from pellucid.cohort.config import did_you_mean

    measures, words = [*QUALITY, OVERALL], [*GRADES, WITHDRAWN]
    rows = annotations.reset_index(drop=True)
    rows["when"] = pd.to_datetime(rows["time"], utc=True, format="ISO8601", errors="coerce")
    for number, row in enumerate(rows.to_dict("records"), start=2):  # the header is row 1
        where = f"quality annotations, row {number}"
        if row["image_id"] not in image_ids:
            raise UserError(f"{where}: the study has no image `{row['image_id']}`; correct or remove the row")
        if row["measure"] not in measures:
            near = did_you_mean(str(row["measure"]), measures)
            raise UserError(f"{where}: there is no measure `{row['measure']}`{near}; there are: {', '.join(measures)}")
        if row["grade"] not in words:
            near = did_you_mean(str(row["grade"]), words)
            raise UserError(f"{where}: `{row['grade']}` is no grade{near}; there are: {', '.join(words)}")
        if not str(row["author"]).strip():
            raise UserError(f"{where}: the author is missing; enter who graded the image")
        if pd.isna(row["when"]):
            raise UserError(f"{where}: `{row['time']}` is not a time; write it like 2026-05-31T14:05:00+02:00")
    return rows
