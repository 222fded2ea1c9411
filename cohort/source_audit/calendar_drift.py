"""Calendar drift: images and patients by year, and whether devices, diagnoses and quality change over time."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.source_audit.columns import MAX_LEVELS_SHOWN, Column, SourceColumns
from pellucid.cohort.source_audit.permutation_tests import MIN_PATIENTS, compare, describe_test, is_significant
from pellucid.cohort.statistics.association import assign_q_values
from pellucid.cohort.study import Variable

_TIME = re.compile(r"(^|_)(years?|dates?|month|acquired|acquisition_date|exam_date|study_date)($|_)", re.IGNORECASE)
_NOT_THEN = re.compile(r"birth|born|follow|death|recurrence|dob|surgery|_days$", re.IGNORECASE)
_YEARS = (1900, 2100)
_PICTURES = ("phenotype_brightness", "phenotype_redness", "phenotype_sharpness")


def calendar_of(usable: pd.DataFrame, variables: list[Variable]) -> Column | None:
    """When each image was made, in years (2021.5 is the middle of 2021): a declared variable, else the header's date.

    Its role is `acquisition` where the study declares it, `calendar` where it comes from a header.
    """
    declared = [v for v in variables if _TIME.search(v.name) and not _NOT_THEN.search(v.name) and v.role != "outcome"]
    declared.sort(key=lambda v: v.role != "acquisition")
    named = [(v.name, v.role) for v in declared] + [("header_date", "calendar"), ("header_year", "calendar")]
    for name, role in named:
        if name not in usable:
            continue
        years = _in_years(usable[name])
        if np.isfinite(years).sum() >= MIN_PATIENTS and len(np.unique(years[np.isfinite(years)])) > 1:
            known = pd.Series(years)
            shown = np.where(np.isfinite(years), np.floor(years), np.nan)
            codes, levels = pd.factorize(pd.Series(shown), sort=True)
            return Column(
                name, role, "ordinal", known.to_numpy(), (), codes.astype(np.int64), tuple(f"{v:.0f}" for v in levels)
            )
    return None


def _in_years(values: pd.Series) -> NDArray[np.float64]:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isfinite(numbers).any():
        fits = (numbers >= _YEARS[0]) & (numbers < _YEARS[1])
        if fits[np.isfinite(numbers)].mean() > 0.9:
            return np.where(fits, numbers, np.nan)
        numbers = np.where((numbers > 1.9e7) & (numbers < 2.1e7), numbers, np.nan)  # 20210704
        values = pd.Series(numbers).map(lambda v: None if np.isnan(v) else f"{v:.0f}")
    text = values.astype(object).where(values.notna(), None)
    unique = pd.Series(text.dropna().astype(str).unique(), dtype=object)
    parsed = pd.to_datetime(unique, errors="coerce", format="ISO8601")
    year = (parsed.dt.year + (parsed.dt.day_of_year - 1) / 365.25).where(
        parsed.dt.year.between(_YEARS[0], _YEARS[1] - 1)
    )
    lookup = dict(zip(unique, year.astype(float), strict=True))
    return np.array([lookup.get(str(v), np.nan) if v is not None else np.nan for v in text], dtype=np.float64)


def drift(cohort: SourceColumns, when: Column | None) -> dict[str, Any]:
    """Images and patients per period, and every association with the calendar (q over all of them)."""
    if when is None:
        return {"variable": None, "periods": [], "tests": [], "sentences": [], "note": "no date or year is known"}
    periods = _periods(when)
    k = len(periods.shown_levels)
    images = np.bincount(periods.shown[periods.shown >= 0], minlength=k)
    patients = cohort.patients_with(periods.shown, k)
    report: dict[str, Any] = {
        "variable": when.name,
        "missing_images": int((~when.known).sum()),
        "periods": [
            {"period": name, "images": int(i), "patients": int(p)}
            for name, i, p in zip(periods.shown_levels, images, patients, strict=True)
        ],
    }
    tests = []
    for column in _watched(cohort, when):
        found = compare(column, when, cohort.patients)
        course = _course(cohort, column, periods)
        tests.append({"variable": column.name, "role": column.role, **found, "course": course})
    assign_q_values(tests)
    moved = sorted(
        (test for test in tests if is_significant(test)), key=lambda test: (test["q_value"], -abs(test["value"]))
    )
    clear = [test["variable"] for test in tests if test["p_value"] is not None and not is_significant(test)]
    sentences = [_sentence(test, when.name) for test in moved]
    if clear and tests:
        sentences.append(f"No drift over {when.name} was found in {', '.join(clear)}.")
    return report | {
        "tests": tests,
        "family": f"every variable, poor quality and {len(_PICTURES)} looks of the images against {when.name}",
        "sentences": sentences,
        "note": "",
    }


def _periods(when: Column) -> Column:
    """Years; quarters or months where all lies within two years and days are known."""
    years = when.values[when.known]
    whole = bool((years == np.floor(years)).all())
    if whole or years.max() - years.min() >= 2:
        return when
    parts = 12 if years.max() - years.min() < 1 else 4
    step = np.where(when.known, np.floor(when.values * parts), np.nan)
    codes, found = pd.factorize(pd.Series(step), sort=True)
    mark = "-" if parts == 12 else " Q"
    names = tuple(f"{int(s // parts)}{mark}{int(s % parts) + 1:0{2 if parts == 12 else 1}d}" for s in found)
    return Column(when.name, when.role, "ordinal", when.values, (), codes.astype(np.int64), names)


def _watched(cohort: SourceColumns, when: Column) -> list[Column]:
    columns = [c for c in cohort.variables if c.name != when.name]
    if "image_grade" in cohort.images:
        grade = cohort.images["image_grade"].to_numpy(dtype=object)
        columns.append(
            Column.flag("poor quality", "quality", grade == "poor", np.isin(grade, ["good", "borderline", "poor"]))
        )
    for name in _PICTURES:
        if name in cohort.images:
            values = cohort.images[name].to_numpy(dtype=np.float64, na_value=np.nan)
            columns.append(Column.number(name.removeprefix("phenotype_"), "picture", values))
    return columns


def _course(cohort: SourceColumns, column: Column, periods: Column) -> list[dict[str, Any]]:
    """In each period the share of each level, or the mean and median of a number; each patient counting once."""
    course = []
    for code, period in enumerate(periods.shown_levels):
        rows = (periods.shown == code) & column.known
        some = cohort.patients.subset(rows)
        if not some.n_patients:
            continue
        entry: dict[str, Any] = {"period": period, "patients": some.n_patients}
        if column.levels:
            mass = (
                np.bincount(column.values[rows], weights=some.weights, minlength=len(column.levels)) / some.n_patients
            )
            order = np.argsort(-mass, kind="stable")[:MAX_LEVELS_SHOWN]
            entry["shares"] = {column.levels[i]: float(mass[i]) for i in sorted(order.tolist())}
        else:
            means = np.bincount(some.codes, weights=some.weights * column.values[rows], minlength=some.n_patients)
            low, middle, high = (float(v) for v in np.quantile(means, [0.25, 0.5, 0.75]))
            entry |= {"median": middle, "quartiles": [low, high]}
        course.append(entry)
    return course


def _sentence(test: dict[str, Any], when: str) -> str:
    name = test["variable"]
    how = describe_test(test)
    course = [at for at in test["course"] if at["patients"] >= MIN_PATIENTS]
    if len(course) < 2:
        return f"{name} drifts over {when} ({how})."
    first, last = course[0], course[-1]
    if "shares" in first:
        levels = [level for level in {**first["shares"], **last["shares"]} if level != "no"]
        moved = max(levels, key=lambda lv: abs(last["shares"].get(lv, 0) - first["shares"].get(lv, 0)))
        what = name if moved == "yes" else f"{name} = {moved}"
        return (
            f"{name} drifts over {when}: {what} in {first['shares'].get(moved, 0):.0%} in {first['period']}, "
            f"{last['shares'].get(moved, 0):.0%} in {last['period']} ({how})."
        )
    return (
        f"{name} drifts over {when}: median {first['median']:.3g} in {first['period']}, {last['median']:.3g} in "
        f"{last['period']} ({how})."
    )
