"""No patient is ever on two sides, and adding patients moves nobody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.errors import UserError
from cohort.splits import assign_splits, research_ids


@given(
    patients=st.lists(st.integers(0, 40).map(lambda n: f"p{n}"), min_size=1, max_size=120),
    test=st.floats(0, 0.9),
    seed=st.integers(0, 10_000),
    external=st.booleans(),
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=300, deadline=None)
def test_no_patient_stands_on_two_sides(patients, test, seed, external, random) -> None:  # type: ignore[no-untyped-def]
    sites = [random.choice("abc") for _ in patients]
    held_out = {"site": (sites, ["c"])} if external else None
    sides = assign_splits(patients, test=test, seed=seed, external=held_out)
    of_patient: dict[str, set[str]] = {}
    for patient, side in zip(patients, sides, strict=True):
        of_patient.setdefault(patient, set()).add(side)
    assert all(len(found) == 1 for found in of_patient.values())
    if external:
        touched = {p for p, site in zip(patients, sites, strict=True) if site == "c"}
        assert {p for p, found in of_patient.items() if found == {"external"}} == touched


@given(st.integers(1, 200), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_adding_patients_moves_nobody(n: int, seed: int) -> None:
    many = [f"p{i}" for i in range(n + 50)]
    before = assign_splits(many[:n], test=0.2, seed=seed)
    assert assign_splits(many, test=0.2, seed=seed)[:n] == before


def test_share_is_about_what_was_asked() -> None:
    sides = np.array(assign_splits([f"p{i}" for i in range(20_000)], test=0.2, seed=0))
    assert abs((sides == "test").mean() - 0.2) < 0.01


def test_column_decides_and_may_not_tear_a_patient() -> None:
    assert assign_splits(["a", "a", "b"], test=0.5, seed=0, column=["Train", "train", "test"]) == [
        "train",
        "train",
        "test",
    ]
    with pytest.raises(UserError, match="split column `fold`: puts 1 patient\\(s\\) on two sides"):
        assign_splits(["a", "a"], test=0.5, seed=0, column=["train", "test"], column_name="fold")
    with pytest.raises(UserError, match="split column `fold`: has `5`; only train, test, external are known"):
        assign_splits(["a"], test=0.5, seed=0, column=[5], column_name="fold")


def test_research_ids_are_unique_and_tell_nothing_of_order() -> None:
    names = research_ids([f"{i:04d}" for i in range(500)], seed=0)
    assert len(set(names.values())) == 500
    assert set(names.values()) == {f"P{i:04d}" for i in range(1, 501)}
    ranks = [int(names[f"{i:04d}"][1:]) for i in range(500)]
    assert abs(np.corrcoef(ranks, range(500))[0, 1]) < 0.15
