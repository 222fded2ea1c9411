"""The backbones that can be pretrained, by timm name: Vision Transformers, ConvNeXt and ResNet, with random weights.

The feature of an image is the output of timm's `model(images)` without a classifier: the class token of a Vision
Transformer with `global_pool: token`, else timm's pooling (the mean of the patch tokens or of the last feature map).
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
_REDUCTION = 32  # total stride of ConvNeXt and ResNet
Backbone: TypeAlias = VisionTransformer | ConvNeXt | ResNet


def new_backbone(name: str, img_size: int, *, drop_path: float, any_size: bool) -> Backbone:
    """A timm network with random weights and without classifier.

    Args:
        name: of a Vision Transformer (also with registers or without class token), a ConvNeXt or a ResNet.
        img_size: side in pixels of the global views; a convolutional network accepts any.
        drop_path: largest probability of stochastic depth.
        any_size: whether the network must also accept views of other sizes than `img_size`.

    Raises:
        UserError: timm has no such model, it is of another kind, or the image size is not a multiple of its patch size.
    """
    if not timm.is_model(name):
        known = timm.list_models(["*vit*", "convnext*", "resnet*"])
        raise UserError(f"`backbone: {name}` is not a timm model{did_you_mean(name, known)}")
    extra: dict[str, Any] = {"dynamic_img_size": True} if any_size else {}
    try:
        try:
            model = timm.create_model(
                name, pretrained=False, num_classes=0, drop_path_rate=drop_path, img_size=img_size, **extra
            )
        except TypeError:  # convolutional networks have no `img_size`
            model = timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=drop_path)
    except TypeError:  # no stochastic depth either: an unsupported kind
        model = None
    if not isinstance(model, VisionTransformer | ConvNeXt | ResNet):
        raise UserError(
            f"`backbone: {name}` is neither a Vision Transformer nor a ConvNeXt nor a ResNet; choose one, for example "
            "vit_small_patch16_224, convnext_tiny or resnet50"
        )
    require_size(model, img_size, "img_size")
    return model


def new_transformer(name: str, img_size: int, *, drop_path: float, any_size: bool, wanted_by: str) -> VisionTransformer:
    """Like `new_backbone`, for a method that masks patches.

    Raises:
        UserError: also if the backbone is not a Vision Transformer.
    """
    model = new_backbone(name, img_size, drop_path=drop_path, any_size=any_size)
    if not isinstance(model, VisionTransformer):
        raise UserError(
            f"`backbone: {name}` is not a Vision Transformer, but {wanted_by} masks patches: choose one, for example "
            "vit_small_patch16_224, or the method dino or lejepa, which accept convolutional networks"
        )
    return model


def require_size(model: Backbone, size_px: int, key: str) -> None:
    """Check that a Vision Transformer's patches tile a view, or that a convolutional network's stride fits into it.

    Raises:
        UserError: the size is not a multiple of the patch size, or is below the stride of 32 pixels.
    """
    if not isinstance(model, VisionTransformer):
        if size_px < _REDUCTION:
            raise UserError(
                f"`{key}` is {size_px}, but a convolutional backbone has a stride of {_REDUCTION} pixels: choose "
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
    """How `model(images)` becomes one vector: the value of `pooling` in preprocess.json."""
    reads_class_token = isinstance(model, VisionTransformer) and model.global_pool == "token"
    return "cls" if reads_class_token else "model"


def timm_kwargs(model: Backbone, img_size: int) -> dict[str, Any]:
    """Arguments of `timm.create_model`, besides the name, that build the network of an export."""
    return {"img_size": img_size} if isinstance(model, VisionTransformer) else {}


def masked_tokens(vit: VisionTransformer, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
    """timm's `forward_features` with the embedding of every masked patch replaced by `mask_token`.

    Args:
        images: (b, 3, v, v).
        mask: (b, n) bool, true for a masked patch.
        mask_token: (1, 1, d).

    Returns:
        (b, n_prefix_tokens + n, d) tokens after the last norm.
    """
    x = vit.patch_embed(images)  # (b, n, d), or (b, rows, columns, d) with dynamic image size
    hidden = mask.view(*x.shape[:-1], 1)
    x = where(hidden, mask_token.to(x.dtype).view(*[1] * (x.ndim - 1), -1), x)  # before the positions are added
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(x)))
    for block in vit.blocks:
        x = checkpoint(block, x, use_reentrant=False) if vit.grad_checkpointing else block(x)
    tokens: Tensor = vit.norm(x)
    return tokens
