"""Tokens of an image → one vector: class token, mean of the patches, both, or generalised mean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "cls+mean", "gem", "model"]

GEM_P = 3


def pool_tokens(tokens: Tensor, pooling: Pooling, n_prefix: int) -> list[Tensor]:
    """The pooled vectors of one block's output.

    Args:
        tokens: (n, n_prefix + patches, width): class token (if any), registers, patches.
        pooling: any but `model`, which the network itself computes.
        n_prefix: number of tokens before the patches.

    Returns:
        One (n, width) float32 tensor, or two for `cls+mean` (as in the linear evaluation of DINOv2; Oquab et al. 2023,
        appendix B.3).
    """
    tokens = tokens.float()  # avoids rounding the mean of many bfloat16 numbers
    patches = tokens[:, n_prefix:]
    if pooling == "cls":
        return [tokens[:, 0]]
    if pooling == "mean":
        return [patches.mean(dim=1)]
    if pooling == "cls+mean":
        return [tokens[:, 0], patches.mean(dim=1)]
    if pooling == "gem":
        return [gem(patches)]
    raise ValueError(f"pooling `{pooling}` cannot be computed from tokens alone")


def gem(patches: Tensor) -> Tensor:
    """(n, patches, width) → (n, width): the generalised mean (mean x³)^⅓ (Radenović et al. 2019, equation 3, p = 3).

    In the paper it follows a ReLU, so values are non-negative. Tokens of a Vision Transformer are signed. Clamping them
    at zero, as is often done, discards information: a channel that is negative everywhere would be zero for every
    image. An odd power needs no clamp, because the cube and the real cube root keep the sign. For non-negative values
    this equals the paper's formula. The function is odd: gem(−x) = −gem(x).
    """
    mean = patches.float().pow(GEM_P).mean(dim=1)
    return mean.sign() * mean.abs().pow(1 / GEM_P)


def concatenated(parts: list[Tensor]) -> Tensor:
    """(n, a), (n, b), … → (n, a + b + …)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
