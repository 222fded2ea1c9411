"""Effective rank and feature spread in cases whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.health import effective_rank, feature_std


@pytest.mark.parametrize("k", [1, 3, 8])
def test_effective_rank_counts_equal_directions(k: int) -> None:
    assert effective_rank(torch.eye(8)[torch.arange(64) % k]) == pytest.approx(k, rel=1e-3)


def test_effective_rank_is_roy_and_vetterlis() -> None:
    s = torch.tensor([4.0, 2.0, 1.0, 1.0])
    q = s / s.sum()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    assert effective_rank(torch.diag(s) @ rotation[:4]) == pytest.approx(math.exp(-(q * q.log()).sum()), rel=1e-4)


def test_feature_std_is_one_over_root_d_on_the_sphere_and_zero_after_collapse() -> None:
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert feature_std(x) == pytest.approx(1 / math.sqrt(16), rel=0.01)
    assert feature_std(x[:1].expand(50, -1)) == pytest.approx(0, abs=1e-12)
