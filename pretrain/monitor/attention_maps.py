"""Attention of a Vision Transformer's class token to the patches, in the last block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def class_attention(model: nn.Module, images: Tensor) -> Tensor | None:
    """(m, 3, v, v) normalised → (m, heads, g, g): the class token's attention to the patches; it sums to 1.

    The softmax is over all tokens; only the patches are kept and rescaled to sum to 1, without registers and class
    token. timm's fused attention does not return its weights, so they are recomputed from the input of the last block's
    attention (Caron et al. 2021, figure 1).

    Returns:
        None if the model has no class token or no such attention.
    """
    vit: Any = model
    blocks = getattr(vit, "blocks", None)
    if blocks is None or getattr(vit, "cls_token", None) is None:
        return None
    attention: Any = getattr(blocks[-1], "attn", None)
    if not all(hasattr(attention, name) for name in ("qkv", "num_heads", "scale")):
        return None
    inputs: list[Tensor] = []
    last: Any = blocks[-1]
    compiled, last._compiled_call_impl = last._compiled_call_impl, None  # hooks do not run in compiled code
    hook = attention.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        vit.forward_features(images)
    finally:
        hook.remove()
        last._compiled_call_impl = compiled
    x = inputs[0]
    m, tokens = x.shape[:2]
    q, k, _ = attention.qkv(x).reshape(m, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    weights = (q[:, :, :1] * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
    patches = weights[:, :, vit.num_prefix_tokens :].float()
    g = round(patches.shape[-1] ** 0.5)
    if g * g != patches.shape[-1]:
        return None
    patches = patches / patches.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    shaped: Tensor = patches.reshape(m, attention.num_heads, g, g)
    return shaped
