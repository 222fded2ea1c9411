"""One clinical variable with one acquisition factor: every question of the audit about the two, in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cohort.association import associate
from cohort.patients import IntArray, Patients
from probes.estimate import Estimate
from probes.neighbours import Neighbours, Surroundings
from probes.performance_drop import CONFOUNDING, performance_drop
from probes.remedies import enough_of_each, recoded, remedies, remedy_sentence
from probes.rows import estimate_row, number, target_of
from probes.settings import Settings, Steps
from probes.statistic import Target
from probes.transfer import transfer
from probes.variables import MIN_PATIENTS, Variable, strata_of

QUESTIONS = {
    "association": "the associations of all pairs",
    "clinical_from_acquisition": "clinical variable from the acquisition factor alone, all pairs",
    "clinical_beyond_acquisition": "clinical variable within levels of the acquisition factor, all pairs",
    "acquisition_beyond_clinical": "acquisition factor within levels of the clinical variable, all pairs",
}


FURTHER = ("transfer", "confounded_training", "neighbours", "remedies")


def pair_row(
    vectors: NDArray[np.floating],
    y: Variable,
    z: Variable,
    patients: Patients,
    settings: Settings,
    steps: Steps,
    around: Surroundings,
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
        y_target, z_target = target_of(y, rows)[0], target_of(z, rows)[0]
        if inside.n_patients < 2 * MIN_PATIENTS or any(
            len(np.unique(target.data)) < 2 for target in (y_target, z_target)
        ):
            refusal = f"too few patients ({inside.n_patients} with both {y.name} and {z.name}, or all alike)"
    if refusal:
        for _ in range(6 if settings.further else 3):
            steps(f"{y.name} and {z.name}: too few patients")
        blank = Estimate(
            "", 0.5, int(rows.sum()), patients.count(rows) if rows.any() else 0, refusal=refusal.rstrip(".")
        )
        return {
            **pair,
            "association": {"measure": None, "value": None, "p_value": None, "n_patients": blank.n_patients,
                            "note": f"{blank.refusal}."},
            **{question: estimate_row(blank) for question in list(QUESTIONS)[1:]},
            **dict.fromkeys(FURTHER),
            "patients_with_several_levels": None,
            "note": "",
        }  # fmt: skip
    found = associate(
        y_target.data, y_target.n_levels, z_target.data, z_target.n_levels, inside,
        settings.permutations, settings.seed_of(f"association {y.name} {z.name}"),
    )  # fmt: skip
    part = vectors if rows.all() else vectors[rows]
    steps(f"{y.name} from {z.name} alone")
    alone = _from_design(_design(z, rows, inside), y_target, inside, settings, f"{y.name} from {z.name}")
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
    more: dict[str, Any] = dict.fromkeys(FURTHER)
    if settings.further:
        more = _further(part, (y, z), (y_target, z_target), (y_strata, z_strata), inside, rows, settings, steps, around)
    return {
        **pair,
        "association": {"measure": found.measure, "value": found.value, "p_value": found.p_value,
                        "n_patients": found.n_patients, "note": ""},
        "clinical_from_acquisition": estimate_row(alone),
        "clinical_beyond_acquisition": _beyond_row(y_beyond, y.name, z.name, z_note),
        "acquisition_beyond_clinical": _beyond_row(z_beyond, z.name, y.name, y_note),
        **more,
        "patients_with_several_levels": several,
        "note": note,
    }  # fmt: skip


def _from_design(
    design: NDArray[np.float64], target: Target, patients: Patients, settings: Settings, what: str
) -> Estimate:
    """The probe of a few columns; where neither they nor the target vary within patients, one row a patient says the same."""
    if patients.constant(target.data).all() and all(patients.constant(column).all() for column in design.T):
        first = np.unique(patients.codes, return_index=True)[1]
        one_each = Patients(np.arange(patients.n_patients), patients.n_patients)
        found = settings.probe(design[first], target.take(first), one_each, what)
        return replace(found, n_images=len(patients))
    return settings.probe(design, target, patients, what)


def _further(
    vectors: NDArray[np.floating],
    variables: tuple[Variable, Variable],
    targets: tuple[Target, Target],
    levels: tuple[IntArray, IntArray],
    patients: Patients,
    rows: NDArray[np.bool_],
    settings: Settings,
    steps: Steps,
    around: Surroundings,
) -> dict[str, Any]:
    """Transfer, neighbours and remedies; numbers are compared in the same strata as in the questions before."""
    y, z = variables
    seed = settings.seed_of(f"further {y.name} {z.name}")
    steps(f"{y.name} under another {z.name}")
    moved = transfer(vectors, targets[0], levels[1], patients, seed)
    steps(f"what neighbours share: {y.name} or {z.name}")
    cost = performance_drop(vectors, targets[0], levels[1], patients, seed)
    near = _near(targets, levels, patients, rows, around)
    steps(f"{z.name} taken out, and what it costs {y.name}")
    errors = settings.refitted.get(y.name, 0.0), settings.refitted.get(z.name, 0.0)
    tried = remedies(vectors, *targets, patients, errors, seed)
    names = _level_names(z, rows, levels[1])
    made = [f"{v.name} in strata of neighbouring values" for v in variables if v.is_ranked]
    return {
        "transfer": {
            "metric": targets[0].metric,
            "levels": [
                {"level": names[level], "within": number(within), "across": number(across)}
                for level, (within, across) in zip(moved.levels, moved.by_level, strict=True)
            ],
            **{key: number(getattr(moved, key)) for key in ("within", "across", "drop", "ci_low", "ci_high")},
            "note": f"{moved.refusal}." if moved.refusal else "",
        },
        "confounded_training": {
            "levels": [names[level] for level in cost.levels],
            "confounding": list(CONFOUNDING),
            "scores": [number(score) for score in cost.scores],
            **{key: number(getattr(cost, key)) for key in ("average_drop", "ci_low", "ci_high")},
            "n_train": cost.n_train,
            "note": f"{cost.refusal}." if cost.refusal else "",
        },
        "neighbours": near
        and {
            **{key: number(value) if isinstance(value, float) else value for key, value in vars(near).items()},
            "note": f"{' and '.join(made)}." if made else "",
        },
        "remedies": [
            {
                "name": one.name,
                **{
                    role: {probe: dict(zip(("score", "ci_low", "ci_high"), map(number, s), strict=True)) for probe, s in of.items()}
                    for role, of in (("acquisition", one.acquisition), ("clinical", one.clinical))
                },
                "sentence": one.note if one.name == "none" else remedy_sentence(one, tried[0], y.name, z.name),
            }
            for one in tried
        ],
    }  # fmt: skip


def _near(
    targets: tuple[Target, Target],
    levels: tuple[IntArray, IntArray],
    patients: Patients,
    rows: NDArray[np.bool_],
    around: Surroundings,
) -> Neighbours | None:
    """Of the levels that have ten patients; None where there are too few."""
    coded = [Target(codes, int(codes.max()) + 1) for codes in levels]
    kept = enough_of_each(coded, patients)
    if kept is None:
        return None
    both = rows.copy()
    both[rows] = kept
    inside = patients.subset(kept)
    return around.of(both, inside).measure(*(np.asarray(recoded(t, kept).data, dtype=np.int64) for t in coded))


def _level_names(v: Variable, rows: NDArray[np.bool_], codes: IntArray) -> list[str]:
    """What the levels 0 … are called; of strata, their range."""
    found = []
    for level in range(int(codes.max()) + 1):
        if v.is_ranked:
            inside = v.values[rows][codes == level]
            low, high = f"{inside.min():g}", f"{inside.max():g}"
            found.append(low if low == high else f"{low} to {high}")
        else:
            found.append(v.levels[int(v.codes[rows][codes == level][0])])
    return found


def _beyond_row(estimate: Estimate, target: str, within: str, note: str) -> dict[str, Any]:
    row = estimate_row(estimate, note)
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
