"""A pretraining recipe: `configs/pretrain/NAME.yaml` < the study's `pretrain:` section, as one checked, typed object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from omegaconf import OmegaConf
from pydantic import Field, model_validator

from cohort.config import Config, did_you_mean, find_recipe, read_yaml, validate
from cohort.errors import UserError

DEFAULT_RECIPE = "mae-tiny-cpu"
Range = tuple[float, float]


class Optimizer(Config):
    """AdamW and its schedules; lengths are shares of the training so that they survive a change of its length."""

    base_lr: float = Field(gt=0)  # learning rate of a batch of 256; the rate used is base_lr × batch_size / 256
    final_lr: float = Field(ge=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    final_weight_decay: float = Field(ge=0)
    betas: tuple[float, float]
    clip_grad: float | None = Field(None, gt=0)  # largest global norm of the gradient


class Colour(Config):
    """Random colour change of one view (SimCLR's, which DINO took over)."""

    probability: float = Field(ge=0, le=1)
    brightness: float = Field(ge=0, le=1)
    contrast: float = Field(ge=0, le=1)
    saturation: float = Field(ge=0, le=1)
    hue: float = Field(ge=0, le=0.5)
    grayscale: float = Field(ge=0, le=1)  # probability, after the above


class Crop(Config):
    """One kind of view: a random part of the image, as a share of its area."""

    scale: Range
    blur: float = Field(0.0, ge=0, le=1)  # probability
    solarize: float = Field(0.0, ge=0, le=1)  # probability

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} needs 0 < smallest ≤ largest ≤ 1")
        return self


class LocalCrops(Crop):
    """DINO's small views, seen by the student only."""

    count: int = Field(ge=0, le=32)
    size_px: int = Field(ge=8)


class MaeViews(Config):
    """MAE needs no more than crop and flip."""

    crop: Crop
    aspect: Range
    flip: float = Field(ge=0, le=1)


class DinoViews(Config):
    """Two global views and `local.count` small ones."""

    global_1: Crop
    global_2: Crop
    local: LocalCrops
    aspect: Range
    flip: float = Field(ge=0, le=1)
    colour: Colour
    blur_sigma_px: Range  # standard deviation in pixels of the view


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


class Machine(Config):
    """What depends on the machine and never on the result: not part of what a run is addressed by."""

    workers: int = Field(0, ge=0)  # decoding threads; 0: one per core, at most 16
    cache_gb: float = Field(2.0, ge=0)  # decoded images kept in memory, per process
    checkpoint_every: int = Field(200, ge=1)  # steps
    checkpoints: int = Field(2, ge=1)  # how many are kept


class Recipe(Config):
    """What every method needs."""

    backbone: str  # a timm name
    img_size: int = Field(ge=8)
    source_px: int = Field(ge=8)  # side of the decoded square that views are cut from
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    drop_path: float = Field(ge=0, lt=1)
    batch_size: int = Field(ge=2)  # over all processes together
    images_seen: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    precision: Literal["auto", "fp32", "bf16"]
    seed: int = Field(ge=0)
    include_test: bool
    log_every: int = Field(ge=1)  # steps
    optimizer: Optimizer
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.images_seen is None) == (self.epochs is None):
            raise ValueError("give either `images_seen` or `epochs`, not both and not neither")
        return self

    def steps(self, n_images: int) -> int:
        """Number of optimizer steps on `n_images` images."""
        seen = self.images_seen if self.images_seen is not None else (self.epochs or 0) * n_images
        return max(1, math.ceil(seen / self.batch_size))

    def content(self) -> dict[str, Any]:
        """What the result depends on: everything but `machine`."""
        return self.model_dump(mode="json", exclude={"machine"})


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


METHODS: dict[str, type[MaeRecipe] | type[DinoRecipe]] = {"mae": MaeRecipe, "dino": DinoRecipe}


def load_recipe(
    section: Mapping[str, Any], where: str = "pretrain", folder: Path = Path()
) -> tuple[str, MaeRecipe | DinoRecipe]:
    """Name and content of the recipe that a `pretrain:` section asks for.

    Args:
        section: `{recipe: NAME or PATH.yaml, key: value that overrides the recipe's, …}`.
        where: how messages name the section.
        folder: what a relative recipe path is relative to.

    Raises:
        UserError: no such recipe, an unknown key (with the nearest known one), or values out of range.
    """
    changes = dict(section)
    named = str(changes.pop("recipe", DEFAULT_RECIPE))
    is_path = named.endswith((".yaml", ".yml"))
    path = folder / named if is_path else find_recipe("pretrain", named)
    base = read_yaml(path)
    recipe = _checked(base, str(path))
    if not changes:
        return path.stem, recipe
    if "method" in changes and changes["method"] != recipe.method:
        raise UserError(
            f"{where}: `method` cannot change a recipe's method ({path.stem} is {recipe.method}): name another `recipe`"
        )
    for key, other in (("images_seen", "epochs"), ("epochs", "images_seen")):
        if changes.get(key) is not None and other not in changes:
            base.pop(other, None)  # the length in the study replaces the recipe's, in whichever unit
    merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(changes)))
    assert isinstance(merged, dict)
    return path.stem, _checked({str(key): value for key, value in merged.items()}, where)


def _checked(data: Mapping[str, Any], where: str) -> MaeRecipe | DinoRecipe:
    method = str(data.get("method"))
    if method not in METHODS:
        raise UserError(
            f"{where}: `method` is {data.get('method')!r}{did_you_mean(method, METHODS)}; there are: {', '.join(METHODS)}"
        )
    return validate(METHODS[method], data, where)
