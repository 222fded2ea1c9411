"""Parameter groups of the optimizer: which weights are decayed, and the learning rate of each layer.

- [0]: Clark et al., ELECTRA, 2020, https://arxiv.org/abs/2003.10555, section 3.1 (layer-wise decay of the learning
  rate)
- [1]: Bao et al., BEiT, 2021, https://arxiv.org/abs/2106.08254, appendix (the same for Vision Transformers)
"""

from __future__ import annotations

from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from pellucid.pretrain.methods.method import Method

NOT_DECAYED = ("pos_embed", "cls_token", "reg_token", "mask_token")  # and all biases, norms and other vectors
_HEAD = "head"  # placeholder for everything above the backbone


def parameter_groups(method: Method, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """The trained parameters of a method in groups that share weight decay and learning rate.

    Args:
        layer_decay: learning rate of a layer of the trained backbone ÷ that of the layer above; 1: the same for all.

    Returns:
        Dicts of `params`, `decayed` (weight decay applies) and `lr_scale` (factor of the scheduled learning rate).
        Their order depends only on the architecture, as loading an optimizer state requires.
    """
    scales: dict[int, float] = {}
    if layer_decay != 1.0:
        backbone = method.trained_backbone()
        by_name = layer_scales(backbone, layer_decay)
        scales = {id(parameter): by_name[name] for name, parameter in backbone.named_parameters()}
    groups: dict[tuple[bool, float], list[Tensor]] = {(True, 1.0): [], (False, 1.0): []}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in NOT_DECAYED
            groups.setdefault((not exempt, scales.get(id(parameter), 1.0)), []).append(parameter)
    return [
        {"params": parameters, "decayed": decayed, "lr_scale": scale}
        for (decayed, scale), parameters in groups.items()
        if parameters
    ]


def layer_scales(backbone: nn.Module, layer_decay: float) -> dict[str, float]:
    """Parameter name → factor of its learning rate: layer_decay^(depth − i) for block i (from 0) of `depth` blocks.

    The stem, with positions and tokens, is the layer below the first block: layer_decay^(depth + 1). Modules outside
    the backbone, such as a projection head or decoder, are above the last block and keep the full rate ([1]; timm's
    rule for a classifier). timm defines the layers; in a ConvNeXt or ResNet they are the consecutive blocks of all
    stages.
    """
    named = [*backbone.named_parameters(), (_HEAD, None)]
    layers: dict[str, int] = group_with_matcher(named, backbone.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    top = layers.pop(_HEAD)
    return {name: layer_decay ** (top - layer) for name, layer in layers.items()}
