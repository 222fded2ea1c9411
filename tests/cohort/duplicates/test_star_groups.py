"""Copies form groups around one image; what is only alike does not chain."""

from __future__ import annotations

import itertools

import numpy as np

from pellucid.cohort.duplicates.star_groups import StarGroups


def test_a_chain_of_neighbours_is_not_one_group() -> None:
    """Frames of a video: each is a copy of the next, and of none farther away."""
    stars = StarGroups(lambda i, j: abs(i - j) <= 1)
    for i in range(20):
        stars.join(i, i + 1)
    groups = stars.stars()
    assert len(groups) >= 7
    assert all(abs(member - first) <= 1 for first, group in groups.items() for member in group)


def test_copies_of_one_image_are_one_group_in_any_order() -> None:
    family = {0, 3, 4, 7, 9}
    pairs = list(itertools.combinations(sorted(family), 2))
    for seed in range(10):
        stars = StarGroups(lambda i, j: {i, j} <= family)
        for k in np.random.default_rng(seed).permutation(len(pairs)):
            if not stars.settled(*pairs[k]):
                assert stars.join(*pairs[k])
        assert {first: set(group) for first, group in stars.stars().items()} == {0: family}


def test_groups_that_do_not_fit_are_not_compared_again() -> None:
    asked: list[tuple[int, int]] = []

    def is_copy(i: int, j: int) -> bool:
        asked.append((i, j))
        return False

    stars = StarGroups(is_copy)
    assert stars.join(0, 1)
    assert not stars.join(1, 2), "2 is a copy of 1, and not of the first image of 1's group"
    assert stars.settled(1, 2)
    assert asked == [(0, 2)]
