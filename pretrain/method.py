"""What the training loop asks of a method; dino.py, mae.py and their like answer, and a new method is one more such file."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cohort.config import did_you_mean
from cohort.errors import UserError
from pretrain.views import Draw


class Outcome(NamedTuple):
    """What one forward pass gives."""

    loss: Tensor  # scalar, float32, mean over this process's images
    features: Tensor  # (b, d) float32 of the backbone, without gradient: what health.py looks at
    partner: Tensor | None = None  # (b, d) of another view of the same images, where the method has one: for alignment
    terms: dict[str, Tensor] = {}  # named scalars without gradient (parts of the loss, teacher entropy …): for metrics


class Method(nn.Module):
    """Modules, views and loss of one way of pretraining."""

    pooling: ClassVar[Literal["cls", "mean"]]  # how the exported backbone's tokens become one vector

    @abstractmethod
    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """(b, s, s, 3) uint8 on the device → what `forward` wants, without gradient."""

    @abstractmethod
    def forward(self, views: list[Tensor], step: int) -> Outcome:
        """The loss of one batch. Called through DDP, so that everything with a gradient happens in here."""

    @abstractmethod
    def backbone(self) -> VisionTransformer:
        """The network to export."""

    def before_update(self, step: int) -> None:
        """After backward and gradient clipping, before the optimizer's step."""
        return

    def after_update(self, step: int) -> dict[str, float]:
        """After the optimizer's step; returns what the metrics should show."""
        return {}


def new_backbone(name: str, img_size: int, *, drop_path: float, any_size: bool) -> VisionTransformer:
    """A freshly initialised timm Vision Transformer without classifier.

    Args:
        any_size: whether views of another size than `img_size` will pass through.

    Raises:
        UserError: not a Vision Transformer that timm knows, or the image size is no multiple of its patches.
    """
    if not timm.is_model(name):
        known = timm.list_models("*vit*")
        raise UserError(f"`backbone: {name}` is not a model that timm knows{did_you_mean(name, known)}")
    extra: dict[str, Any] = {"dynamic_img_size": True} if any_size else {}
    try:
        model = timm.create_model(
            name, pretrained=False, num_classes=0, img_size=img_size, drop_path_rate=drop_path, **extra
        )
    except TypeError:  # convolutional networks have no `img_size`
        model = None
    if not isinstance(model, VisionTransformer):
        raise UserError(
            f"`backbone: {name}` is not a Vision Transformer; choose one, for example vit_small_patch16_224"
        )
    require_patches(model, img_size, "img_size")
    return model


def require_patches(model: VisionTransformer, size_px: int, key: str) -> None:
    """Refuse a view that the patches do not tile.

    Raises:
        UserError: it is no multiple of the patch size.
    """
    patch = int(model.patch_embed.patch_size[0])
    if size_px % patch:
        raise UserError(
            f"`{key}` is {size_px}, but the backbone's patches are {patch} pixels wide: choose "
            f"{max(1, size_px // patch) * patch} or {(size_px // patch + 1) * patch}"
        )


def pixel_statistics(values: tuple[float, float, float]) -> Tensor:
    """(3,) float32."""
    return torch.tensor(values, dtype=torch.float32)
