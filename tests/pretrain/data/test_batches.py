"""Batches: a function of seed and step alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.pretrain.data.batches import AHEAD, Batches, PinnedBuffers, batch_indices, step_seed


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_each_image_comes_once_per_epoch(n: int, batch: int, seed: int) -> None:
    steps = -(-3 * n // batch)
    seen = np.concatenate([batch_indices(n, batch, seed, step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_the_order_of_images_is_that_of_the_first_release() -> None:
    """Runs that were begun with it must go on in it."""
    assert batch_indices(7, 5, 3, 1).tolist() == [5, 4, 6, 3, 0]


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


def test_a_copy_that_cannot_be_decoded_is_named(cohort: Callable[..., Any], tiny: dict[str, Any]) -> None:
    _, scan = cohort(tiny["mae"])
    images = PreparedImages.open(scan.path)
    encoded = images.encoded
    images.encoded = lambda i: encoded(i)[:100] if i == 5 else encoded(i)  # type: ignore[method-assign]
    batches = Batches(images, source_px=24, batch_size=8, seed=0, rows=slice(0, 8), workers=2, cache_gb=0)
    with pytest.raises(UserError, match=r"the prepared copy of train/005.jpg cannot be read .* scan again"):
        list(batches.stream(0, 10))


class Event:
    """Stands in for a CUDA event: says what was asked of it."""

    log: ClassVar[list[str]] = []

    def record(self) -> None:
        self.log.append("record")

    def synchronize(self) -> None:
        self.log.append("wait")


def test_pinned_buffers_are_few_and_are_waited_for_before_they_are_filled_again() -> None:
    Event.log.clear()
    buffers = PinnedBuffers((2, 4), lambda shape: torch.empty(shape, dtype=torch.uint8), Event)  # type: ignore[arg-type]
    taken = []
    for step in range(10):  # as `stream` does: AHEAD of what the consumer has in hand
        taken.append(buffers.next())
        if step >= AHEAD:
            buffers.used(taken[step - AHEAD])
    assert len({id(buffer) for buffer in taken}) == AHEAD + 2
    assert all(taken[i] is taken[i + AHEAD + 2] for i in range(10 - AHEAD - 2))
    assert Event.log[:2] == ["record", "record"]  # the first four were never used before
    assert Event.log.count("wait") == 10 - AHEAD - 2


@pytest.mark.gpu
def test_pinned_batches_are_the_plain_ones_however_late_the_copy(cohort: Callable[..., Any], tiny: Any) -> None:
    _, scan = cohort(tiny["mae"])
    images = PreparedImages.open(scan.path)
    batches = Batches(images, source_px=24, batch_size=8, seed=0, rows=slice(0, 8), workers=2, cache_gb=1)
    plain = [batch.clone() for batch in batches.stream(0, 12)]
    copies = []
    for batch in batches.stream(0, 12, pin=True):
        assert batch.is_pinned()
        torch.cuda._sleep(20_000_000)  # the copy comes long after the next batch was asked for
        copies.append(batch.to("cuda", non_blocking=True))
    assert all(torch.equal(a, b.cpu()) for a, b in zip(plain, copies, strict=True))
