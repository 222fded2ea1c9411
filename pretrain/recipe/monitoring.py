"""The `health:` and `watch:` sections of a recipe: when a training is stopped, and what is looked at on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pellucid.cohort.config import Config, switch

Reaction = Annotated[Literal["stop", "warn", "off"], BeforeValidator(switch)]


class Health(Config):
    """Signs of collapse and of stagnation (collapse.py); a loss that is not finite always stops the training."""

    collapse: Reaction = "stop"
    stagnation: Reaction = "warn"
    patience: int = Field(5, ge=1)  # lines of metrics in a row that must show a sign
    least_spread: float = Field(0.005, ge=0)  # feature_std × √d; 1 is spread evenly, MAE in health comes down to 0.1
    least_rank: float = Field(1.5, ge=1)  # centred_rank: how many directions tell the images apart
    rank_kept: float = Field(0.2, ge=0, lt=1)  # share of the centred rank of the first lines
    least_information: float = Field(0.02, ge=0)  # nats that the teacher's answers tell of the image
    least_projection: float = Field(0.1, ge=0)  # standard deviation of LeJEPA's projections, 1 in health
    window: float = Field(0.25, gt=0, le=1)  # share of the training over which something should move


class WatchConfig(Config):
    """What the features encode while they are learnt: looked at, never learnt from (watch.py)."""

    every: int | None = Field(None, ge=0)  # steps between two looks; null: eight over the training, 0: none
    patients: float = Field(0.1, ge=0, lt=0.5)  # share of the training patients who are asked about, and not trained on
    images: int = Field(1000, ge=40)  # at most, of these and of their possible neighbours together
    neighbours: int = Field(20, ge=1)
