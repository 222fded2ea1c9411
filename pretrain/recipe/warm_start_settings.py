"""The section `warm_start:` of a recipe: starting weights, and lower learning rates to preserve them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pellucid.cohort.config import Config


class WarmStart(Config):
    """Continued pretraining. Without `weights` the other settings have no effect."""

    weights: str | None = None  # timm:NAME, run:FOLDER or file:PATH.safetensors; null: random weights
    lr_scale: float = Field(0.2, gt=0, le=1)  # factor of optimizer.base_lr, to preserve what the weights encode
    layer_decay: float = Field(0.75, gt=0, le=1)  # learning rate of a layer ÷ that of the layer above; 1: equal
    allow_partial: bool = False  # accept missing, unexpected or mismatching tensors

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
                f"weights {self.weights!r}: only .safetensors files are read, because opening a .pt or .pth file may "
                "run code; safetensors.torch.save_file converts a file that you trust"
            )
        return self

    @property
    def rate_factor(self) -> float:
        """Factor of the learning rate schedule."""
        return 1.0 if self.weights is None else self.lr_scale

    @property
    def layer_factor(self) -> float:
        """`layer_decay` of `pellucid.pretrain.engine.optimizer.parameter_groups`."""
        return 1.0 if self.weights is None else self.layer_decay
