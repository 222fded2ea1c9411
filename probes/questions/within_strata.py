"""One pair: association, each variable from the other alone, and each within levels of the other.

The further questions are in `pellucid.probes.questions.pair_extras`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import IntArray, Patients, associate
from pellucid.probes.inference.estimate import Estimate
from pellucid.probes.inference.statistic import Target
from pellucid.probes.inputs.variables import MIN_PATIENTS, ProbeVariable, strata_of
from pellucid.probes.questions.variable_rows import estimate_row, target_of
from pellucid.probes.settings import AuditSettings

QUESTIONS = {
    "association": "the associations of all pairs",
    "clinical_from_acquisition": "clinical variable from the acquisition factor alone, all pairs",
    "clinical_beyond_acquisition": "clinical variable within levels of the acquisition factor, all pairs",
    "acquisition_beyond_clinical": "acquisition factor within levels of the clinical variable, all pairs",
}


@dataclass(frozen=True)
class Pair:
    """The two variables among the rows that have both; `refusal` is the reason why the pair cannot be tested, or
    empty."""

    clinical: ProbeVariable
    acquisition: ProbeVariable
    rows: NDArray[np.bool_]  # (n,) of the cohort, which have both
    patients: Patients  # of these rows
    targets: tuple[Target, ...] = ()  # clinical, acquisition
    strata: tuple[IntArray, ...] = ()  # levels to compare within, of either
    notes: tuple[str, ...] = ()  # where numbers were divided into strata
    refusal: str = ""

    @classmethod
    def from_variables(cls, y: ProbeVariable, z: ProbeVariable, patients: Patients) -> Pair:
        rows = y.usable & z.usable
        inside = patients.subset(rows)
        for v in (y, z):
            if v.refusal:
                return cls(y, z, rows, inside, refusal=f"{v.name}: {v.refusal}".rstrip("."))
        targets = target_of(y, rows)[0], target_of(z, rows)[0]
        if inside.n_patients < 2 * MIN_PATIENTS or any(len(np.unique(target.data)) < 2 for target in targets):
            why = f"too few patients ({inside.n_patients} with both {y.name} and {z.name}, or all have one value)"
            return cls(y, z, rows, inside, targets, refusal=why)
        strata, notes = zip(*(_compact_strata(v, rows, patients) for v in (y, z)), strict=True)
        return cls(y, z, rows, inside, targets, strata, notes)

    def part(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        return vectors if self.rows.all() else vectors[self.rows]


def pair_row(vectors: NDArray[np.floating], pair: Pair, settings: AuditSettings) -> dict[str, Any]:
    """Association, the clinical variable from the factor alone, and each within levels of the other."""
    y, z, inside = pair.clinical, pair.acquisition, pair.patients
    names = {"clinical": y.name, "acquisition": z.name}
    if pair.refusal:
        blank = Estimate("", 0.5, int(pair.rows.sum()), inside.n_patients, refusal=pair.refusal)
        return {
            **names,
            "association": {"measure": None, "value": None, "p_value": None, "n_patients": blank.n_patients,
                            "note": f"{blank.refusal}."},
            **{question: estimate_row(blank) for question in list(QUESTIONS)[1:]},
            "patients_with_several_levels": None,
            "note": "",
        }  # fmt: skip
    y_target, z_target = pair.targets
    found = associate(*_values_of(y, pair.rows), *_values_of(z, pair.rows), inside)
    alone = _from_design(_design(z, pair.rows, inside), y_target, inside, settings, f"{y.name} from {z.name}")
    part = pair.part(vectors)
    y_beyond = settings.probe(part, y_target, inside, f"{y.name} beyond {z.name}", strata=pair.strata[1])
    z_beyond = settings.probe(part, z_target, inside, f"{z.name} beyond {y.name}", strata=pair.strata[0])
    several = int((~inside.constant(z_target.data)).sum())
    note = ""
    if several == 0:
        note = (
            f"No patient has images of two levels of {z.name}: these data do not show how images of the same patient "
            "would differ between levels."
        )
    return {
        **names,
        "association": {"measure": found.measure or None, "value": found.value, "p_value": found.p_value,
                        "n_patients": found.n_patients, "note": found.note},
        "clinical_from_acquisition": estimate_row(alone),
        "clinical_beyond_acquisition": _beyond_row(y_beyond, y.name, z.name, pair.notes[1]),
        "acquisition_beyond_clinical": _beyond_row(z_beyond, z.name, y.name, pair.notes[0]),
        "patients_with_several_levels": several,
        "note": note,
    }  # fmt: skip


def _values_of(v: ProbeVariable, rows: NDArray[np.bool_]) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    return v.data[rows], () if v.is_ranked else v.levels


def _from_design(
    design: NDArray[np.float64], target: Target, patients: Patients, settings: AuditSettings, what: str
) -> Estimate:
    """The probe of a few columns; if neither they nor the target vary within patients, one row per patient is
    equivalent and faster."""
    if patients.constant(target.data).all() and all(patients.constant(column).all() for column in design.T):
        first = np.unique(patients.codes, return_index=True)[1]
        one_each = Patients(np.arange(patients.n_patients), patients.n_patients)
        found = settings.probe(design[first], target.take(first), one_each, what)
        return replace(found, n_images=len(patients))
    return settings.probe(design, target, patients, what)


def _beyond_row(estimate: Estimate, target: str, within: str, note: str) -> dict[str, Any]:
    row = estimate_row(estimate, note)
    if estimate.refusal:
        row["note"] = (
            f"too few patients of the same {within} differ in {target} ({estimate.n_informative}; {MIN_PATIENTS} "
            "needed)"
        )
    return row


def _compact_strata(v: ProbeVariable, rows: NDArray[np.bool_], patients: Patients) -> tuple[IntArray, str]:
    strata, note = strata_of(v, patients)
    return np.unique(strata[rows], return_inverse=True)[1].astype(np.int64), note


def _design(v: ProbeVariable, rows: NDArray[np.bool_], patients: Patients) -> NDArray[np.float64]:
    """The variable itself as vectors: an indicator per level; for numbers the value and its strata."""
    if not v.is_ranked:
        return np.eye(len(v.levels))[v.codes[rows]]
    strata, _ = _compact_strata(
        replace(v, values=v.values[rows], usable=v.usable[rows]), np.ones(rows.sum(), bool), patients
    )
    steps = (strata[:, None] == np.unique(strata)).astype(np.float64)
    return np.column_stack([v.values[rows], steps]).astype(np.float64)
