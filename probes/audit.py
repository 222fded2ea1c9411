"""The confounder audit: what do these vectors encode, the disease or the device?

The questions of the statistical contract in their order, for anybody's vectors and table: each variable on its own,
then each pair (clinical variable, acquisition factor) before any model, beyond one another, and the verdict.
Arrays and frames in, a dictionary of schema pellucid.audit/1 out (docs/audit.md); files are `probes.tables`' business.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.association import associate
from cohort.errors import UserError
from cohort.patients import IntArray, Patients
from probes.estimate import Estimate, Target, probe
from probes.inputs import Cohort, Names
from probes.variables import (
    MIN_PATIENTS,
    Role,
    Variable,
    strata_of,
)
from probes.verdicts import ACCUSING, ALPHA, assign_q_values, decide, is_associated, sentence

SCHEMA = "pellucid.audit/1"
SATURATED = 0.98
FAMILIES = {
    "variables": "the probes of all variables",
    "association": "the associations of all pairs",
    "clinical_from_acquisition": "clinical variable from the acquisition factor alone, all pairs",
    "clinical_beyond_acquisition": "clinical variable within levels of the acquisition factor, all pairs",
    "acquisition_beyond_clinical": "acquisition factor within levels of the clinical variable, all pairs",
}

Progress = Callable[[int, int, str], None]


def audit(
    vectors: NDArray[np.floating],
    table: pd.DataFrame,
    *,
    patient: str,
    clinical: Names,
    acquisition: Names,
    permutations: int = 999,
    folds: int = 5,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    strict: bool = True,
) -> dict[str, Any]:
    """Audit what frozen vectors encode, the unit of evidence being the patient.

    vectors: (n, d) finite floats; table: n rows in the same order. `patient` names the column of patient ids; `clinical`
    and `acquisition` name columns, as a list (kinds are guessed) or a mapping name → kind (binary, categorical,
    ordinal, continuous). `progress(done, total, what)` is called before each question.
    strict: a column that cannot be probed at all (constant, the patient id in disguise) raises; otherwise it is
    listed with its sentence and no number.

    Raises UserError with a sentence for wrong input. Returns a dictionary ready for JSON, schema pellucid.audit/1.
    """
    cohort = Cohort.check(vectors, table, patient, clinical, acquisition, strict)
    settings = _Settings(permutations, folds, bootstrap, seed)
    roles: dict[Role, list[Variable]] = {
        role: [v for v in cohort.variables if v.role == role] for role in ("clinical", "acquisition")
    }
    steps = _Steps(progress, len(cohort.variables) + 4 * len(roles["clinical"]) * len(roles["acquisition"]))
    variables = [_variable_row(vectors, v, cohort.patients, settings, steps) for v in cohort.variables]
    by_name = {(row["role"], row["name"]): row for row in variables}
    pairs = [
        _pair_row(vectors, y, z, cohort.patients, settings, steps)
        for y in roles["clinical"]
        for z in roles["acquisition"]
    ]
    assign_q_values(variables)
    for family in FAMILIES:
        if family != "variables":
            assign_q_values([pair[family] for pair in pairs])
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
        "settings": {**settings.__dict__, "alpha": ALPHA, "min_patients": MIN_PATIENTS},
        "families": FAMILIES,
        "notes": cohort.notes,
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
    bootstrap: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    strict: bool = True,
) -> list[dict[str, Any]]:
    """The `variables` rows of the audit alone: how well each variable can be read off.

    For the same table and seed every backbone gets the same folds, permutations and bootstrap samples, so
    rows of several backbones can be laid side by side. The q-values' family is the variables of this backbone.
    """
    cohort = Cohort.check(vectors, table, patient, clinical, acquisition, strict)
    settings = _Settings(permutations, folds, bootstrap, seed)
    steps = _Steps(progress, len(cohort.variables))
    rows = [_variable_row(vectors, v, cohort.patients, settings, steps) for v in cohort.variables]
    assign_q_values(rows)
    steps.finish()
    return rows


class _Steps:
    """Counts the questions for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, what: str) -> None:
        if self.progress is not None:
            self.progress(self.done, self.total, what)
        self.done += 1

    def finish(self) -> None:
        if self.progress is not None:
            self.progress(self.total, self.total, "done")


class _Settings:
    def __init__(self, permutations: int, folds: int, bootstrap: int, seed: int) -> None:
        for name, value, least in (
            ("permutations", permutations, 19),
            ("folds", folds, 2),
            ("bootstrap", bootstrap, 50),
        ):
            if value < least:
                raise UserError(f"{name} is {value}; at least {least} are needed for an honest answer.")
        if folds > MIN_PATIENTS:
            raise UserError(f"folds is {folds}; at most {MIN_PATIENTS}, the fewest patients a class may have.")
        self.permutations, self.folds, self.bootstrap, self.seed = permutations, folds, bootstrap, seed

    def probe(
        self, vectors: NDArray[np.floating], target: Target, patients: Patients, what: str, **more: Any
    ) -> Estimate:
        """The seed depends on the question, not on its place in the list: adding a variable changes no other result."""
        return probe(
            vectors, target, patients,
            permutations=self.permutations, folds=self.folds, bootstrap=self.bootstrap, seed=self.seed_of(what), **more,
        )  # fmt: skip

    def seed_of(self, what: str) -> int:
        return int(np.random.SeedSequence([self.seed, zlib.crc32(what.encode())]).generate_state(1)[0])


def _target(variable: Variable, rows: NDArray[np.bool_]) -> tuple[Target, tuple[str, ...]]:
    """The target among these rows, codes renumbered without gaps, and the names of the levels left."""
    if variable.is_ranked:
        return Target(variable.values[rows], 0), variable.levels
    present, codes = np.unique(variable.codes[rows], return_inverse=True)
    return Target(codes.astype(np.int64), len(present)), tuple(variable.levels[i] for i in present)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _estimate_row(estimate: Estimate, note: str = "") -> dict[str, Any]:
    reason = f"{estimate.refusal}." if estimate.refusal else ""
    return {
        "metric": estimate.metric,
        "score": _number(estimate.score),
        "ci_low": _number(estimate.ci_low),
        "ci_high": _number(estimate.ci_high),
        "chance": estimate.chance,
        "p_value": _number(estimate.p_value),
        "q_value": None,
        "detectable": _number(estimate.detectable),
        "n_images": estimate.n_images,
        "n_patients": estimate.n_patients,
        "note": " ".join(part for part in (reason, note) if part),
    }


def _variable_row(
    vectors: NDArray[np.floating], v: Variable, patients: Patients, settings: _Settings, steps: _Steps
) -> dict[str, Any]:
    steps(f"reading {v.name} off the vectors")
    rows = v.usable
    metric = "spearman" if v.is_ranked else "auroc" if v.kind == "binary" else "macro_auroc"
    estimate = Estimate(metric, 0.0 if v.is_ranked else 0.5, int(rows.sum()), patients.count(rows))
    constant = None
    if not v.refusal:
        target, _ = _target(v, rows)
        inside = patients.subset(rows)
        constant = bool(inside.constant(target.data).all())
        estimate = settings.probe(
            vectors if rows.all() else vectors[rows], target, inside, f"variable {v.name}", others=True
        )
        estimate = replace(estimate, metric=metric)
    else:
        estimate = replace(estimate, refusal=v.refusal.rstrip("."))
    saturated = bool(estimate.score >= SATURATED)
    notes = [
        *v.notes,
        *(["Saturated: read off almost perfectly, so this score cannot rank backbones."] if saturated else []),
        *(["Varies within patients: permuted in whole-patient blocks and among a patient's own images."] if constant is False else []),
    ]  # fmt: skip
    events = {"binary": v.levels[-1:], "categorical": v.levels}.get(v.kind, ())
    return {
        "name": v.name,
        "role": v.role,
        "kind": v.kind,
        "levels": list(v.levels),
        "level_patients": v.level_patients,
        "n_events": min((v.level_patients[level] for level in events), default=None),
        "n_missing": v.n_missing,
        "constant_within_patients": constant,
        "probe": "ridge",
        "saturated": saturated,
        "r2": _number(estimate.r2),
        "logistic": _beside(estimate.logistic),
        "knn": _beside(estimate.knn),
        **_estimate_row(estimate, " ".join(notes)),
    }


def _beside(scored: tuple[float, float, float] | None) -> dict[str, float | None] | None:
    return None if scored is None else dict(zip(("score", "ci_low", "ci_high"), map(_number, scored), strict=True))


def _pair_row(
    vectors: NDArray[np.floating], y: Variable, z: Variable, patients: Patients, settings: _Settings, steps: _Steps
) -> dict[str, Any]:
    pair: dict[str, Any] = {"clinical": y.name, "acquisition": z.name}
    rows = y.usable & z.usable
    steps(f"association of {y.name} and {z.name}")
    refusal = ""
    for v in (y, z):
        if v.refusal:
            refusal = refusal or f"{v.name}: {v.refusal}"
    y_target, z_target, inside = Target(np.zeros(0), 0), Target(np.zeros(0), 0), patients
    if not refusal:
        inside = patients.subset(rows)
        y_target, z_target = _target(y, rows)[0], _target(z, rows)[0]
        if inside.n_patients < 2 * MIN_PATIENTS or any(
            len(np.unique(target.data)) < 2 for target in (y_target, z_target)
        ):
            refusal = f"too few patients ({inside.n_patients} with both {y.name} and {z.name}, or all alike)"
    if refusal:
        for _ in range(3):
            steps(f"{y.name} and {z.name}: too few patients")
        blank = Estimate(
            "", 0.5, int(rows.sum()), patients.count(rows) if rows.any() else 0, refusal=refusal.rstrip(".")
        )
        return {
            **pair,
            "association": {"measure": None, "value": None, "p_value": None, "n_patients": blank.n_patients,
                            "note": f"{blank.refusal}."},
            **{question: _estimate_row(blank) for question in list(FAMILIES)[2:]},
            "patients_with_several_levels": None,
            "note": "",
        }  # fmt: skip
    found = associate(
        y_target.data, y_target.n_levels, z_target.data, z_target.n_levels, inside,
        settings.permutations, settings.seed_of(f"association {y.name} {z.name}"),
    )  # fmt: skip
    part = vectors if rows.all() else vectors[rows]
    steps(f"{y.name} from {z.name} alone")
    alone = settings.probe(_design(z, rows, inside), y_target, inside, f"{y.name} from {z.name}")
    z_strata, z_note = _compact_strata(z, rows, patients)
    y_strata, y_note = _compact_strata(y, rows, patients)
    steps(f"{y.name} beyond {z.name}")
    y_beyond = settings.probe(part, y_target, inside, f"{y.name} beyond {z.name}", strata=z_strata)
    steps(f"{z.name} beyond {y.name}")
    z_beyond = settings.probe(part, z_target, inside, f"{z.name} beyond {y.name}", strata=y_strata)
    several = int((~inside.constant(z_target.data)).sum())
    note = ""
    if several == 0:
        note = (
            f"No patient has images of two levels of {z.name}; what the same patient would look like under "
            "another cannot be known from these data."
        )
    return {
        **pair,
        "association": {"measure": found.measure, "value": found.value, "p_value": found.p_value,
                        "n_patients": found.n_patients, "note": ""},
        "clinical_from_acquisition": _estimate_row(alone),
        "clinical_beyond_acquisition": _beyond_row(y_beyond, y.name, z.name, z_note),
        "acquisition_beyond_clinical": _beyond_row(z_beyond, z.name, y.name, y_note),
        "patients_with_several_levels": several,
        "note": note,
    }  # fmt: skip


def _beyond_row(estimate: Estimate, target: str, within: str, note: str) -> dict[str, Any]:
    row = _estimate_row(estimate, note)
    if estimate.refusal:
        row["note"] = (
            f"too few patients of the same {within} differ in {target} ({estimate.n_informative}; {MIN_PATIENTS} needed)"
        )
    return row


def _compact_strata(v: Variable, rows: NDArray[np.bool_], patients: Patients) -> tuple[IntArray, str]:
    strata, note = strata_of(v, patients)
    return np.unique(strata[rows], return_inverse=True)[1].astype(np.int64), note


def _design(v: Variable, rows: NDArray[np.bool_], patients: Patients) -> NDArray[np.float64]:
    """The variable itself as vectors: an indicator per level; for numbers the value and its strata."""
    if not v.is_ranked:
        return np.eye(len(v.levels))[v.codes[rows]]
    strata, _ = _compact_strata(
        replace(v, values=v.values[rows], usable=v.usable[rows]), np.ones(rows.sum(), bool), patients
    )
    steps = (strata[:, None] == np.unique(strata)).astype(np.float64)
    return np.column_stack([v.values[rows], steps]).astype(np.float64)


def _accused(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs whose factor is associated, encoded and not cleared, worst first; within a verdict the stronger association."""
    accused = [pair for pair in pairs if pair["accused"] and is_associated(pair["association"])]
    accused.sort(key=lambda pair: (ACCUSING.index(pair["verdict"]), -abs(pair["association"]["value"])))
    return [{key: pair[key] for key in ("clinical", "acquisition", "verdict", "sentence")} for pair in accused]
