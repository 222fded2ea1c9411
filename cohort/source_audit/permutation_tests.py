"""Tests of the source audit: two columns, each patient counting once, and how a test reads in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pellucid.cohort.source_audit.columns import Column
from pellucid.cohort.statistics.association import MIN_PATIENTS, PERMUTATIONS, associate
from pellucid.cohort.statistics.patient_resampling import Patients

__all__ = ["ALPHA", "MIN_PATIENTS", "PERMUTATIONS", "compare", "describe_test", "far_apart", "is_significant"]

ALPHA = 0.05
MEASURES = {"cramers_v": "Cramér's V", "eta_squared": "η²", "spearman": "Spearman's ρ"}


def compare(left: Column, right: Column, patients: Patients) -> dict[str, Any]:
    """Are two columns associated?

    Returns:
        measure ("" if not tested), value, p_value (None if not tested), n_patients who have both, note (why not).
    """
    found = associate(left.values, left.levels, right.values, right.levels, patients)
    content = dict(vars(found))
    tested = content.pop("n_patients_tested")
    return content if tested is None else content | {"n_patients_tested": tested}


def is_significant(test: dict[str, Any]) -> bool:
    """Whether a tested association is significant: q ≤ 0.05 in its family."""
    return test.get("q_value") is not None and test["q_value"] <= ALPHA


def describe_test(test: dict[str, Any]) -> str:
    """The numbers of a judged test for a sentence: `Cramér's V 0.58, q = 0.002, 240 patients`."""
    q = "q < 0.001" if test["q_value"] < 0.001 else f"q = {test['q_value']:.3f}"
    return f"{MEASURES[test['measure']]} {abs(test['value']):.2f}, {q}, {test['n_patients']} patients"


def far_apart(
    levels: Sequence[dict[str, Any]], key: str, printed: Callable[[float], str]
) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The levels with the highest and the lowest number, each (level, number as printed), to name in a sentence.

    None where fewer than two levels have 10 patients, or where the two numbers would be printed alike.
    """
    enough = sorted((level for level in levels if level["patients"] >= MIN_PATIENTS), key=lambda level: level[key])
    if len(enough) < 2:
        return None
    low, high = ((level["level"], printed(level[key])) for level in (enough[0], enough[-1]))
    return (high, low) if high[1] != low[1] else None
