"""The recipe of each method, with its section of settings."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pellucid.cohort.config import Config
from pellucid.pretrain.recipe.base import Recipe
from pellucid.pretrain.recipe.view_settings import DinoViews, MaeViews, Range


class MaeConfig(Config):
    """Masked autoencoding (He et al. 2021)."""

    mask_ratio: float = Field(gt=0, lt=1)
    decoder_dim: int = Field(ge=16)
    decoder_depth: int = Field(ge=1)
    decoder_heads: int = Field(ge=1)
    normalize_pixels: bool


class DinoConfig(Config):
    """Self-distillation without labels (Caron et al. 2021); names as in the paper's Algorithm 1 and appendix."""

    output_dim: int = Field(ge=2)
    hidden_dim: int = Field(ge=2)
    bottleneck_dim: int = Field(ge=2)
    norm_last_layer: bool
    freeze_last_layer: float = Field(ge=0, le=1)  # share of the training
    student_temp: float = Field(gt=0)
    warmup_teacher_temp: float = Field(gt=0)
    teacher_temp: float = Field(gt=0)
    teacher_temp_warmup: float = Field(ge=0, le=1)  # share of the training
    center_momentum: float = Field(ge=0, le=1)
    teacher_momentum: float = Field(ge=0, le=1)
    centering: Literal["mean", "sinkhorn_knopp"] = (
        "mean"  # sinkhorn_knopp has no momentum, and needs three sums over the batch
    )


class DinoV2Config(DinoConfig):
    """DINO with masked patches and a KoLeo regulariser (Oquab et al. 2023; iBOT, Zhou et al. 2021)."""

    ibot_weight: float = Field(ge=0)
    koleo_weight: float = Field(ge=0)
    mask_probability: float = Field(gt=0, le=1)  # of a global view
    mask_ratio: Range  # share of a masked view's patches
    separate_heads: bool  # separate heads for class token and patches, or one for both
    ibot_output_dim: int | None = Field(None, ge=2)  # of a separate patch head; null: output_dim

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not 0 < self.mask_ratio[0] <= self.mask_ratio[1] < 1:
            raise ValueError(f"mask_ratio {list(self.mask_ratio)} needs 0 < smallest ≤ largest < 1")
        if self.ibot_output_dim is not None and not self.separate_heads:
            raise ValueError("ibot_output_dim needs separate_heads: true; a shared head has a single output_dim")
        return self


class LeJepaConfig(Config):
    """One encoder whose views predict their mean, with embeddings regularised to a Gaussian (Balestriero & LeCun
    2025)."""

    hidden_dim: int = Field(ge=2)  # of the projector's two hidden layers
    projection_dim: int = Field(ge=2)
    sigreg_weight: float = Field(ge=0, le=1)  # λ: the loss is (1 − λ) · prediction + λ · SIGReg
    directions: int = Field(ge=1)  # random ones, new at each step
    knots: int = Field(ge=3)  # of the quadrature in [0, t_max]
    t_max: float = Field(gt=0)


class MaeRecipe(Recipe):
    """A recipe for mae.py."""

    method: Literal["mae"]
    views: MaeViews
    mae: MaeConfig


class DinoRecipe(Recipe):
    """A recipe for dino.py."""

    method: Literal["dino"]
    views: DinoViews
    dino: DinoConfig


class DinoV2Recipe(Recipe):
    """A recipe for dinov2.py."""

    method: Literal["dinov2"]
    views: DinoViews
    dinov2: DinoV2Config


class LeJepaRecipe(Recipe):
    """A recipe for lejepa.py."""

    method: Literal["lejepa"]
    views: DinoViews
    lejepa: LeJepaConfig


AnyRecipe = MaeRecipe | DinoRecipe | DinoV2Recipe | LeJepaRecipe
METHODS: dict[str, type[AnyRecipe]] = {
    "mae": MaeRecipe,
    "dino": DinoRecipe,
    "dinov2": DinoV2Recipe,
    "lejepa": LeJepaRecipe,
}
