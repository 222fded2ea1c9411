"""Settings of every recipe: backbone, length, optimizer and machine."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pellucid.cohort.config import Config, switch
from pellucid.pretrain.recipe.monitoring import Health, WatchConfig
from pellucid.pretrain.recipe.warm_start_settings import WarmStart


class Optimizer(Config):
    """AdamW and its schedules; lengths are shares of the training, so that they apply to any number of steps."""

    base_lr: float = Field(gt=0)  # learning rate of a batch of 256; the rate used is base_lr × batch_size / 256
    final_lr: float = Field(ge=0)
    warmup: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    final_weight_decay: float = Field(ge=0)
    betas: tuple[float, float]
    clip_grad: float | None = Field(None, gt=0)  # maximum global norm of the gradient; null: no clipping


class Machine(Config):
    """Settings of the machine that do not change the result and are not part of the run's address."""

    workers: int = Field(0, ge=0)  # decoding threads; 0: one per core, at most 16
    cache_gb: float = Field(2.0, ge=0)  # memory for decoded images, in GB per process
    checkpoint_every: int = Field(200, ge=1)  # steps
    checkpoints: int = Field(2, ge=1)  # number of checkpoints that are kept, in addition to the best
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(switch)] = (
        "auto"  # torch.compile of the backbone's blocks; auto: on a GPU
    )
    checkpoint_activations: bool = False  # recompute activations in the backward pass: less memory, more time
    timeout_s: float = Field(1800.0, gt=0)  # longest wait of a process for another one
    tensorboard: bool = False  # also write the metrics for TensorBoard (extra `tensorboard`)


class Recipe(Config):
    """Settings shared by all methods."""

    backbone: str  # a timm name
    img_size: int = Field(ge=8)
    source_px: int = Field(ge=8)  # side of the decoded square that views are cut from
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    drop_path: float = Field(ge=0, lt=1)
    batch_size: int = Field(ge=2)  # of all processes together
    images_seen: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"]  # auto: the fastest in a few timed steps; fp16: GPU only
    accumulate: int = Field(1, ge=1)  # micro-batches per step and process
    seed: int = Field(ge=0)
    include_test: bool
    log_every: int = Field(ge=1)  # steps
    optimizer: Optimizer
    augmentation: str = (
        "specialty"  # preset for the views: specialty (the study's), recipe (no preset), or the NAME of a specialty
    )
    acquisition_robust: bool = False  # simulate other devices, with the strength of the preset
    sampling: str = (
        "image"  # image | patient | patient+COLUMN of an acquisition factor: the unit that is seen equally often
    )
    warm_start: WarmStart = WarmStart()
    health: Health = Health()
    watch: WatchConfig = WatchConfig()
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.images_seen is None) == (self.epochs is None):
            raise ValueError("give exactly one of `images_seen` and `epochs`")
        return self

    def steps(self, n_images: int) -> int:
        """Number of optimizer steps on `n_images` images."""
        seen = self.images_seen if self.images_seen is not None else (self.epochs or 0) * n_images
        return max(1, math.ceil(seen / self.batch_size))

    def content(self) -> dict[str, Any]:
        """The settings that determine the result: everything but `machine`."""
        return self.model_dump(mode="json", exclude={"machine"})
