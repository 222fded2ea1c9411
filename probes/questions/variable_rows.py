"""Rows of audit.json: results as plain values and sentences, and the row of one variable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.statistics import Patients
from pellucid.probes.inference.estimate import Estimate
from pellucid.probes.inference.statistic import Target
from pellucid.probes.inputs.variables import MIN_PATIENTS, ProbeVariable
from pellucid.probes.questions.learning_curve import few_label_curve
from pellucid.probes.settings import AuditSettings

SATURATED = 0.98


def target_of(variable: ProbeVariable, rows: NDArray[np.bool_]) -> tuple[Target, tuple[str, ...]]:
    """The target among these rows, codes renumbered without gaps, and the names of the levels left."""
    if variable.is_ranked:
        order = variable.order[rows] if len(variable.order) else variable.order
        return Target(variable.values[rows], 0, order), variable.levels
    present, codes = np.unique(variable.codes[rows], return_inverse=True)
    return Target(codes.astype(np.int64), len(present)), tuple(variable.levels[i] for i in present)


def metric_of(v: ProbeVariable) -> str:
    if v.kind == "time_to_event":
        return "concordance"
    return "spearman" if v.is_ranked else "auroc" if v.kind == "binary" else "macro_auroc"


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def estimate_row(estimate: Estimate, note: str = "") -> dict[str, Any]:
    reason = f"{estimate.refusal}." if estimate.refusal else ""
    return {
        "metric": estimate.metric,
        "score": number(estimate.score),
        "ci_low": number(estimate.ci_low),
        "ci_high": number(estimate.ci_high),
        "chance": estimate.chance,
        "p_value": number(estimate.p_value),
        "q_value": None,
        "detectable": number(estimate.detectable),
        "n_images": estimate.n_images,
        "n_patients": estimate.n_patients,
        "note": " ".join(part for part in (reason, note) if part),
    }


def variable_row(
    vectors: NDArray[np.floating], v: ProbeVariable, patients: Patients, settings: AuditSettings
) -> tuple[dict[str, Any], float]:
    """The row, and the refitting error of its probe times the square root of the number of patients."""
    rows = v.usable
    metric = metric_of(v)
    estimate = Estimate(metric, 0.0 if metric == "spearman" else 0.5, int(rows.sum()), patients.count(rows))
    constant = None
    if not v.refusal:
        target, _ = target_of(v, rows)
        inside = patients.subset(rows)
        constant = bool(inside.constant(target.data).all())
        estimate = settings.probe(
            vectors if rows.all() else vectors[rows], target, inside, f"variable {v.name}", others=settings.others
        )
        estimate = replace(estimate, metric=metric)
    else:
        estimate = replace(estimate, refusal=v.refusal.rstrip("."))
    curve = []
    if settings.further and not estimate.refusal:
        curve = few_label_curve(vectors[rows], target, inside, settings.seed_of(f"few labels {v.name}"))
    saturated = bool(estimate.score >= SATURATED)
    notes = [
        *v.notes,
        *(["Saturated: predicted almost perfectly, so this score cannot rank backbones."] if saturated else []),
        *([("Varies within patients: permuted in whole-patient blocks and among the images of each "
           "patient.")] if constant is False else []),
    ]  # fmt: skip
    events = {"categorical": v.levels, "time_to_event": ("event",)}.get(v.kind, ())
    events = (v.event,) if v.event else events
    row: dict[str, Any] = {
        "name": v.name,
        "role": v.role,
        "kind": v.kind,
        "levels": list(v.levels),
        "level_patients": v.level_patients,
        "event": v.event or None,
        "n_events": min((v.level_patients[level] for level in events if level in v.level_patients), default=None),
        "n_missing": v.n_missing,
        "constant_within_patients": constant,
        "probe": "ridge",
        "saturated": saturated,
        "missing": _missing_row(vectors, v, patients, settings),
        "few_labels": curve,
        "r2": number(estimate.r2),
        **{name: _score_row(estimate.secondary.get(name)) for name in settings.others},
        **estimate_row(estimate, " ".join(notes)),
    }
    return row, estimate.refitted * float(np.sqrt(max(estimate.n_patients, 1)))


def _missing_row(
    vectors: NDArray[np.floating], v: ProbeVariable, patients: Patients, settings: AuditSettings
) -> dict[str, Any] | None:
    """Which patients lack a value, and whether the vectors predict it; None where none is missing."""
    if not v.n_missing:
        return None
    lacks = v.missing
    row = {"n_images": v.n_missing, "n_patients": patients.count(lacks)}
    if min(row["n_patients"], patients.count(~lacks)) < MIN_PATIENTS:
        return {**estimate_row(Estimate("auroc", 0.5, len(lacks), patients.n_patients)), **row,
                "note": "too few patients with or without a value to test whether missingness can be predicted "
                f"({MIN_PATIENTS} needed)."}  # fmt: skip
    target = Target(lacks.astype(np.int64), 2)
    return {**estimate_row(settings.probe(vectors, target, patients, f"missing {v.name}")), **row}


def _score_row(scored: tuple[float, float, float] | None) -> dict[str, float | None] | None:
    return None if scored is None else dict(zip(("score", "ci_low", "ci_high"), map(number, scored), strict=True))
