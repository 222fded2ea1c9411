"""How good each picture is, as a clinician would grade it: a number per measure, its grade, and a person's word over it.

The numbers come from the one pass (`measure`); grades are given later from thresholds in configs/specialty/*.yaml, so
that changing a threshold never reads an image again. Each measure is defined over one column of the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import model_validator

from cohort.config import Config, find_recipe, read_yaml, validate
from cohort.errors import UserError
from cohort.field import Outline, outline
from cohort.phenotypes import PHENOTYPES, Look, described, histogram, look, percentile, variance

GRADES = ("good", "borderline", "poor")
OVERALL, WITHDRAWN = "overall", "withdrawn"
ANNOTATION_COLUMNS = ["image_id", "measure", "grade", "author", "time"]


@dataclass(frozen=True)
class Measure:
    """One aspect of quality: the column that holds its number, what that says, its unit, and which side is bad."""

    column: str
    says: str
    unit: str
    bad: Literal["low", "high"]


QUALITY: dict[str, Measure] = {
    "sharpness": Measure(
        "quality_focus",
        "how fine the finest structure is, whatever the contrast: log10 energy of the Laplacian over that of the slope",
        "log10",
        "low",
    ),
    "exposure": Measure(
        "quality_exposure",
        "share of the field that is nearly black (L* < 10) or burnt out (a colour at its limit)",
        "0–1",
        "high",
    ),
    "reflection": Measure("phenotype_reflection", PHENOTYPES["reflection"][0], PHENOTYPES["reflection"][1], "high"),
    "obstruction": Measure(
        "quality_veil",
        "how much a veil (fog, smear, fluid) hides: mean dark channel over the brightest light",
        "0–1",
        "high",
    ),
    "completeness": Measure(
        "quality_completeness",
        "share of the round field of view that lies in the picture; 1 where it is not round",
        "0–1",
        "low",
    ),
    "compression": Measure(
        "quality_compression", "JPEG quality (IJG scale); 100 where nothing was lost", "1–100", "low"
    ),
}
# The columns that this module itself measures; the others are phenotypes.
QUALITY_COLUMNS = tuple(m.column for m in QUALITY.values() if m.column.startswith("quality_"))

_DARK, _BURNT = 26, 250  # 8-bit: L* 10, and what a channel that has clipped shows after averaging
_PATCH = np.ones((3, 3), np.uint8)  # 12 × 12 pixels of the full copy; He et al. have 15 × 15


def measure(pixels: NDArray[np.uint8], jpeg_quality: float | None) -> dict[str, float]:
    """Every phenotype and quality measure of one picture, by the manifest's column names.

    Args:
        pixels: (H, W, 3) uint8 RGB, the prepared copy before it is encoded.
        jpeg_quality: what the original's quantisation tables speak of; None where nothing was lost to JPEG.
    """
    seen = look(pixels)
    return {f"phenotype_{name}": value for name, value in described(seen).items()} | judged(seen, jpeg_quality)


def quality(pixels: NDArray[np.uint8], *, jpeg_quality: float | None) -> dict[str, float]:
    """The `quality_*` columns of one (H, W, 3) uint8 RGB picture."""
    return judged(look(pixels), jpeg_quality)


def judged(seen: Look, jpeg_quality: float | None) -> dict[str, float]:
    """`quality` of a picture that is already prepared, rounded to five decimals."""
    shape = outline(seen.inside) if seen.share >= 0.01 else Outline(np.full_like(seen.inside, 255), 1.0)
    measured = {
        "quality_focus": focus(seen),
        "quality_exposure": exposure(seen, shape),
        "quality_veil": veil(seen),
        "quality_completeness": shape.completeness,
        "quality_compression": 100.0 if jpeg_quality is None else float(jpeg_quality),
    }
    return {name: round(value, 5) for name, value in measured.items()}


def focus(seen: Look) -> float:
    """Log10 of fine (Laplacian, full copy) over coarse (Sobel, half-size copy) energy; contrast cancels out.

    The energies are the two classical focus measures (Pertuz et al., Pattern Recognition 2013: LAPV and TENV). Taken
    off is what rounding to 8 bits adds by itself (1/12 per pixel: 20/12 to the one, 2 to the other at full size); the
    constants make a picture without any structure, whose focus nobody can tell, neither good nor bad.
    """
    coarse = variance(seen.slope[0], seen.core) + variance(seen.slope[1], seen.core)
    return math.log10((max(0.0, seen.fine - 20 / 12) + 0.5) / (coarse + 50))


def exposure(seen: Look, shape: Outline) -> float:
    """Share of the field, dark holes included, that is nearly black (L* < 10) or burnt out (a channel at 250 or more).

    On the quarter copy: patches count, glints have a measure of their own. Red tissue burns out in red alone, long
    before L* says white.
    """
    height, width = seen.tiny_inside.shape
    field = cv2.resize(shape.filled, (width, height), interpolation=cv2.INTER_NEAREST)
    dark = cv2.threshold(seen.tiny_lab[:, :, 0], _DARK - 1, 255, cv2.THRESH_BINARY_INV)[1]
    burnt = cv2.threshold(_brightest(seen), _BURNT - 1, 255, cv2.THRESH_BINARY)[1]
    return cv2.countNonZero(cv2.bitwise_and(cv2.bitwise_or(dark, burnt), field)) / max(1, cv2.countNonZero(field))


def _brightest(seen: Look) -> NDArray[np.uint8]:
    red, green, blue = cv2.split(seen.tiny)
    return np.asarray(cv2.max(cv2.max(red, green), blue), dtype=np.uint8)


def veil(seen: Look) -> float:
    """1 − transmission by the dark channel prior (He, Sun and Tang, CVPR 2009, eq. 11), averaged over the field.

    In a clear picture every small patch has some pixel that is dark in some channel. The light of the veil is taken
    as the 99th percentile of the brightest channel. What is pale all over is not told from a veil.
    """
    red, green, blue = cv2.split(seen.tiny)
    darkest = cv2.bitwise_or(
        cv2.min(cv2.min(red, green), blue), cv2.bitwise_not(seen.tiny_inside)
    )  # outside: no minimum
    dark = cv2.mean(cv2.erode(darkest, _PATCH), mask=seen.tiny_inside)[0]
    light = percentile(histogram(_brightest(seen), seen.tiny_inside), 0.99)
    return min(1.0, dark / max(1, light))


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
        `image_id`, `image_grade_<measure>` for each measure and `image_grade`, on the index of `frame`: good, borderline, poor,
        or "" where there is no number (an unreadable file) or the specialty does not judge by it.

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
    """The annotations with their time parsed as `when`; the first mistake is told with its row, counted as in the file."""
    from cohort.config import did_you_mean

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
            raise UserError(f"{where}: it has no author; a judgement needs somebody who stands for it")
        if pd.isna(row["when"]):
            raise UserError(f"{where}: `{row['time']}` is not a time; write it like 2026-05-31T14:05:00+02:00")
    return rows
