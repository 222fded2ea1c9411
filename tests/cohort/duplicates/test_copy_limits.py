"""A pair is a copy only far outside what pairs of different patients reach."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cohort.duplicates.copy_limits import MIN_AGREEMENT, MIN_NULL, MIN_QUESTION, copy_limits


def drawn(mean: float, spread: float, n: int, seed: int = 0) -> list[float]:
    return np.tanh(np.random.default_rng(seed).normal(np.arctanh(mean), spread, n)).tolist()


def test_without_a_null_distribution_the_fixed_limit_holds() -> None:
    limits = copy_limits(drawn(0.1, 0.1, MIN_NULL - 1), 1_000)
    assert (limits.copy, limits.n_null) == (MIN_AGREEMENT, 0)
    assert limits.verdict(MIN_AGREEMENT) == "copy"
    assert limits.verdict(MIN_AGREEMENT - 0.01) == "question"
    assert limits.verdict(MIN_QUESTION - 0.01) == "different"


def test_images_that_have_nothing_in_common_need_the_fixed_limit_only() -> None:
    limits = copy_limits(drawn(0.05, 0.1, 300), 10_000)
    assert limits.copy == MIN_AGREEMENT
    assert limits.verdict(0.9) == "question", "far outside the null distribution, but not as alike as copies"
    assert limits.verdict(MIN_QUESTION - 0.01) == "different"


@pytest.mark.parametrize("n", [1_000, 100_000])
def test_alike_images_raise_the_limit_and_no_pair_of_them_passes_it(n: int) -> None:
    limits = copy_limits(drawn(0.85, 0.15, 300), n)
    assert limits.copy > MIN_AGREEMENT
    assert limits.verdict(0.951) == "question"
    assert limits.verdict(0.94) == "different", "usual in this study"
    assert limits.verdict(0.99) == "copy"
    assert sum(value >= limits.copy for value in drawn(0.85, 0.15, n, seed=1)) == 0


def test_false_copies_are_as_rare_as_stated() -> None:
    """1,000 studies of 1,000 pairs: 0.01 false copies are expected in each; 300 pairs give the limit roughly."""
    wrong = 0
    for study in range(1_000):
        limit = copy_limits(drawn(0.85, 0.2, 300, seed=2 * study), 1_000).copy
        wrong += sum(value >= limit for value in drawn(0.85, 0.2, 1_000, seed=2 * study + 1))
    assert wrong <= 40


def test_copies_in_the_null_distribution_change_little() -> None:
    """A logo that many patients share would otherwise hide all copies."""
    clean = drawn(0.85, 0.15, 300)
    assert copy_limits([*clean, *[0.995] * 300], 1_000) == copy_limits(clean, 1_000)
    mixed = [*clean[:285], *[0.97] * 15]
    assert copy_limits(mixed, 1_000).copy == pytest.approx(copy_limits(clean, 1_000).copy, abs=0.01)
