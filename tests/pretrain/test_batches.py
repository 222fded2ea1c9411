"""Batches: a function of seed and step alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.prepared import PreparedImages
from pretrain.batches import Batches, batch_indices, step_seed


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_each_image_comes_once_per_epoch(n: int, batch: int, seed: int) -> None:
    steps = -(-3 * n // batch)
    seen = np.concatenate([batch_indices(n, batch, seed, step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_order_differs_between_epochs_and_seeds() -> None:
    first = batch_indices(50, 50, 0, 0)
    assert not np.array_equal(first, batch_indices(50, 50, 0, 1))
    assert not np.array_equal(first, batch_indices(50, 50, 1, 0))
    assert np.array_equal(first, batch_indices(50, 50, 0, 0))


def test_step_seeds_do_not_meet() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(3)}
    assert max(Counter(seeds).values()) == 1
    assert len(seeds) == 750


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_the_same_batches_for_any_workers_cache_start_and_share(
    cohort: Callable[..., Any], tiny: dict[str, Any], cache_gb: float
) -> None:
    _, scan = cohort(tiny["mae"])
    images = PreparedImages.open(scan.path)
    common = {"source_px": 24, "batch_size": 8, "seed": 0}
    plain = Batches(images, rows=slice(0, 8), workers=1, cache_gb=0, **common)
    other = Batches(images, rows=slice(0, 8), workers=3, cache_gb=cache_gb, **common)
    half = Batches(images, rows=slice(4, 8), workers=2, cache_gb=cache_gb, **common)
    expected = [batch.clone() for batch in plain.stream(0, 10)]
    assert len(expected) == 10
    assert expected[0].shape == (8, 24, 24, 3)
    for _ in range(2):  # the second time from the cache
        assert all(map(torch.equal, other.stream(3, 10), expected[3:]))
    assert all(torch.equal(a, b[4:]) for a, b in zip(half.stream(0, 10), expected, strict=True))
    row = int(batch_indices(len(images), 8, 0, 0)[2])
    assert np.array_equal(expected[0][2].numpy(), images.square(row, 24))
