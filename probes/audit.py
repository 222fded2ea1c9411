"""The confounder audit: what do these vectors encode, the disease or the device?

Questions in order: each variable alone; then, for each pair (clinical variable, acquisition factor), their association
before any model, each within levels of the other, and the verdict. Input: arrays and a table; output: a dictionary of
schema pellucid.audit/1 (docs/audit.md). `pellucid.probes.audit_files` reads and writes files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.statistics import EventLevel, assign_q_values
from pellucid.probes.inputs.validation import AuditInput, Names
from pellucid.probes.inputs.variables import MIN_PATIENTS
from pellucid.probes.parallel import Progress, Question, Steps, answer_questions, shareable
from pellucid.probes.questions.pair_extras import FURTHER, neighbour_rows, remedy_rows, transfer_rows
from pellucid.probes.questions.variable_rows import variable_row
from pellucid.probes.questions.within_strata import QUESTIONS, Pair, pair_row
from pellucid.probes.settings import AuditSettings
from pellucid.probes.verdicts import (
    ACCUSING,
    ALPHA,
    decide,
    is_associated,
    sentence,
)

SCHEMA = "pellucid.audit/1"
FAMILIES = {
    "variables": "the probes of all variables",
    "missing": "the probes of missing values, of all variables",
    **QUESTIONS,
}


def audit(
    vectors: NDArray[np.floating],
    table: pd.DataFrame,
    *,
    patient: str,
    clinical: Names,
    acquisition: Names,
    positive: Mapping[str, str | EventLevel] | None = None,
    permutations: int = 999,
    folds: int = 5,
    bootstrap: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
    strict: bool = True,
    further: bool = True,
    nonlinear: bool = False,
) -> dict[str, Any]:
    """Audit what frozen vectors encode. The patient is the unit of evidence.

    Args:
        vectors: (n, d) finite floats.
        table: n rows in the same order.
        patient: column of patient ids.
        clinical, acquisition: columns, as a list (kinds are guessed) or a mapping name → kind (binary, categorical,
            ordinal, continuous; time_to_event for two columns named "time/event").
        positive: the level of a binary variable that counts as the event, {name: level}; docs/audit.md gives the rule
            for the others.
        permutations, folds, bootstrap, seed: see `AuditSettings`.
        progress: called as `progress(done, total, question)`.
        strict: a column that cannot be probed (constant, or the patient id) raises; otherwise it is listed with the
            reason and without a number.
        further: also neighbours, transfer, remedies and few-label curves; about doubles the time.
        nonlinear: also a probe of boosted trees.

    Returns:
        A dictionary ready for JSON, schema pellucid.audit/1.

    Raises:
        UserError: the input is wrong; the message says what and where.
    """
    given = AuditInput.from_table(vectors, table, patient, clinical, acquisition, strict, positive)
    settings = AuditSettings(permutations, folds, bootstrap, seed, further, nonlinear)
    vectors = shareable(np.asarray(vectors))
    by_role = {role: [v for v in given.variables if v.role == role] for role in ("clinical", "acquisition")}
    both = [Pair.from_variables(y, z, given.patients) for y, z in product(by_role["clinical"], by_role["acquisition"])]
    settings, raised = settings.for_family(max(len(both), len(given.variables)))
    variables, pairs = _answers(vectors, given, both, settings, progress)
    by_name = {(row["role"], row["name"]): row for row in variables}
    _assign_q_values_to_variables(variables)
    for question in QUESTIONS:
        assign_q_values([pair[question] for pair in pairs])
    for pair in pairs:
        y, z = by_name["clinical", pair["clinical"]], by_name["acquisition", pair["acquisition"]]
        pair["verdict"] = decide(y, z, pair)
        pair["accused"] = pair["verdict"] in ACCUSING
        pair["sentence"] = sentence(pair["verdict"], y, z, pair)
    return {
        "schema": SCHEMA,
        "n_images": len(table),
        "n_patients": given.patients.n_patients,
        "dim": int(vectors.shape[1]),
        "patient": str(patient),
        "settings": {**settings.as_recorded(), "alpha": ALPHA, "min_patients": MIN_PATIENTS},
        "families": FAMILIES,
        "notes": [*given.notes, *([raised] if raised else [])],
        "variables": variables,
        "pairs": pairs,
        "accused": _accused(pairs),
    }


def probe_variables(
    vectors: NDArray[np.floating],
    table: pd.DataFrame,
    *,
    patient: str,
    clinical: Names,
    acquisition: Names,
    positive: Mapping[str, str | EventLevel] | None = None,
    settings: AuditSettings | None = None,
    progress: Progress | None = None,
    strict: bool = True,
) -> list[dict[str, Any]]:
    """Only the `variables` rows of the audit: how well each variable can be predicted from the vectors.

    For the same table and seed every backbone gets the same folds, permutations and bootstrap samples, so
    that rows of several backbones can be compared. The q-values' family is the variables of this backbone.
    Arguments and exceptions as of `audit`.
    """
    given = AuditInput.from_table(vectors, table, patient, clinical, acquisition, strict, positive)
    vectors = shareable(np.asarray(vectors))
    settings, _ = (settings or AuditSettings()).for_family(len(given.variables))
    questions = _variable_questions(vectors, given, settings)
    answers = answer_questions(questions, _work(vectors, settings), Steps(progress, len(questions)))
    rows = [row for row, _ in answers]
    _assign_q_values_to_variables(rows)
    return rows


def _assign_q_values_to_variables(rows: list[dict[str, Any]]) -> None:
    assign_q_values(rows)
    assign_q_values([row["missing"] for row in rows if row["missing"] is not None])


def _answers(
    vectors: NDArray[np.floating],
    given: AuditInput,
    both: Sequence[Pair],
    settings: AuditSettings,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the variables and of the pairs; several questions are answered at once."""
    asked = [pair for pair in both if not pair.refusal]
    further = asked if settings.further else []
    same_rows: dict[bytes, list[Pair]] = {}  # pairs of the same rows share their neighbourhoods
    for pair in further:
        same_rows.setdefault(np.packbits(pair.rows).tobytes(), []).append(pair)
    questions = {
        "variables": _variable_questions(vectors, given, settings),
        "neighbours": [
            Question(
                f"labels of neighbours: {_names(pairs[0])}{' …' * (len(pairs) > 1)}",
                neighbour_rows,
                (vectors, pairs, settings.seed),
            )
            for pairs in same_rows.values()
        ],
        "transfer": [
            Question(f"transfer: {_names(pair)}", transfer_rows, (vectors, pair, settings)) for pair in further
        ],
        "pairs": [Question(f"within strata: {_names(pair)}", pair_row, (vectors, pair, settings)) for pair in both],
    }
    first = [question for of_kind in questions.values() for question in of_kind]
    steps = Steps(progress, len(first) + len(further))
    work = _work(vectors, settings)
    answers = iter(answer_questions(first, work, steps))
    found = {kind: [next(answers) for _ in of_kind] for kind, of_kind in questions.items()}
    variables = [row for row, _ in found["variables"]]
    # The interval of a probe after a remedy uses the refitting error of the variable's first probe.
    errors = {(v.role, v.name): error for v, (_, error) in zip(given.variables, found["variables"], strict=True)}
    remedies = answer_questions(
        [
            Question(f"remedies: {_names(pair)}", remedy_rows,
                (vectors, pair,
                 (errors["clinical", pair.clinical.name], errors["acquisition", pair.acquisition.name]), settings))
            for pair in further
        ], work, steps,
    )  # fmt: skip
    extras: dict[int, dict[str, Any]] = {id(pair): dict.fromkeys(FURTHER) for pair in both}
    for pair, transfer, remedy in zip(further, found["transfer"], remedies, strict=True):
        extras[id(pair)] |= transfer | remedy
    for pairs, rows in zip(same_rows.values(), found["neighbours"], strict=True):
        for pair, row in zip(pairs, rows, strict=True):
            extras[id(pair)]["neighbours"] = row
    return variables, [row | extras[id(pair)] for pair, row in zip(both, found["pairs"], strict=True)]


def _variable_questions(vectors: NDArray[np.floating], given: AuditInput, settings: AuditSettings) -> list[Question]:
    return [
        Question(f"predicting {v.name}", variable_row, (vectors, v, given.patients, settings)) for v in given.variables
    ]


def _work(vectors: NDArray[np.floating], settings: AuditSettings) -> float:
    return float(vectors.size) * settings.permutations


def _names(pair: Pair) -> str:
    return f"{pair.clinical.name} and {pair.acquisition.name}"


def _accused(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs whose factor is associated, encoded and not cleared, worst first; within a verdict the stronger
    association."""
    accused = [pair for pair in pairs if pair["accused"] and is_associated(pair["association"])]
    accused.sort(key=lambda pair: (ACCUSING.index(pair["verdict"]), -abs(pair["association"]["value"])))
    return [{key: pair[key] for key in ("clinical", "acquisition", "verdict", "sentence")} for pair in accused]
