"""The `health:` and `watch:` sections of a recipe: when a training is stopped, and what is looked at on the way."""

from __future__ import annotations

from cohort.config import Config


class Health(Config):
    """Signs of collapse, of blow-up and of stagnation."""


class Watch(Config):
    """What the features encode while they are learnt: looked at, never learnt from."""
