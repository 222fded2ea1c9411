"""Who was imaged with what: each acquisition factor in images, patients and events, and whether it goes with the
diagnosis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pellucid.cohort.source_audit.columns import MAX_LEVELS_SHOWN, Column, SourceColumns
from pellucid.cohort.source_audit.permutation_tests import compare, describe_test, is_significant
from pellucid.cohort.statistics.association import assign_q_values
from pellucid.cohort.study import Variable

# What a header says of a person is never listed as a factor, whatever it is called.
_OF_PERSONS = ("patient", "birth", "owner", "comment", "description", "accession", "_uid", "_id")
_OF_TIME = ("header_date", "header_year", "header_time")


def candidates(usable: pd.DataFrame, declared: set[str]) -> list[Column]:
    """Header fields of 2 to 30 levels that the study does not declare."""
    found = []
    for name in usable.columns:
        plain = str(name).lower()
        if not plain.startswith("header_") or name in declared or plain.startswith(_OF_TIME):
            continue
        if any(word in plain for word in _OF_PERSONS):
            continue
        values = usable[name].astype(object).where(usable[name].notna() & (usable[name].astype(str) != ""), None)
        if 2 <= values.nunique() <= MAX_LEVELS_SHOWN:
            found.append(Column.from_values(values, Variable(str(name), "acquisition", "categorical"), "candidate"))
    return found


def describe(cohort: SourceColumns, column: Column) -> dict[str, Any]:
    """Images, patients and patients with each event, per level (the 30 largest levels)."""
    k = len(column.shown_levels)
    known = column.shown >= 0
    images = np.bincount(column.shown[known], minlength=k)
    patients = cohort.patients_with(column.shown, k)
    events = {}
    for variable, event in cohort.binary:
        of_event = cohort.patients_with(column.shown, k, variable.shown == event)
        events[variable.name] = (variable, event, of_event, cohort.patients_with(column.shown, k, variable.shown >= 0))
    levels = []
    for code in np.argsort(-images, kind="stable")[:MAX_LEVELS_SHOWN].tolist():
        entry: dict[str, Any] = {
            "level": column.shown_levels[code],
            "images": int(images[code]),
            "patients": int(patients[code]),
            "events": {
                name: {"event": variable.shown_levels[event], "patients": int(having[code]), "known": int(told[code])}
                for name, (variable, event, having, told) in events.items()
            },
        }
        levels.append(entry)
    cells = np.unique(cohort.patients.codes[known] * k + column.shown[known]) if k else np.zeros(0, dtype=np.int64)
    levels_per_patient = np.bincount(cells // max(k, 1), minlength=cohort.patients.n_patients)
    return {
        "name": column.name,
        "kind": column.kind,
        "n_levels": k,
        "levels": levels,
        "missing_images": int((~known).sum()),
        "patients_with_two_levels": int((levels_per_patient > 1).sum()),
    }


def describe_candidate(cohort: SourceColumns, column: Column) -> dict[str, Any]:
    """The same of a header field, and which declared factors divide the images exactly as it does."""
    same = []
    for factor in cohort.with_role("acquisition"):
        both = (factor.shown >= 0) & (column.shown >= 0)
        pairs = np.unique(factor.shown[both] * len(column.shown_levels) + column.shown[both])
        k = len(column.shown_levels)
        one_to_one = len(np.unique(pairs % k)) == len(pairs) == len(np.unique(pairs // k))
        if len(pairs) > 1 and one_to_one:
            same.append(factor.name)
    return describe(cohort, column) | {"same_as": same}


def associations(cohort: SourceColumns) -> list[dict[str, Any]]:
    """Every clinical variable and outcome against every acquisition factor, by patients, q over all of them."""
    pairs = [
        _association(cohort, clinical, factor)
        for clinical in cohort.with_role("clinical", "outcome")
        for factor in cohort.with_role("acquisition")
    ]
    assign_q_values(pairs)
    for pair in pairs:
        if is_significant(pair):
            pair["sentence"] = (
                f"{pair['acquisition']} is associated with {pair['clinical']} before any model "
                f"({describe_test(pair)}): a model that encodes the one will appear to predict the other."
            )
    return pairs


def _association(cohort: SourceColumns, clinical: Column, factor: Column) -> dict[str, Any]:
    rows, columns = len(factor.shown_levels), len(clinical.shown_levels)
    both = (factor.shown >= 0) & (clinical.shown >= 0)
    cells = cohort.patients_with(np.where(both, factor.shown * columns + clinical.shown, -1), rows * columns)
    table = cells.reshape(rows, columns)
    seen, told = table.sum(axis=1) > 0, table.sum(axis=0) > 0
    shown = [(f, [c for c in range(columns) if told[c]]) for f in range(rows) if seen[f]][:MAX_LEVELS_SHOWN]
    return compare(clinical, factor, cohort.patients) | {
        "clinical": clinical.name,
        "role": clinical.role,
        "acquisition": factor.name,
        "table": {
            factor.shown_levels[f]: {clinical.shown_levels[c]: int(table[f, c]) for c in told_codes}
            for f, told_codes in shown
        },
    }
