"""SIGReg: distance of embeddings from an isotropic Gaussian along random directions; LeJEPA's only protection from
collapse.

- [0]: Balestriero & LeCun, LeJEPA, 2025, sections 4.2 and 4.3, https://arxiv.org/abs/2511.08544
- [1]: Epps & Pulley, A test for normality based on the empirical characteristic function, Biometrika 1983

Shapes: v views of n images each, d dimensions, m directions, q knots of the quadrature.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.pretrain.distributed.collectives import total

_DIRECTIONS = 8  # separates these random numbers from those of batches and views


def random_directions(seed: int, step: int, dim: int, count: int) -> Tensor:
    """(dim, count) float32 unit columns, uniform on the sphere, new at each step and equal in all processes ([0],
    4.3)."""
    words = np.random.SeedSequence([_DIRECTIONS, seed, step]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
    directions = torch.randn((dim, count), generator=generator)
    unit: Tensor = directions / directions.norm(dim=0)
    return unit


def sigreg(projections: Tensor, directions: Tensor, *, knots: int, t_max: float) -> Tensor:
    """The Epps–Pulley statistic, averaged over directions and views; (v, n, d) and (d, m) → scalar, float32.

        T = N · ∫ |φ_N(t) − exp(−t²/2)|² exp(−t²/2) dt over [−t_max, t_max],  φ_N(t) = mean over images of exp(i t aᵀz)

    by the trapezoidal rule ([0], section 4.2; [1]). N and φ_N are over the images of all processes, so that the
    number of processes does not change T. The integrand is even, so that `knots` points in [0, t_max] suffice. T does
    not decrease with N under the null hypothesis, and increases with N otherwise.
    """
    with torch.autocast(projections.device.type, enabled=False):
        x = projections.float() @ directions.to(projections.device)  # (v, n, m)
        t = torch.linspace(0, t_max, knots, device=x.device)
        gaussian = torch.exp(-t.square() / 2)
        sums: Tensor = CharacteristicSums.apply(x, t_max / (knots - 1), knots)
        count = total(x.new_tensor(float(x.shape[1])))
        real, imaginary = total(sums) / count  # (v, m, q) each
        error = ((real - gaussian).square() + imaginary.square()) * gaussian
        statistic: Tensor = 2 * count * torch.trapezoid(error, t, dim=2).mean()
        return statistic


class CharacteristicSums(torch.autograd.Function):
    """Σ over images of cos(t_j x) and of sin(t_j x) at t_j = 0, δ, 2δ …; (v, n, m), δ, q → (2, v, m, q).

    exp(i t_j x) is the j-th power of exp(i δ x): one cosine and one sine instead of q of each. The backward pass
    recomputes the powers, so that (v, n, m) numbers are stored instead of (v, n, m, q).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: float, knots: int) -> Tensor:
        cos, sin = (x * delta).cos(), (x * delta).sin()
        ctx.save_for_backward(cos, sin)
        ctx.delta = delta
        sums = x.new_empty((2, x.shape[0], x.shape[2], knots))
        for j, (real, imaginary) in enumerate(_powers(cos, sin, knots)):
            sums[0, ..., j], sums[1, ..., j] = real.sum(dim=1), imaginary.sum(dim=1)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (cos, sin), (by_real, by_imaginary) = ctx.saved_tensors, gradients[0]
        gradient = torch.zeros_like(cos)
        for j, (real, imaginary) in enumerate(_powers(cos, sin, gradients[0].shape[-1])):
            t = j * ctx.delta
            gradient.addcmul_(imaginary, by_real[:, None, :, j], value=-t)
            gradient.addcmul_(real, by_imaginary[:, None, :, j], value=t)
        return gradient, None, None


def _powers(cos: Tensor, sin: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Real and imaginary part of (cos + i sin)^j for j = 0 … count − 1."""
    real, imaginary = torch.ones_like(cos), torch.zeros_like(sin)
    for _ in range(count):
        yield real, imaginary
        real, imaginary = real * cos - imaginary * sin, real * sin + imaginary * cos
