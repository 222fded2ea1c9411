"""The `views:` section of a recipe: what is cut from an image, and how it may be changed."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pellucid.cohort.config import Config

Range = tuple[float, float]


class Colour(Config):
    """Random colour change of one view (SimCLR's, which DINO took over)."""

    probability: float = Field(ge=0, le=1)
    brightness: float = Field(ge=0, le=1)
    contrast: float = Field(ge=0, le=1)
    saturation: float = Field(ge=0, le=1)
    hue: float = Field(ge=0, le=0.5)
    grayscale: float = Field(ge=0, le=1)  # probability, after the above


class Acquisition(Config):
    """Changes as another device, setting or export would have made them (pretrain/augment/acquisition_shift.py); all off by default."""

    probability: float = Field(0.0, ge=0, le=1)  # of each of the five, drawn for itself
    cast: float = Field(0.0, ge=0, le=1)  # white balance: each channel's gain lies in e^±cast
    gamma: float = Field(0.0, ge=0, le=1)  # the tone curve's exponent lies in e^±gamma
    sharpness: float = Field(0.0, ge=0, le=1)  # from blurred (−) to sharpened (+) by up to this share of the detail
    sharpness_sigma_px: Range = (0.5, 1.5)  # what counts as detail: what a Gaussian of this width takes away
    vignette: float = Field(0.0, ge=0, lt=1)  # share of the light lost in the corners of the image
    shot_noise: float = Field(0.0, ge=0, le=1)  # standard deviation at white (as √brightness); 1: the whole range
    read_noise: float = Field(0.0, ge=0, le=1)  # standard deviation anywhere
    noise_sigma_px: float = Field(0.0, ge=0, le=8)  # noise as coarse as a Gaussian of this width; 0: each pixel its own
    grey_noise: bool = False  # the same in all channels, where the image has no colour
    jpeg_quality: tuple[int, int] | None = None  # range on the scale of the Independent JPEG Group; null for never
    jpeg_420: float = Field(0.0, ge=0, le=1)  # probability that colour is stored at half the resolution

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, pair in (
            ("sharpness_sigma_px", self.sharpness_sigma_px),
            ("jpeg_quality", self.jpeg_quality or (1, 1)),
        ):
            if pair[0] > pair[1] or pair[0] <= 0:
                raise ValueError(f"{name} {list(pair)} needs 0 < smallest ≤ largest")
        if self.jpeg_quality is not None and self.jpeg_quality[1] > 100:
            raise ValueError(f"jpeg_quality {list(self.jpeg_quality)} ends at 100")
        return self


class Crop(Config):
    """One kind of view: a random part of the image, as a share of its area."""

    scale: Range

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} needs 0 < smallest ≤ largest ≤ 1")
        return self


class AlteredCrop(Crop):
    """A view of a method that compares views, with what befalls this kind of view only."""

    blur: float = Field(0.0, ge=0, le=1)  # probability
    solarize: float = Field(0.0, ge=0, le=1)  # probability


class LocalCrops(AlteredCrop):
    """DINO's small views, seen by the student only."""

    count: int = Field(ge=0, le=32)
    size_px: int = Field(ge=8)


class Views(Config):
    """How any view may lie in its image, whatever the method."""

    aspect: Range
    flip: float = Field(ge=0, le=1)  # probability: left and right exchanged
    flip_vertical: float = Field(0.0, ge=0, le=1)  # probability: above and below exchanged
    quarter_turns: float = Field(0.0, ge=0, le=1)  # probability of a turn by 90, 180 or 270°; 0.75 makes all four alike
    rotate_deg: float = Field(0.0, ge=0, le=180)  # largest free rotation to either side
    acquisition: Acquisition = Acquisition()

    @model_validator(mode="after")
    def _upright(self) -> Self:
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect {list(self.aspect)} needs 0 < smallest ≤ largest")
        return self


class MaeViews(Views):
    """MAE needs no more than crop and flip."""

    crop: Crop


class DinoViews(Views):
    """Two global views and `local.count` small ones; for every method that compares views of an image."""

    global_1: AlteredCrop
    global_2: AlteredCrop
    local: LocalCrops
    colour: Colour
    blur_sigma_px: Range  # standard deviation in pixels of the view
