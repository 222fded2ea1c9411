"""Patients stay whole in folds, bootstrap samples and permutations, over many random cohorts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.cohort.statistics.patient_resampling import (
    PatientPermutations,
    Patients,
    bootstrap_counts,
    deal_folds,
    turn_within_patient,
)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[Patients, np.random.Generator]:
    """Random cohorts of 2–60 patients with 1–12 images each, rows in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_patients = draw(st.integers(2, 60))
    codes = np.repeat(np.arange(n_patients), rng.integers(1, 13, n_patients))
    return Patients.from_ids(np.array([f"P{c:03d}" for c in rng.permutation(codes)])), rng


@settings(max_examples=200, deadline=None)
@given(cohorts(), st.integers(2, 10), st.integers(1, 6))
def test_no_patient_is_ever_on_two_sides_of_a_fold(cohort, n_folds, n_levels):
    patients, rng = cohort
    labels = rng.integers(0, n_levels, len(patients))
    strata = patients.typical(labels)
    folds = deal_folds(strata, n_folds, rng)
    rows = folds[patients.codes]
    for patient in range(patients.n_patients):
        assert len(np.unique(rows[patients.codes == patient])) == 1
    for fold in range(n_folds):
        train, test = patients.codes[rows != fold], patients.codes[rows == fold]
        assert not set(train) & set(test)
    assert np.ptp(np.bincount(folds, minlength=n_folds)) <= 1
    for level in np.unique(strata):
        assert np.ptp(np.bincount(folds[strata == level], minlength=n_folds)) <= 1


@settings(max_examples=100, deadline=None)
@given(cohorts(), st.integers(1, 4), st.booleans(), st.booleans())
def test_permutations_move_whole_patients_within_their_block(cohort, n_blocks, varies, conditional):
    patients, rng = cohort
    block = rng.integers(0, n_blocks, patients.n_patients)
    within = rng.integers(0, 3, len(patients)) if conditional else np.zeros(len(patients), dtype=np.int64)
    per_patient = rng.integers(0, 3, patients.n_patients)
    values = rng.integers(0, 3, len(patients)) if varies else per_patient[patients.codes]
    plan = PatientPermutations.plan(patients, values, block, within)
    for source in np.concatenate(list(plan.draw(7, seed=1, chunk=3))):
        moved = values[source]
        givers = patients.codes[source]
        assert (block[givers] == block[patients.codes]).all()
        for patient in range(patients.n_patients):
            mine = patients.codes == patient
            assert len(set(givers[mine])) == 1  # a whole patient's values, never a mixture of two
            if not plan.varies[patient]:
                assert len(set(moved[mine])) == 1
                continue
            theirs = patients.codes == givers[mine][0]
            for level in np.unique(within):
                assert sorted(moved[mine & (within == level)]) == sorted(values[theirs & (within == level)])


def test_permutations_do_not_depend_on_the_chunk():
    rng = np.random.default_rng(0)
    patients = Patients.from_ids(rng.integers(0, 40, 200).astype(str))
    zeros = np.zeros(len(patients), dtype=np.int64)
    plan = PatientPermutations.plan(patients, rng.integers(0, 2, len(patients)), zeros[: patients.n_patients], zeros)
    whole = np.concatenate(list(plan.draw(20, seed=5, chunk=20)))
    assert np.array_equal(whole, np.concatenate(list(plan.draw(20, seed=5, chunk=3))))


def test_permutations_are_uniform_over_three_patients():
    patients = Patients(np.arange(3), 3)
    zeros = np.zeros(3, dtype=np.int64)
    plan = PatientPermutations.plan(patients, np.array([0, 1, 2]), zeros, zeros)
    drawn = np.concatenate(list(plan.draw(6000, seed=0, chunk=500)))
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 130  # 4.5 standard deviations


def test_a_side_that_every_patient_has_both_of_is_still_permuted():
    patients = Patients(np.repeat(np.arange(30), 2), 30)
    side = np.tile([0, 1], 30)
    zeros = np.zeros(60, dtype=np.int64)
    plan = PatientPermutations.plan(patients, side, zeros[:30], zeros)
    moved = side[np.concatenate(list(plan.draw(50, seed=0, chunk=50)))]
    assert (moved.reshape(50, 30, 2).sum(axis=2) == 1).all()
    assert 0.3 < (moved != side).mean() < 0.7


def test_every_patient_weighs_one():
    patients = Patients.from_ids(np.array(["b", "a", "a", "a"]))
    assert np.allclose(np.bincount(patients.codes, patients.weights), 1.0)
    assert patients.codes.tolist() == [1, 0, 0, 0]


def test_typical_level_prefers_the_rarer_on_a_tie():
    patients = Patients(np.array([0, 0, 1, 2, 3]), 4)
    assert patients.typical(np.array([0, 1, 0, 0, 0])).tolist() == [1, 0, 0, 0]


def test_bootstrap_draws_as_many_patients_as_there_are():
    counts = bootstrap_counts(37, 50, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 37).all()
    assert counts.mean() == pytest.approx(1.0)


@settings(max_examples=50, deadline=None)
@given(cohorts())
def test_the_first_image_of_every_patient_comes_before_the_second_of_any(cohort):
    patients, rng = cohort
    order = rng.permutation(len(patients))
    turn = turn_within_patient(patients.codes, order)
    assert (turn[order[np.unique(patients.codes[order], return_index=True)[1]]] == 0).all()
    for patient in range(patients.n_patients):
        rows = order[patients.codes[order] == patient]
        assert turn[rows].tolist() == list(range(len(rows)))
