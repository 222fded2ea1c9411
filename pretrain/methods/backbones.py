"""A timm name → the freshly initialised network that is pretrained: Vision Transformers, ConvNeXt and ResNet.

Its feature of an image is what timm itself makes of it, `model(images)` without a classifier: the class token of a Vision
Transformer that has one and is read by it, else timm's pooling (the mean of the patches, or of the last map).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import timm
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, where
from torch.utils.checkpoint import checkpoint

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError

Pooling = Literal["cls", "mean", "model"]
_REDUCTION = 32  # pixels of the image to one of the last map, in ConvNeXt and ResNet
Backbone: TypeAlias = VisionTransformer | ConvNeXt | ResNet


def new_backbone(name: str, img_size: int, *, drop_path: float, any_size: bool) -> Backbone:
    """A freshly initialised timm network without classifier.

    Args:
        name: of a Vision Transformer (registers and the want of a class token are welcome), a ConvNeXt or a ResNet.
        img_size: side in pixels of the global views; a convolutional network takes any.
        drop_path: largest probability of stochastic depth.
        any_size: whether views of another size than `img_size` will pass through.

    Raises:
        UserError: timm does not know it, it is of another kind, or the image size is no multiple of its patches.
    """
    if not timm.is_model(name):
        known = timm.list_models(["*vit*", "convnext*", "resnet*"])
        raise UserError(f"`backbone: {name}` is not a model that timm knows{did_you_mean(name, known)}")
    extra: dict[str, Any] = {"dynamic_img_size": True} if any_size else {}
    try:
        try:
            model = timm.create_model(
                name, pretrained=False, num_classes=0, drop_path_rate=drop_path, img_size=img_size, **extra
            )
        except TypeError:  # convolutional networks are built for any size, and know no `img_size`
            model = timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=drop_path)
    except TypeError:  # no stochastic depth either: none of the kinds below
        model = None
    if not isinstance(model, VisionTransformer | ConvNeXt | ResNet):
        raise UserError(
            f"`backbone: {name}` is neither a Vision Transformer nor a ConvNeXt nor a ResNet; choose one, for example "
            "vit_small_patch16_224, convnext_tiny or resnet50"
        )
    require_size(model, img_size, "img_size")
    return model


def new_transformer(name: str, img_size: int, *, drop_path: float, any_size: bool, wanted_by: str) -> VisionTransformer:
    """As `new_backbone`, for a method that masks patches.

    Raises:
        UserError: also where it is not a Vision Transformer.
    """
    model = new_backbone(name, img_size, drop_path=drop_path, any_size=any_size)
    if not isinstance(model, VisionTransformer):
        raise UserError(
            f"`backbone: {name}` is not a Vision Transformer, and {wanted_by} masks patches: choose one, for example "
            "vit_small_patch16_224, or the method dino or lejepa, which take convolutional networks"
        )
    return model


def require_size(model: Backbone, size_px: int, key: str) -> None:
    """Refuse a view that the patches of a Vision Transformer do not tile, or that a convolutional network shrinks away.

    Raises:
        UserError: it is no multiple of the patch size, or smaller than the 32 pixels that become one of the last map.
    """
    if not isinstance(model, VisionTransformer):
        if size_px < _REDUCTION:
            raise UserError(
                f"`{key}` is {size_px}, but a convolutional backbone makes one value of {_REDUCTION} pixels: choose "
                f"{_REDUCTION} or more"
            )
        return
    patch = int(model.patch_embed.patch_size[0])
    if size_px % patch:
        raise UserError(
            f"`{key}` is {size_px}, but the backbone's patches are {patch} pixels wide: choose "
            f"{max(1, size_px // patch) * patch} or {(size_px // patch + 1) * patch}"
        )


def default_pooling(model: Backbone) -> Pooling:
    """How `model(images)` becomes one vector, in the words of the exported preprocess.json."""
    reads_class_token = isinstance(model, VisionTransformer) and model.global_pool == "token"
    return "cls" if reads_class_token else "model"


def timm_kwargs(model: Backbone, img_size: int) -> dict[str, Any]:
    """What `timm.create_model` needs beside the name to build the network of an export."""
    return {"img_size": img_size} if isinstance(model, VisionTransformer) else {}


def masked_tokens(vit: VisionTransformer, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """timm's `forward_features` with the embedding of every masked patch replaced by `mask_token`.

    Args:
        images: (b, 3, v, v).
        mask: (b, n) bool, true for a patch that must not be seen.
        mask_token: (1, 1, d).

    Returns:
        (b, prefix + n, d) tokens after the last norm.
    """
    x = vit.patch_embed(images)  # (b, n, d), or (b, rows, columns, d) where any size may come
    hidden = mask.view(*x.shape[:-1], 1)
    x = where(hidden, mask_token.to(x.dtype).view(*[1] * (x.ndim - 1), -1), x)  # before the positions, which it keeps
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(x)))
    for block in vit.blocks:
        x = checkpoint(block, x, use_reentrant=False) if vit.grad_checkpointing else block(x)
    tokens: Tensor = vit.norm(x)
    return tokens
