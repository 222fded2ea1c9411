"""The `warm_start:` section of a recipe: weights to begin with, and how carefully they are then changed."""

from __future__ import annotations

from cohort.config import Config


class WarmStart(Config):
    """Continued pretraining."""

    weights: str | None = None  # timm:NAME, run:FOLDER or file:PATH.safetensors; null begins with random weights
