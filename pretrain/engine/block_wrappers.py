"""Compile the blocks of a backbone, or recompute their activations: faster or smaller, with the same results."""

from __future__ import annotations

import functools

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from pellucid.cohort.errors import UserError

_KINDS = (Block, ConvNeXtBlock, BasicBlock, Bottleneck)
_VARIANTS = 128  # compiled variants of one block: sizes of views, with and without gradient, drop path rates


def blocks(network: nn.Module) -> list[nn.Module]:
    """All blocks in the backbones and decoders of a method, where nearly all time is spent."""
    return [module for module in network.modules() if isinstance(module, _KINDS)]


def compile_blocks(network: nn.Module) -> int:
    """`torch.compile` each block, in place; returns how many.

    Compiling per block takes seconds, because blocks of one kind share the code, and keeps the names of the weights.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    found = blocks(network)
    for block in found:
        block.compile(dynamic=False)
    return len(found)


def checkpoint_activations(network: nn.Module) -> int:
    """Recompute the activations of each block in the backward pass (Chen et al. 2016), in place; returns how many.

    Raises:
        UserError: the network has batch norm.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise UserError(
            "`machine.checkpoint_activations: true` would count each batch twice in the statistics of batch norm: "
            "remove it, or choose a backbone without batch norm, for example a Vision Transformer or ConvNeXt"
        )
    found = blocks(network)
    for block in found:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return len(found)
