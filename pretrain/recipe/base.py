"""What a recipe of any method holds: backbone, length, optimizer, and what depends on the machine."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pellucid.cohort.config import Config, switch
from pellucid.pretrain.recipe.monitoring import Health, WatchConfig
from pellucid.pretrain.recipe.warm_start_settings import WarmStart


class Optimizer(Config):
    """AdamW and its schedules; lengths are shares of the training so that they survive a change of its length."""

    base_lr: float = Field(gt=0)  # learning rate of a batch of 256; the rate used is base_lr × batch_size / 256
    final_lr: float = Field(ge=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    final_weight_decay: float = Field(ge=0)
    betas: tuple[float, float]
    clip_grad: float | None = Field(None, gt=0)  # largest global norm of the gradient


class Machine(Config):
    """What depends on the machine and never on the result: not part of what a run is addressed by."""

    workers: int = Field(0, ge=0)  # decoding threads; 0: one per core, at most 16
    cache_gb: float = Field(2.0, ge=0)  # decoded images kept in memory, per process
    checkpoint_every: int = Field(200, ge=1)  # steps
    checkpoints: int = Field(2, ge=1)  # how many are kept, beside the best
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(switch)] = (
        "auto"  # torch.compile of the backbone's blocks; auto: on a GPU
    )
    checkpoint_activations: bool = False  # compute each block twice and keep a fraction of the memory
    timeout_s: float = Field(1800.0, gt=0)  # how long a process waits for another one
    tensorboard: bool = False  # also write the metrics for TensorBoard (extra `tensorboard`)


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
    precision: Literal[
        "auto", "fp32", "bf16", "fp16"
    ]  # auto: a few steps are timed, and the fastest is taken; fp16: GPU only
    accumulate: int = Field(1, ge=1)  # pieces that a process's share of a batch is computed in, one after another
    seed: int = Field(ge=0)
    include_test: bool
    log_every: int = Field(ge=1)  # steps
    optimizer: Optimizer
    augmentation: str = (
        "specialty"  # whose preset limits the views: specialty (the study's), recipe (nobody's), or a NAME
    )
    acquisition_robust: bool = False  # imitate other devices, at the strength that the preset names
    sampling: str = "image"  # image | patient | patient+COLUMN of an acquisition factor: what comes equally often
    warm_start: WarmStart = WarmStart()
    health: Health = Health()
    watch: WatchConfig = WatchConfig()
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
