"""The sections `health:` and `watch:` of a recipe: collapse detection, and monitoring with labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pellucid.cohort.config import Config, switch

Reaction = Annotated[Literal["stop", "warn", "off"], BeforeValidator(switch)]


class Health(Config):
    """Detection of collapse and stagnation (collapse.py); a loss that is not finite always stops the training."""

    collapse: Reaction = "stop"
    stagnation: Reaction = "warn"
    patience: int = Field(5, ge=1)  # consecutive lines of metrics that must show a sign
    least_spread: float = Field(0.005, ge=0)  # feature_std × √d; 1: evenly spread; a healthy MAE can have 0.1
    least_rank: float = Field(1.5, ge=1)  # minimum of centred_rank
    rank_kept: float = Field(0.2, ge=0, lt=1)  # minimum of centred_rank relative to the first lines
    least_information: float = Field(0.02, ge=0)  # minimum information of the teacher's output about the image, in nats
    least_projection: float = Field(0.1, ge=0)  # minimum standard deviation of LeJEPA's projections; healthy: 1
    window: float = Field(0.25, gt=0, le=1)  # share of the training over which something must change


class WatchConfig(Config):
    """Monitoring of what the features encode (watch.py); it does not influence the training."""

    every: int | None = Field(None, ge=0)  # steps between two monitoring steps; null: eight per training, 0: none
    patients: float = Field(0.1, ge=0, lt=0.5)  # share of the training patients that is held out for monitoring
    images: int = Field(1000, ge=40)  # at most, of held-out patients and possible neighbours together
    neighbours: int = Field(20, ge=1)
