"""The `warm_start:` section of a recipe: weights to begin with, and how carefully they are then changed."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pellucid.cohort.config import Config


class WarmStart(Config):
    """Continued pretraining. Without `weights` nothing else in here has any effect."""

    weights: str | None = None  # timm:NAME, run:FOLDER or file:PATH.safetensors; null begins with random weights
    lr_scale: float = Field(0.2, gt=0, le=1)  # × optimizer.base_lr: what was learnt should not be washed out
    layer_decay: float = Field(0.75, gt=0, le=1)  # rate of a layer ÷ rate of the one above it; 1: the same for all
    allow_partial: bool = False  # begin although tensors are missing, left over or of another shape

    @model_validator(mode="after")
    def _names_weights(self) -> Self:
        if self.weights is None:
            return self
        kind, _, rest = self.weights.partition(":")
        if kind not in {"timm", "run", "file"} or not rest:
            raise ValueError(
                f"weights {self.weights!r}: write timm:NAME, run:FOLDER or file:PATH.safetensors "
                "(for example timm:vit_small_patch16_224.dino)"
            )
        if kind == "file" and not rest.endswith(".safetensors"):
            raise ValueError(
                f"weights {self.weights!r}: only .safetensors files are read, because a .pt or .pth file may run code "
                "when it is opened; safetensors.torch.save_file converts one that you trust"
            )
        return self

    @property
    def rate_factor(self) -> float:
        """Of the whole schedule of the learning rate."""
        return 1.0 if self.weights is None else self.lr_scale

    @property
    def layer_factor(self) -> float:
        """`layer_decay` of `pellucid.pretrain.engine.optimizer.parameter_groups`."""
        return 1.0 if self.weights is None else self.layer_decay
