"""The methods' own sections of a recipe, and the recipe of each method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cohort.config import Config
from pretrain.recipe.base import Recipe
from pretrain.recipe.views import DinoViews, MaeViews


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


AnyRecipe = MaeRecipe | DinoRecipe
METHODS: dict[str, type[AnyRecipe]] = {"mae": MaeRecipe, "dino": DinoRecipe}
