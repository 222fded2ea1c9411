"""Sampling: exact shares of patients and devices, each image in its turn, and no dependence on anything but seed and
slot."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.cohort.errors import UserError
from pellucid.pretrain.data.sampling import Sampler, new_sampler, permuted, sampling_levels, splitmix64

PATIENTS = np.repeat(np.arange(6), [1, 2, 3, 5, 8, 40])
DEVICES = np.where(PATIENTS < 2, "a", "b")  # two patients with a, four with b


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    seed=st.integers(0, 9),
    cycles=st.integers(1, 4),
)
def test_each_patient_comes_once_per_cycle_and_each_image_once_per_cycle_of_its_patient(
    patients: list[int], seed: int, cycles: int
) -> None:
    of_image = np.array(patients)
    known = np.unique(of_image)
    largest = int(np.bincount(of_image).max())
    seen = Sampler(len(patients), seed, of_image).slots(0, len(known) * largest * cycles)
    for cycle in seen.reshape(-1, len(known)):
        assert sorted(of_image[cycle]) == known.tolist()
    for patient in known:
        own = np.flatnonzero(of_image == patient)
        visits = seen[of_image[seen] == patient]
        whole = visits[: len(visits) // len(own) * len(own)].reshape(-1, len(own))
        assert all(sorted(turn) == own.tolist() for turn in whole)


def test_devices_come_equally_often_then_patients_within_them_then_images() -> None:
    sampler = Sampler(len(PATIENTS), 1, DEVICES, PATIENTS)
    seen = sampler.slots(0, 2 * 4 * 2 * 40)
    assert all(sorted(DEVICES[pair]) == ["a", "b"] for pair in seen.reshape(-1, 2))
    counts = np.bincount(PATIENTS[seen])
    assert counts.tolist() == [160, 160, 80, 80, 80, 80]
    assert np.bincount(seen)[PATIENTS == 5].tolist() == [2] * 40
    assert sampler.passes(640) == pytest.approx((2, 160))


def test_a_patient_imaged_with_two_devices_is_shared_between_them() -> None:
    patients, devices = np.array([0, 0, 0, 1]), np.array(["a", "b", "b", "b"])
    seen = Sampler(4, 0, devices, patients).slots(0, 80)
    assert np.bincount(seen).tolist() == [40, 10, 10, 20]


@pytest.mark.parametrize("levels", [(), (PATIENTS,), (DEVICES, PATIENTS)])
def test_a_slot_holds_the_same_image_however_it_is_asked_for(levels: tuple[np.ndarray, ...]) -> None:
    sampler = Sampler(len(PATIENTS), 4, *levels)
    whole = sampler.slots(0, 300)
    assert np.array_equal(Sampler(len(PATIENTS), 4, *levels).slots(123, 300), whole[123:])  # resumed
    assert np.array_equal(np.concatenate([sampler.batch(7, step) for step in range(40)]), whole[:280])
    assert not np.array_equal(Sampler(len(PATIENTS), 5, *levels).slots(0, 300), whole)


def test_orders_differ_between_cycles_and_between_patients() -> None:
    patients = np.repeat(np.arange(3), 12)
    seen = Sampler(36, 0, patients).slots(0, 36 * 40)
    orders = [tuple(seen[patients[seen] == p][c * 12 : (c + 1) * 12] - p * 12) for p in range(3) for c in range(40)]
    assert len(set(orders)) == 120
    turns = {tuple(patients[turn]) for turn in seen.reshape(-1, 3)}
    assert len(turns) == math.factorial(3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_every_permutation_of_few_is_as_likely_as_any_other(n: int) -> None:
    m = 24_000
    keys = splitmix64(np.arange(m, dtype=np.uint64))
    drawn = np.stack([permuted(np.full(m, i), np.full(m, n), keys) for i in range(n)], axis=1)
    counts = pd.Series(map(tuple, drawn)).value_counts()
    assert set(counts.index) == set(permutations(range(n)))
    expected = m / math.factorial(n)
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    freedom = math.factorial(n) - 1
    assert chi_squared < freedom + 5 * math.sqrt(2 * freedom) + 1e-9


@pytest.mark.parametrize("n", [6, 100, 1000, 20_011])
def test_permutations_of_many_hit_each_once_and_leave_no_trace_of_the_order(n: int) -> None:
    place = np.arange(n)
    drawn = permuted(place, np.full(n, n), np.full(n, splitmix64(np.array([n], np.uint64))[0]))
    assert np.array_equal(np.sort(drawn), place)
    if n >= 100:
        assert abs(np.corrcoef(place, drawn)[0, 1]) < 5 / math.sqrt(n)
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / math.sqrt(n)


def test_levels_are_read_from_the_setting_and_mistakes_are_named() -> None:
    assert sampling_levels("image", ["device"]) == []
    assert sampling_levels("patient", []) == ["patient"]
    assert sampling_levels("patient+device", ["device", "year"]) == ["device", "patient"]
    for sampling, message in [
        ("patients", r"`sampling: patients`; did you mean `patient`\?; there are: image, patient, patient\+FACTOR"),
        ("patient+", r"`` is not an acquisition factor of this study; there are: device, year"),
        ("patient+devise", r"`devise` is not an acquisition factor of this study; did you mean `device`\?"),
        ("image+device", r"there are: image, patient, patient\+FACTOR"),
    ]:
        with pytest.raises(UserError, match=message):
            sampling_levels(sampling, ["device", "year"])
    with pytest.raises(UserError, match="the study names none"):
        sampling_levels("patient+device", [])


def test_a_missing_factor_is_one_more_level() -> None:
    frame = pd.DataFrame({"patient": ["p", "q", "r"], "device": ["a", None, np.nan]})
    seen = new_sampler(frame, ["device", "patient"], 0).slots(0, 40)
    assert np.bincount(seen).tolist() == [20, 10, 10]
    assert np.array_equal(new_sampler(frame, [], 0).slots(0, 9), Sampler(3, 0).slots(0, 9))
