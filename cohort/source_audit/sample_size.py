"""Sample size counted right — patients and patients with the event, not images — and images per patient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.source_audit.columns import Column, SourceColumns, event_code, event_of
from pellucid.cohort.source_audit.permutation_tests import (
    MIN_PATIENTS,
    compare,
    describe_test,
    far_apart,
    is_significant,
)
from pellucid.cohort.statistics.association import assign_q_values
from pellucid.cohort.statistics.patient_resampling import Patients

FEW_EVENTS = 50
ASSUMED_AUROC = 0.8
_MOST_IMAGES_SHOWN = 12  # a histogram's last bar holds all above


def hanley_mcneil_half_width(n_event: int, n_rest: int, auroc: float = ASSUMED_AUROC) -> float:
    """Half the width of the 95 % interval to expect of an AUROC (Hanley & McNeil, Radiology 1982;143:29, eq. 1).

    The two numbers are of patients: images of one patient add less than this says, so they do not count.
    """
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (n_event - 1) * (q1 - auroc**2) + (n_rest - 1) * (q2 - auroc**2)
    return float(1.96 * np.sqrt(variance / (n_event * n_rest)))


def sample_size(cohort: SourceColumns) -> list[dict[str, Any]]:
    """For each outcome and clinical variable how many patients there are to learn from, whole and by split side."""
    sides = cohort.images["split"].to_numpy(dtype=object)
    found = []
    for column in [*cohort.with_role("outcome"), *cohort.with_role("clinical")]:
        whole = _size(cohort, column, column.known)
        by_split = {
            str(side): _size(cohort, column, column.known & (sides == side))
            for side in sorted(set(sides) - {""}, key=lambda side: (side != "train", side))
        }
        entry = {"variable": column.name, "role": column.role, "kind": column.kind, **whole, "by_split": by_split}
        found.append(entry | {"sentence": " ".join(filter(None, [_size_sentence(entry), _side_sentence(entry)]))})
    return found


def _size(cohort: SourceColumns, column: Column, rows: NDArray[np.bool_]) -> dict[str, Any]:
    n_patients = cohort.patients.count(rows)
    base: dict[str, Any] = {"n_images": int(rows.sum()), "n_patients": n_patients}
    if not column.levels:  # a number has no event: the interval of a correlation near 0 (Fisher's z)
        half = float(np.tanh(1.96 / np.sqrt(n_patients - 3))) if n_patients >= MIN_PATIENTS else None
        return base | {
            "classes": [], "event": None, "n_events": None, "measure": "correlation", "half_width": half,
            "word": "too few patients" if half is None else "",
        }  # fmt: skip
    k = len(column.levels)
    having = cohort.patients_with(column.values, k, rows)
    classes = [{"level": level, "patients": int(n)} for level, n in zip(column.levels, having, strict=True)]
    event = event_code(column, cohort.patients) if k == 2 else int(np.argmin(having)) if k else None
    if event is None or k < 2:
        return base | {
            "classes": classes, "event": None, "n_events": None, "measure": "auroc", "half_width": None,
            "word": "one class only",
        }  # fmt: skip
    rest = cohort.patients.count(rows & (column.values != event))
    smallest = int(min(having)) if k > 2 else min(int(having[event]), rest)
    word = "" if smallest >= FEW_EVENTS else "wide intervals" if smallest >= MIN_PATIENTS else "too few patients"
    enough = min(int(having[event]), rest) >= MIN_PATIENTS
    return base | {
        "classes": classes,
        "event": column.levels[event],
        "n_events": int(having[event]),
        "smallest_class": smallest,
        "measure": "auroc",
        "half_width": hanley_mcneil_half_width(int(having[event]), rest) if enough else None,
        "word": word,
    }


def _size_sentence(size: dict[str, Any]) -> str:
    name, n = size["variable"], size["n_patients"]
    if size["event"] is None:
        if size["word"] == "one class only":
            return f"{name}: all {n} patients have the same value; nothing can be learned of it."
        return f"{name}: only {n} patients; too few to study." if size["word"] else ""
    of_what = f"{size['n_events']} of {n} patients have {name} = {size['event']}"
    if size["word"] == "too few patients":
        few = [c for c in size["classes"] if c["patients"] < MIN_PATIENTS]
        if len(size["classes"]) == 2:
            return f"{name} cannot be studied: {few[0]['patients']} of {n} patients have {name} = {few[0]['level']}."
        shown = ", ".join(f"{c['level']} {c['patients']}" for c in few[:4]) + (" …" if len(few) > 4 else "")
        return f"{name}: {len(few)} of {len(size['classes'])} classes have fewer than 10 patients ({shown})."
    if size["word"] == "wide intervals":
        return (
            f"{of_what} ({size['n_images']} images do not make them more): expect a wide interval, an AUROC of 0.80 ± "
            f"{size['half_width']:.2f}."
        )
    return ""


def _side_sentence(size: dict[str, Any]) -> str:
    """Where the whole would do but a side of the split would not."""
    if size["half_width"] is None:
        return ""
    few = [
        f"{side} has {part['n_events']} of {part['n_patients']} patients with {size['variable']} = {size['event']}"
        if size["event"] is not None
        else f"{side} has {part['n_patients']} patients with {size['variable']}"
        for side, part in size["by_split"].items()
        if part["half_width"] is None
    ]
    return f"Too few on one side of the split to score {size['variable']} there: {'; '.join(few)}." if few else ""


def events(cohort: SourceColumns) -> list[dict[str, Any]]:
    """Which level of each two-level variable is the event, by which rule, and a sentence where the rule needs one."""
    found = []
    for column, _ in cohort.binary:
        chosen = event_of(column, cohort.patients)
        sentence = chosen.sentence(column.name, " in study.yaml")
        found.append({"variable": column.name, "event": chosen.level, "rule": chosen.rule, "sentence": sentence})
    return found


def images_per_patient(cohort: SourceColumns) -> dict[str, Any]:
    """How many images the patients have, and whether that depends on who they are or how they were imaged."""
    sizes = cohort.patients.sizes
    number = Column.number("number of images", "acquisition", sizes.astype(np.float64))
    alone = Patients(np.arange(cohort.patients.n_patients), cohort.patients.n_patients)
    tests = []
    for column in cohort.variables:
        by_patient = _of_patients(column, cohort.patients)
        found = compare(by_patient, number, alone)
        if 2 * by_patient.known.sum() < cohort.patients.count(column.known):
            found |= {"measure": "", "value": None, "p_value": None, "note": "changes within most patients"}
        levels = []
        for code, level in enumerate(by_patient.shown_levels):
            here = sizes[by_patient.shown == code]
            if len(here):
                levels.append(
                    {
                        "level": level,
                        "patients": len(here),
                        "mean": float(here.mean()),
                        "median": float(np.median(here)),
                        "histogram": _histogram(here),
                    }
                )
        tests.append({"variable": column.name, "role": column.role, **found, "levels": levels})
    assign_q_values(tests)
    return {
        "min": int(sizes.min()),
        "median": float(np.median(sizes)),
        "max": int(sizes.max()),
        "histogram": _histogram(sizes),
        "histogram_last_holds_more": bool(sizes.max() > _MOST_IMAGES_SHOWN),
        "tests": tests,
        "family": "number of images against every variable, one value a patient",
        "sentences": [images_sentence(test) for test in tests if is_significant(test)],
    }


def images_sentence(test: dict[str, Any]) -> str:
    name, apart = test["variable"], far_apart(test["levels"], "mean", "{:.1f}".format)
    if apart is not None:
        (high, most), (low, least) = apart
        numbers = f": {most} a patient at {name} = {high}, {least} at {low} ({describe_test(test)})"
    else:
        numbers = f" ({describe_test(test)})"
    return f"The number of images depends on {name}{numbers}. Do not report counts of images as counts of patients."


def _histogram(sizes: NDArray[np.int64]) -> list[int]:
    """Patients with 1, 2, … images; the last of at most 12 holds all above."""
    return [int(n) for n in np.bincount(np.minimum(sizes, _MOST_IMAGES_SHOWN))[1:]]


def _of_patients(column: Column, patients: Patients) -> Column:
    """One value a patient; missing for patients in whom the variable changes.

    The most frequent value would not do: how it is chosen depends on how many images there are, which is what is
    tested.
    """
    known = column.known
    some = patients.subset(known)
    same = some.constant(column.values[known])
    places = np.unique(patients.codes[known])[same]
    first = np.full(patients.n_patients, -1, dtype=np.int64)
    rows = np.flatnonzero(known)
    first[patients.codes[rows[::-1]]] = rows[::-1]

    def of_image(values: NDArray[Any], missing: float) -> NDArray[Any]:
        out = np.full(patients.n_patients, missing, dtype=values.dtype)
        out[places] = values[first[places]]
        return out

    shown = of_image(column.shown, -1)
    values = of_image(column.values, -1 if column.levels else np.nan)
    return Column(column.name, column.role, column.kind, values, column.levels, shown, column.shown_levels)
