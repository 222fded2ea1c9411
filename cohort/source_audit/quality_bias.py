"""Is poor quality random? Image quality against the patient, the clinic, the device and the year.

If images of the sick are poor more often, a model may learn the poor image. Images of one patient are alike in quality,
so a test that counts images rejects far too often (benchmarks/source_truth.py shows by how much); here patients are
permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.source_audit.columns import Column, SourceColumns
from pellucid.cohort.source_audit.permutation_tests import (
    MIN_PATIENTS,
    PERMUTATIONS,
    compare,
    describe_test,
    far_apart,
    is_significant,
)
from pellucid.cohort.statistics.association import assign_q_values
from pellucid.cohort.statistics.patient_resampling import Patients

GRADES = ("good", "borderline", "poor")
# Measures that replace the grade where an older scan has none.
_STAND_INS = ("phenotype_sharpness", "phenotype_reflection", "phenotype_field")
_FEW_IMAGES = 20_000


def quality(cohort: SourceColumns, calendar: Column | None = None) -> dict[str, Any]:
    """Grades, how alike they are within patients, and every dependence on a variable (q over all of these tests)."""
    images, patients = cohort.images, cohort.patients
    grade = (
        images["image_grade"].to_numpy(dtype=object)
        if "image_grade" in images
        else np.full(len(images), "", dtype=object)
    )
    poor = Column.flag("poor quality", "quality", grade == "poor", np.isin(grade, GRADES))
    measures = _measures(images)
    report: dict[str, Any] = {
        "graded": bool(poor.known.any()),
        "n_images": int(poor.known.sum()),
        "n_patients": patients.count(poor.known),
        "grades": _grades(images, "image_grade", patients),
        "by_measure": {
            str(name).removeprefix("image_grade_"): _grades(images, str(name), patients)
            for name in images.columns
            if str(name).startswith("image_grade_") and set(images[name].dropna().unique()) <= {*GRADES, ""}
        },
        "within_patients": [within_patient_similarity(column, patients, cohort.seed) for column in (poor, *measures)],
    }
    assign_q_values(report["within_patients"])
    n_poor = patients.count(poor.values == 1)
    few = bool(poor.known.any()) and min(n_poor, patients.count(poor.values == 0)) < MIN_PATIENTS
    others = list(cohort.variables) + ([calendar] if calendar is not None and calendar.role == "calendar" else [])
    tests = []
    for column in [*([poor] if poor.known.any() and not few else []), *measures]:
        for other in others:
            found = compare(column, other, patients)
            levels = _levels(column, other, patients)
            tests.append(
                {"quality": column.name, "variable": other.name, "role": other.role, **found, "levels": levels}
            )
    assign_q_values(tests)
    report["tests"] = tests
    report["family"] = "poor or not, and each measure, against every variable"
    report["by"] = [_grades_by(grade, poor, other, patients) for other in others if other.shown_levels]
    report["note"] = (
        "images were not graded" if not poor.known.any() else
        f"too few patients with poor images to say whom they belong to ({n_poor})" if few else ""
    )  # fmt: skip
    report["verdict"] = _verdict(tests)
    report["sentences"] = _sentences(report, cohort)
    return report


def _measures(images: pd.DataFrame) -> list[Column]:
    names = [n for n in images.columns if str(n).startswith("quality_") and pd.api.types.is_numeric_dtype(images[n])]
    names = names or [n for n in _STAND_INS if n in images]
    columns = []
    for name in names:
        values = images[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isfinite(values).any() and np.nanmin(values) < np.nanmax(values):
            short = str(name).removeprefix("quality_").removeprefix("phenotype_")
            columns.append(Column.number(short, "quality", np.where(np.isfinite(values), values, np.nan)))
    return columns


def _grades(images: pd.DataFrame, name: str, patients: Patients) -> dict[str, dict[str, int]]:
    if name not in images:
        return {}
    values = images[name].to_numpy(dtype=object)
    rows = {grade: values == grade for grade in GRADES}
    return {g: {"images": int(at.sum()), "patients": patients.count(at)} for g, at in rows.items()}


def _grades_by(grade: NDArray[np.object_], poor: Column, other: Column, patients: Patients) -> dict[str, Any]:
    """Share of each grade at each level, each patient counting once."""
    levels = []
    for code, level in enumerate(other.shown_levels):
        rows = (other.shown == code) & poor.known
        some = patients.subset(rows)
        if some.n_patients:
            shares = {g: float(((grade[rows] == g) * some.weights).sum() / some.n_patients) for g in GRADES}
            levels.append({"level": level, "images": int(rows.sum()), "patients": some.n_patients, **shares})
    return {"variable": other.name, "role": other.role, "levels": levels}


def _levels(column: Column, other: Column, patients: Patients) -> list[dict[str, Any]]:
    """Share of poor images, or median of a measure over patients' means, at each level of the other variable."""
    levels = []
    for code, level in enumerate(other.shown_levels):
        rows = (other.shown == code) & column.known
        some = patients.subset(rows)
        if some.n_patients:
            means = np.bincount(some.codes, weights=some.weights * column.values[rows], minlength=some.n_patients)
            value = float(means.mean() if column.levels else np.median(means))
            levels.append({"level": level, "patients": some.n_patients, "value": value, "sd": float(means.std())})
    return levels


def within_patient_similarity(column: Column, patients: Patients, seed: int) -> dict[str, Any]:
    """Intraclass correlation ICC(1) by one-way analysis of variance (Shrout & Fleiss 1979; unequal sizes: Donner 1986).

    p: images are permuted over patients. Numbers are ranked first, so that one outlier does not decide.
    """
    rows = column.known
    found: dict[str, Any] = {"quality": column.name, "measure": "icc", "value": None, "p_value": None, "note": ""}
    some = patients.subset(rows)
    several = some.sizes[some.codes] > 1 if len(some) else np.zeros(0, dtype=bool)
    found["n_patients"] = some.subset(several).n_patients
    values: NDArray[Any] = column.values[rows].astype(np.float64)
    if found["n_patients"] < MIN_PATIENTS or len(np.unique(values)) < 2:
        return found | {"note": f"too few patients with several images ({found['n_patients']})"}
    if not column.levels:
        values = pd.Series(values).rank().to_numpy(dtype=np.float64)
    n, k, sizes = len(some), some.n_patients, some.sizes.astype(np.float64)
    scores = np.asarray((values - values.mean()) / values.std(), dtype=np.float64)

    def between(moved: NDArray[np.float64]) -> float:
        return float((np.bincount(some.codes, weights=moved, minlength=k) ** 2 / sizes).sum())

    ss_between = between(scores)
    ms_between, ms_within = ss_between / (k - 1), (n - ss_between) / (n - k)
    n0 = (n - (sizes**2).sum() / n) / (k - 1)
    icc = (ms_between - ms_within) / (ms_between + (n0 - 1) * ms_within)
    rng = np.random.default_rng([seed, 5])
    draws = PERMUTATIONS if n <= _FEW_IMAGES else 99  # with many images the size of the similarity matters, not its p
    above = sum(between(rng.permutation(scores)) >= ss_between - 1e-9 * n for _ in range(draws))
    return found | {"value": float(icc), "p_value": (1 + above) / (1 + draws)}


def _verdict(tests: Sequence[dict[str, Any]]) -> dict[str, str]:
    """For each variable: depends, not found, or not tested."""
    verdicts: dict[str, str] = {}
    for test in tests:
        was = verdicts.get(test["variable"], "not tested")
        now = "depends" if is_significant(test) else "not found" if test["q_value"] is not None else "not tested"
        verdicts[test["variable"]] = min(was, now, key=["depends", "not found", "not tested"].index)
    return verdicts


def smallest_difference(test: dict[str, Any]) -> dict[str, Any] | None:
    """The difference between the two largest levels that these patients would show with 80 % power at α = 0.05.

    2.8 (= 1.96 + 0.84) standard errors of a difference of patients' means, before any correction for the number of
    tests.
    """
    largest = sorted(test["levels"], key=lambda level: -level["patients"])[:2]
    if len(largest) < 2 or min(level["patients"] for level in largest) < MIN_PATIENTS:
        return None
    a, b = largest
    error = np.sqrt(a["sd"] ** 2 / a["patients"] + b["sd"] ** 2 / b["patients"])
    return {"levels": [a["level"], b["level"]], "difference": float(2.8 * error)} if error > 0 else None


def _sentences(report: dict[str, Any], cohort: SourceColumns) -> list[str]:
    said = []
    if report["graded"]:
        g = report["grades"]
        said.append(
            f"{g['poor']['images']} of {report['n_images']} images are graded poor ({g['poor']['patients']} of "
            f"{report['n_patients']} patients have one), {g['borderline']['images']} borderline."
        )
    of_role = {"outcome": 0, "clinical": 1, "acquisition": 2, "calendar": 2}
    found = sorted(
        (t for t in report["tests"] if is_significant(t)), key=lambda t: (of_role.get(t["role"], 3), t["q_value"])
    )
    for i, name in enumerate(dict.fromkeys(test["variable"] for test in found)):
        said.append(dependence_sentence([test for test in found if test["variable"] == name], first=i == 0))
    for roles in (("outcome",), ("clinical",), ("acquisition", "calendar")):
        clear = [c.name for c in cohort.with_role(*roles) if report["verdict"].get(c.name) == "not found"]
        if clear:
            said.append(_absence(clear, report))
    alike = [a for a in report["within_patients"] if is_significant(a) and a["value"] >= 0.1]
    if alike:
        shown = ", ".join(f"{a['quality']} {a['value']:.2f}" for a in sorted(alike, key=lambda a: -a["value"])[:4])
        said.append(
            f"Quality is more alike within patients than between them (intraclass correlation: {shown}): "
            "a patient's images are not independent looks."
        )
    if report["graded"] and report["note"]:
        said.append(f"Poor images: {report['note']}.")
    return said


def dependence_sentence(tests: Sequence[dict[str, Any]], first: bool) -> str:
    """One sentence for one variable: the share of poor images if that depends on it, else the measures that do."""
    name, role = tests[0]["variable"], tests[0]["role"]
    of_poor = next((test for test in tests if test["quality"] == "poor quality"), None)
    measures = sorted((t for t in tests if t["quality"] != "poor quality"), key=lambda t: -abs(t["value"]))
    test = of_poor or measures[0]
    apart = far_apart(test["levels"], "value", "{:.3g}".format if of_poor is None else "{:.0%}".format)
    numbers = describe_test(test) if of_poor is not None else f"{test['quality']}: {describe_test(test)}"
    if apart is not None:
        (high, most), (low, least) = apart
        shown = f"{most} of images are poor" if of_poor is not None else f"{test['quality']} {most}"
        numbers = f"{shown} at {name} = {high}, {least} at {low}; {describe_test(test)}"
    more = [t["quality"] for t in measures if t is not test]
    also = f" So do {', '.join(more)}." if len(more) > 1 else f" So does {more[0]}." if more else ""
    warns = f" A model can learn quality in place of {name}." if first and role in {"outcome", "clinical"} else ""
    what = (
        "Quality" if of_poor is not None else "A measure of quality"
    )  # poor images are more than a number that shifts
    begins = f"{what} is not random: it depends on {name}" if first else f"{what} depends on {name} too"
    return f"{begins} ({numbers}).{also}{warns}"


def _absence(names: Sequence[str], report: dict[str, Any]) -> str:
    """Nothing was found, and what would have been."""
    bounds = [
        (test, found)
        for test in report["tests"]
        if test["quality"] == "poor quality" and test["variable"] in names
        if (found := smallest_difference(test)) is not None
    ]
    sentence = f"No dependence of quality on {' or '.join(names)} was found"
    if bounds:
        test, found = max(bounds, key=lambda pair: pair[1]["difference"])
        sentence += (
            f" ({test['n_patients']} patients; a difference of {100 * found['difference']:.0f} points in the share of "
            f"poor images between {test['variable']} = {found['levels'][0]} and {found['levels'][1]} would probably "
            "have shown)"
        )
    return sentence + "."
