"""The event of a two-level variable: one rule, and the choices that must be reported."""

from __future__ import annotations

import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.statistics.event_level import EventLevel, event_level


@pytest.mark.parametrize(
    ("patients", "level", "rule"),
    [
        ({"benign": 20, "malignant": 40}, "malignant", "word"),
        ({"Yes": 90, "No": 10}, "Yes", "word"),
        ({"0": 10, "1": 90}, "1", "word"),
        ({"True": 90, "False": 10}, "True", "word"),
        ({"0": 10, "2": 90}, "2", "larger number"),
        ({"9": 10, "10": 90}, "10", "larger number"),
        ({"present": 5, "positive": 9}, "present", "rarer level"),  # both are words, so neither decides
        ({"left": 9, "right": 5}, "right", "rarer level"),
        ({"left": 5, "right": 9}, "left", "rarer level"),
        ({"right": 7, "left": 7}, "right", "last in the alphabet"),
    ],
)
def test_the_rule(patients: dict[str, int], level: str, rule: str) -> None:
    found = event_level(patients, "x")
    assert (found.level, found.rule) == (level, rule)
    assert event_level(dict(reversed(patients.items())), "x") == found


def test_only_a_choice_that_nothing_else_made_is_reported() -> None:
    assert event_level({"benign": 2, "other": 9}, "diagnosis").sentence("diagnosis", " in study.yaml") == (
        "`diagnosis`: `benign` is treated as the event because it is the rarer level; set `positive` in study.yaml "
        "to choose."
    )
    assert "equally many patients" in event_level({"a": 9, "b": 9}, "x").sentence("x")
    assert event_level({"no": 2, "yes": 9}, "x").sentence("x") == ""
    assert event_level({"a": 2, "b": 9}, "x", "b").sentence("x") == ""


@pytest.mark.parametrize(
    ("positive", "levels", "level"),
    [
        ("benign", ("benign", "malignant"), "benign"),
        ("Benign ", ("benign", "malignant"), "benign"),
        ("0", ("0", "1"), "0"),
        ("0", ("0.0", "1.0"), "0.0"),
        ("false", ("no", "yes"), "no"),  # YAML's `no`
        ("true", ("False", "True"), "True"),
    ],
)
def test_a_declared_level_overrides(positive: str, levels: tuple[str, str], level: str) -> None:
    assert event_level(dict.fromkeys(levels, 10), "x", positive) == EventLevel(level, "positive")


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"`x`: no level `c`, which `positive` names; the levels are `a`, `b`"):
        event_level({"a": 3, "b": 4}, "x", "c")


def test_a_part_of_the_patients_keeps_the_event_of_all() -> None:
    of_all = event_level({"left": 9, "right": 5}, "side")
    assert event_level({"left": 2, "right": 4}, "side", of_all) == of_all
