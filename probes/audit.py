"""The confounder audit: what do these vectors encode, the disease or the device?

The questions of the statistical contract in their order, for anybody's vectors and table: each variable on its own,
then each pair (clinical variable, acquisition factor) before any model, beyond one another, and the verdict.
Arrays and frames in, a dictionary of schema pellucid.audit/1 out (docs/audit.md); files are `pellucid.probes.audit_files`' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.statistics import EventLevel, assign_q_values
from pellucid.probes.inputs.validation import Cohort, Names
from pellucid.probes.inputs.variables import MIN_PATIENTS
from pellucid.probes.parallel import Job, Progress, Steps, shareable, side_by_side
from pellucid.probes.questions.pair_extras import FURTHER, carried_over, neighbours_of, taken_out
from pellucid.probes.questions.variable_rows import variable_row
from pellucid.probes.questions.within_strata import QUESTIONS, Pair, pair_row
from pellucid.probes.settings import Settings
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
    "missing": "the probes of who has no value, of all variables",
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
    """Audit what frozen vectors encode, the unit of evidence being the patient.

    vectors: (n, d) finite floats; table: n rows in the same order. `patient` names the column of patient ids; `clinical`
    and `acquisition` name columns, as a list (kinds are guessed) or a mapping name → kind (binary, categorical,
    ordinal, continuous; time_to_event for two columns named "time/event"). `progress(done, total, what)` is called as questions are begun or done.
    positive: the level of a binary variable that counts as the event, {name: level}; of others docs/audit.md gives the rule.
    strict: a column that cannot be probed at all (constant, the patient id in disguise) raises; otherwise it is
    listed with its sentence and no number.
    further: beside the probes also neighbours, transfer, remedies and few-label curves, which take about as long again.
    nonlinear: a probe of boosted trees beside the linear ones.

    Raises UserError with a sentence for wrong input. Returns a dictionary ready for JSON, schema pellucid.audit/1.
    """
    cohort = Cohort.check(vectors, table, patient, clinical, acquisition, strict, positive)
    vectors = shareable(vectors)
    settings = Settings(permutations, folds, bootstrap, seed, further, nonlinear)
    by_role = {role: [v for v in cohort.variables if v.role == role] for role in ("clinical", "acquisition")}
    both = [Pair.of(y, z, cohort.patients) for y, z in product(by_role["clinical"], by_role["acquisition"])]
    raised = settings.enough_for(max(len(both), len(cohort.variables)))
    variables, pairs = _answers(vectors, cohort, both, settings, progress)
    by_name = {(row["role"], row["name"]): row for row in variables}
    assign_q_values(variables)
    assign_q_values([row["missing"] for row in variables if row["missing"] is not None])
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
        "n_patients": cohort.patients.n_patients,
        "dim": int(vectors.shape[1]),
        "patient": patient,
        "settings": {**settings.asked, "alpha": ALPHA, "min_patients": MIN_PATIENTS},
        "families": FAMILIES,
        "notes": [*cohort.notes, *([raised] if raised else [])],
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
    permutations: int = 999,
    folds: int = 5,
    bootstrap: int = 400,
    seed: int = 0,
    progress: Progress | None = None,
    strict: bool = True,
    further: bool = True,
    nonlinear: bool = False,
) -> list[dict[str, Any]]:
    """The `variables` rows of the audit alone: how well each variable can be read off.

    For the same table and seed every backbone gets the same folds, permutations and bootstrap samples, so
    rows of several backbones can be laid side by side. The q-values' family is the variables of this backbone.
    """
    cohort = Cohort.check(vectors, table, patient, clinical, acquisition, strict, positive)
    vectors = shareable(vectors)
    settings = Settings(permutations, folds, bootstrap, seed, further, nonlinear)
    settings.enough_for(len(cohort.variables))
    jobs = _of_variables(vectors, cohort, settings)
    rows = [row for row, _ in side_by_side(jobs, _work(vectors, settings), Steps(progress, len(jobs)))]
    assign_q_values(rows)
    assign_q_values([row["missing"] for row in rows if row["missing"] is not None])
    return rows


def _answers(
    vectors: NDArray[np.floating], cohort: Cohort, both: Sequence[Pair], settings: Settings, progress: Progress | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the variables and of the pairs, as many jobs beside each other as there are cores."""
    asked = [pair for pair in both if not pair.refusal]
    further = asked if settings.further else []
    alike: dict[bytes, list[Pair]] = {}  # pairs of the same rows share their neighbourhoods
    for pair in further:
        alike.setdefault(np.packbits(pair.rows).tobytes(), []).append(pair)
    jobs = {
        "variables": _of_variables(vectors, cohort, settings),
        "neighbours": [
            Job(
                f"what neighbours share: {_names(pairs[0])}{' …' * (len(pairs) > 1)}",
                neighbours_of,
                (vectors, pairs, settings.seed),
            )
            for pairs in alike.values()
        ],
        "carried": [
            Job(f"does it carry over? {_names(pair)}", carried_over, (vectors, pair, settings)) for pair in further
        ],
        "pairs": [Job(f"beyond one another: {_names(pair)}", pair_row, (vectors, pair, settings)) for pair in both],
    }
    first = [job for of_kind in jobs.values() for job in of_kind]
    steps = Steps(progress, len(first) + len(further))
    work = _work(vectors, settings)
    answers = iter(side_by_side(first, work, steps))
    found = {kind: [next(answers) for _ in of_kind] for kind, of_kind in jobs.items()}
    variables = [row for row, _ in found["variables"]]
    # A remedied probe takes over the error of other training patients from the variable's own.
    error = {(v.role, v.name): its for v, (_, its) in zip(cohort.variables, found["variables"], strict=True)}
    remedied = side_by_side(
        [
            Job(f"{pair.acquisition.name} taken out, and what it costs {pair.clinical.name}", taken_out,
                (vectors, pair, (error["clinical", pair.clinical.name], error["acquisition", pair.acquisition.name]), settings))
            for pair in further
        ], work, steps,
    )  # fmt: skip
    told: dict[int, dict[str, Any]] = {id(pair): dict.fromkeys(FURTHER) for pair in both}
    for pair, carried, remedy in zip(further, found["carried"], remedied, strict=True):
        told[id(pair)] |= carried | remedy
    for pairs, rows in zip(alike.values(), found["neighbours"], strict=True):
        for pair, row in zip(pairs, rows, strict=True):
            told[id(pair)]["neighbours"] = row
    return variables, [row | told[id(pair)] for pair, row in zip(both, found["pairs"], strict=True)]


def _of_variables(vectors: NDArray[np.floating], cohort: Cohort, settings: Settings) -> list[Job]:
    return [
        Job(f"reading {v.name} off the vectors", variable_row, (vectors, v, cohort.patients, settings))
        for v in cohort.variables
    ]


def _work(vectors: NDArray[np.floating], settings: Settings) -> float:
    return float(vectors.size) * settings.permutations


def _names(pair: Pair) -> str:
    return f"{pair.clinical.name} and {pair.acquisition.name}"


def _accused(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs whose factor is associated, encoded and not cleared, worst first; within a verdict the stronger association."""
    accused = [pair for pair in pairs if pair["accused"] and is_associated(pair["association"])]
    accused.sort(key=lambda pair: (ACCUSING.index(pair["verdict"]), -abs(pair["association"]["value"])))
    return [{key: pair[key] for key in ("clinical", "acquisition", "verdict", "sentence")} for pair in accused]
