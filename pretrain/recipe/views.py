"""The `views:` section of a recipe: what is cut from an image, and how it may be changed."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cohort.config import Config

Range = tuple[float, float]


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
