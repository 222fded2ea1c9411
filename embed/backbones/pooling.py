"""How the tokens of an image become one vector: class token, mean of the patches, both, or generalised mean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "cls+mean", "gem", "model"]

GEM_P = 3


def pool_tokens(tokens: Tensor, pooling: Pooling, n_prefix: int) -> list[Tensor]:
    """The pooled vectors of one block's output.

    Args:
        tokens: (n, n_prefix + patches, width): class token first where there is one, then registers, then the patches.
        pooling: anything but `model`, which is the network's own affair.
        n_prefix: tokens that are no place in the image.

    Returns:
        One (n, width) float32 tensor, or two for `cls+mean` (as DINOv2's linear evaluation joins them; Oquab et al. 2023,
        appendix B.3).
    """
    tokens = tokens.float()  # a mean of a thousand bfloat16 numbers is not rounded again
    patches = tokens[:, n_prefix:]
    if pooling == "cls":
        return [tokens[:, 0]]
    if pooling == "mean":
        return [patches.mean(dim=1)]
    if pooling == "cls+mean":
        return [tokens[:, 0], patches.mean(dim=1)]
    if pooling == "gem":
        return [gem(patches)]
    raise ValueError(f"{pooling} is not computed from tokens alone")


def gem(patches: Tensor) -> Tensor:
    """(n, patches, width) → (n, width): the generalised mean (mean x³)^⅓ (Radenović et al. 2019, equation 3, p = 3).

    There it follows a ReLU, so that no value is negative. Tokens of a Vision Transformer are signed, and clamping them at
    zero, as is often done, throws half of what they say away: a channel that is negative everywhere would be zero for every
    image. An odd power needs no clamp: the cube keeps the sign and so does the real cube root. Where no value is negative
    this is the paper's formula; in general it lies between the mean and the value of largest magnitude, and turning all
    signs turns the result's.
    """
    mean = patches.float().pow(GEM_P).mean(dim=1)
    return mean.sign() * mean.abs().pow(1 / GEM_P)


def concatenated(parts: list[Tensor]) -> Tensor:
    """(n, a), (n, b), … → (n, a + b + …)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
