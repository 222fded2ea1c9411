"""The confounder audit: what do these vectors encode, the disease or the device?

The questions of the statistical contract in their order, for anybody's vectors and table: each variable on its own,
then each pair (clinical variable, acquisition factor) before any model, beyond one another, and the verdict.
Arrays and frames in, a dictionary of schema pellucid.audit/1 out (docs/audit.md); files are `probes.tables`' business.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.inputs import Cohort, Names
from probes.neighbours import Surroundings
from probes.pairs import QUESTIONS, pair_row
from probes.rows import variable_row
from probes.settings import Progress, Settings, Steps, side_by_side
from probes.variables import MIN_PATIENTS, Role, Variable
from probes.verdicts import ACCUSING, ALPHA, assign_q_values, decide, is_associated, sentence

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
    ordinal, continuous; time_to_event for two columns named "time/event"). `progress(done, total, what)` is called before each question.
    strict: a column that cannot be probed at all (constant, the patient id in disguise) raises; otherwise it is
    listed with its sentence and no number.
    further: beside the probes also neighbours, transfer, remedies and few-label curves, which take about as long again.
    nonlinear: a probe of boosted trees beside the linear ones.

    Raises UserError with a sentence for wrong input. Returns a dictionary ready for JSON, schema pellucid.audit/1.
    """
    cohort = Cohort.check(vectors, table, patient, clinical, acquisition, strict)
    settings = Settings(permutations, folds, bootstrap, seed, further, nonlinear)
    roles: dict[Role, list[Variable]] = {
        role: [v for v in cohort.variables if v.role == role] for role in ("clinical", "acquisition")
    }
    n_pairs = len(roles["clinical"]) * len(roles["acquisition"])
    raised = settings.enough_for(max(n_pairs, len(cohort.variables)))
    steps = Steps(progress, len(cohort.variables) + (7 if further else 4) * n_pairs)
    around = Surroundings(vectors, seed)
    variables = side_by_side(lambda v: variable_row(vectors, v, cohort.patients, settings, steps), cohort.variables)
    by_name = {(row["role"], row["name"]): row for row in variables}
    pairs = side_by_side(
        lambda both: pair_row(vectors, *both, cohort.patients, settings, steps, around),
        product(roles["clinical"], roles["acquisition"]),
    )
    assign_q_values(variables)
    assign_q_values([row["missing"] for row in variables if row["missing"] is not None])
    for question in QUESTIONS:
        assign_q_values([pair[question] for pair in pairs])
    for pair in pairs:
        y, z = by_name["clinical", pair["clinical"]], by_name["acquisition", pair["acquisition"]]
        pair["verdict"] = decide(y, z, pair)
        pair["accused"] = pair["verdict"] in ACCUSING
        pair["sentence"] = sentence(pair["verdict"], y, z, pair)
    steps.finish()
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
    cohort = Cohort.check(vectors, table, patient, clinical, acquisition, strict)
    settings = Settings(permutations, folds, bootstrap, seed, further, nonlinear)
    settings.enough_for(len(cohort.variables))
    steps = Steps(progress, len(cohort.variables))
    rows = side_by_side(lambda v: variable_row(vectors, v, cohort.patients, settings, steps), cohort.variables)
    assign_q_values(rows)
    assign_q_values([row["missing"] for row in rows if row["missing"] is not None])
    steps.finish()
    return rows


def _accused(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs whose factor is associated, encoded and not cleared, worst first; within a verdict the stronger association."""
    accused = [pair for pair in pairs if pair["accused"] and is_associated(pair["association"])]
    accused.sort(key=lambda pair: (ACCUSING.index(pair["verdict"]), -abs(pair["association"]["value"])))
    return [{key: pair[key] for key in ("clinical", "acquisition", "verdict", "sentence")} for pair in accused]
