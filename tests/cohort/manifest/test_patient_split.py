"""No patient and no bound unit is ever on two sides, and adding to a study moves as few as docs/splits.md promises."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.patient_split import assign_splits, strata_of, unit_levels, units_of
from pellucid.cohort.manifest.research_ids import hash_share, research_ids


@given(
    patients=st.lists(st.integers(0, 40).map(lambda n: f"p{n}"), min_size=1, max_size=120),
    test=st.floats(0, 0.9),
    seed=st.integers(0, 10_000),
    external=st.booleans(),
    stratified=st.booleans(),
    bound=st.lists(st.lists(st.integers(0, 45).map(lambda n: f"p{n}"), min_size=2, max_size=4), max_size=6),
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=120, deadline=None)
def test_no_unit_stands_on_two_sides(patients, test, seed, external, stratified, bound, random) -> None:  # type: ignore[no-untyped-def]
    sites = [random.choice("abc") for _ in patients]
    held_out = {"site": (sites, ["c"])} if external else None
    strata = {"site": sites} if stratified else None
    sides = assign_splits(patients, test=test, seed=seed, external=held_out, bound=bound, stratify=strata)
    units = units_of(patients, bound)
    of_unit: dict[str, set[str]] = {}
    for patient, side in zip(patients, sides, strict=True):
        of_unit.setdefault(units[patient], set()).add(side)
    assert all(len(found) == 1 for found in of_unit.values())
    for group in bound:
        assert len({units[p] for p in group if p in units}) <= 1
    if external:
        touched = {units[p] for p, site in zip(patients, sites, strict=True) if site == "c"}
        assert {unit for unit, found in of_unit.items() if found == {"external"}} == touched


def test_a_share_too_small_for_any_stratum_pools_all() -> None:
    assert set(strata([("y", "a"), ("n", "b")], 5e-324).values()) == {("*",)}
    assert stratified([("y", "a"), ("n", "b")], 0, 0) == ["train", "train"]


@given(st.integers(1, 200), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_adding_patients_moves_nobody(n: int, seed: int) -> None:
    many = [f"p{i}" for i in range(n + 50)]
    before = assign_splits(many[:n], test=0.2, seed=seed)
    assert assign_splits(many, test=0.2, seed=seed)[:n] == before


levels = st.lists(st.tuples(st.sampled_from("yn"), st.sampled_from("abcde")), min_size=1, max_size=60)


def stratified(known: list[tuple[str, str]], test: float, seed: int) -> list[str]:
    patients = [f"p{i}" for i in range(len(known))]
    values = {"outcome": [k[0] for k in known], "device": [k[1] for k in known]}
    return assign_splits(patients, test=test, seed=seed, stratify=values)


def strata(known: list[tuple[str, str]], test: float) -> dict[str, tuple[str, ...]]:
    patients = [f"p{i}" for i in range(len(known))]
    return strata_of(patients, {"outcome": [k[0] for k in known], "device": [k[1] for k in known]}, test)


@given(levels, st.tuples(st.sampled_from("yn"), st.sampled_from("abcde")), st.floats(0.05, 0.5), st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_one_more_patient_moves_at_most_one_other_of_the_same_stratum(known, new, test, seed) -> None:  # type: ignore[no-untyped-def]
    more = [*known, new]
    before, after = stratified(known, test, seed), stratified(more, test, seed)
    old, now = strata(known, test), strata(more, test)
    moved = [f"p{i}" for i in range(len(known)) if before[i] != after[i]]
    if all(now[patient] == old[patient] for patient in old):  # no stratum became large enough to stand alone
        assert len(moved) <= 1
        assert all(now[patient] == now[f"p{len(known)}"] for patient in moved)
    else:  # only the stratum that now stands alone, and the pools it left, may be dealt anew
        touched = {now[p] for p in old if now[p] != old[p]} | {old[p] for p in old if now[p] != old[p]}
        assert all(now[p] in touched | {now[f"p{len(known)}"]} for p in moved)


@given(levels, st.integers(0, 999), st.lists(st.integers(0, 10_000), max_size=30))
@settings(max_examples=100, deadline=None)
def test_more_images_of_known_patients_move_nobody(known, seed, again) -> None:  # type: ignore[no-untyped-def]
    n = len(known)
    rows = [*range(n), *(i % n for i in again)]
    values = {"outcome": [known[i][0] for i in rows], "device": [known[i][1] for i in rows]}
    sides = assign_splits([f"p{i}" for i in rows], test=0.2, seed=seed, stratify=values)
    assert sides[:n] == stratified(known, 0.2, seed)


def test_share_is_about_what_was_asked() -> None:
    sides = np.array(assign_splits([f"p{i}" for i in range(20_000)], test=0.2, seed=0))
    assert abs((sides == "test").mean() - 0.2) < 0.01


def test_stratified_share_is_met_within_every_stratum() -> None:
    rng = np.random.default_rng(0)
    known = [
        (str(o), str(d))
        for o, d in zip(rng.choice(["y", "n"], 600, p=[0.2, 0.8]), rng.choice(list("abcde"), 600), strict=True)
    ]
    sides, of = stratified(known, 0.2, 0), strata(known, 0.2)
    for stratum in set(of.values()):
        members = [i for i in range(600) if of[f"p{i}"] == stratum]
        n_test = sum(sides[i] == "test" for i in members)
        assert math.floor(0.2 * len(members)) <= n_test <= math.floor(0.2 * len(members)) + 1
    hashed = assign_splits([f"p{i}" for i in range(600)], test=0.2, seed=0)

    def imbalance(split: list[str]) -> float:
        """Largest distance, over outcomes and devices, of the share in test from a fifth."""
        return max(
            abs(np.mean([split[i] == "test" for i in range(600) if known[i][k] == level]) - 0.2)
            for k in (0, 1)
            for level in {row[k] for row in known}
        )

    assert imbalance(sides) < 0.02 < imbalance(hashed)


def test_many_small_strata_do_not_bias_the_total() -> None:
    """3 patients a stratum and a fifth for test: rounding each to the nearest would give nobody to test."""
    shares = []
    for seed in range(30):
        patients = [f"p{i}" for i in range(300)]
        # Half of them for test, so that strata of two stand alone.
        sides = assign_splits(patients, test=0.45, seed=seed, stratify={"site": [str(i // 3) for i in range(300)]})
        shares.append(np.mean([side == "test" for side in sides]))
    assert abs(np.mean(shares) - 0.45) < 0.015
    assert np.std(shares) < 0.03


def test_small_strata_are_pooled_and_the_first_variable_is_given_up_last() -> None:
    known = [("y", "a")] * 5 + [("y", "b")] * 3 + [("y", "c")] * 3 + [("n", "a")] * 9 + [("m", "a")] * 2
    of = strata(known, 0.2)
    assert [of[f"p{i}"] for i in (0, 5, 8, 11, 20)] == [("y", "a"), ("y", "*"), ("y", "*"), ("n", "a"), ("*",)]


def test_levels_of_a_unit() -> None:
    units = ["u", "u", "u", "v", "v", "w"]
    assert unit_levels(units, ["b", "a", "b", "b", "a", None]) == {"u": "b", "v": "a", "w": "(missing)"}
    ages = [float(v) for v in range(100)]
    quarters = unit_levels([f"u{i}" for i in range(100)], ages)
    assert list(Counter(quarters.values()).items()) == [("Q1", 25), ("Q2", 25), ("Q3", 25), ("Q4", 25)], (
        "in order of age"
    )
    assert unit_levels(["u", "v"], [float("nan"), 3.0]) == {"u": "(missing)", "v": "3"}


def test_patients_bound_by_a_picture_follow_the_one_named_first() -> None:
    patients = [f"p{i:03d}" for i in range(400)]
    plain = assign_splits(patients, test=0.3, seed=1)
    bound = assign_splits(patients, test=0.3, seed=1, bound=[["p007", "p100"], ["p100", "p300"], ["p007", "absent"]])
    assert {bound[7], bound[100], bound[300]} == {plain[7]}
    assert [a for i, a in enumerate(bound) if i not in {100, 300}] == [
        a for i, a in enumerate(plain) if i not in {100, 300}
    ]


def test_a_unit_touched_by_an_external_level_is_held_out_whole() -> None:
    held_out = {"site": (["x", "y", "y"], ["x"])}
    assert assign_splits(["a", "b", "c"], test=0, seed=0, external=held_out, bound=[["a", "b"]]) == [
        "external",
        "external",
        "train",
    ]


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


def test_the_users_column_stands_above_a_shared_picture() -> None:
    sides = assign_splits(["a", "b"], test=0.5, seed=0, column=["train", "test"], bound=[["a", "b"]])
    assert sides == ["train", "test"]


def test_research_ids_are_unique_and_tell_nothing_of_order() -> None:
    names = research_ids([f"{i:04d}" for i in range(500)], seed=0)
    assert len(set(names.values())) == 500
    assert set(names.values()) == {f"P{i:04d}" for i in range(1, 501)}
    ranks = [int(names[f"{i:04d}"][1:]) for i in range(500)]
    assert abs(np.corrcoef(ranks, range(500))[0, 1]) < 0.15


def test_hash_shares_are_spread_evenly() -> None:
    shares = np.sort([hash_share(f"x{i}") for i in range(2000)])
    assert np.abs(shares - np.arange(2000) / 2000).max() < 0.04  # Kolmogorov–Smirnov, p ≈ 0.003
