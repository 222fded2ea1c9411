"""What may be done to the blocks of a backbone for speed or memory without changing what they compute."""

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
_VARIANTS = 128  # of one block's code: sizes of views, with and without gradient, drop path's rate of each depth


def blocks(network: nn.Module) -> list[nn.Module]:
    """All blocks in all backbones and decoders of a method, the repeated part in which nearly all time is spent."""
    return [module for module in network.modules() if isinstance(module, _KINDS)]


def compile_blocks(network: nn.Module) -> int:
    """`torch.compile` each block, in place; returns how many.

    Block by block: all of a kind share what is compiled, within seconds, and the names of the weights stay as they are.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    found = blocks(network)
    for block in found:
        block.compile(dynamic=False)
    return len(found)


def checkpoint_activations(network: nn.Module) -> int:
    """Forget what each block has computed and compute it again for the gradient (Chen et al. 2016); returns how many.

    Raises:
        UserError: the network has batch norm.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise UserError(
            "`machine.checkpoint_activations: true` would count each batch twice in the statistics of batch norm: leave it "
            "out, or choose a backbone without, for example a Vision Transformer or ConvNeXt"
        )
    found = blocks(network)
    for block in found:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return len(found)
