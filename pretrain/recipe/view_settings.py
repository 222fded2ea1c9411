"""The section `views:` of a recipe: crops and augmentation of an image."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from pellucid.cohort.config import Config

Range = tuple[float, float]


class Colour(Config):
    """Random colour jitter of a view (from SimCLR, also used by DINO)."""

    probability: float = Field(ge=0, le=1)
    brightness: float = Field(ge=0, le=1)
    contrast: float = Field(ge=0, le=1)
    saturation: float = Field(ge=0, le=1)
    hue: float = Field(ge=0, le=0.5)
    grayscale: float = Field(ge=0, le=1)  # probability, after the above


class Acquisition(Config):
    """Simulated differences of device, settings or export (augment/acquisition_shift.py); all off by default."""

    probability: float = Field(0.0, ge=0, le=1)  # of each of the five changes, independently
    cast: float = Field(0.0, ge=0, le=1)  # white balance: gain of each channel in e^±cast
    gamma: float = Field(0.0, ge=0, le=1)  # exponent of the tone curve in e^±gamma
    sharpness: float = Field(0.0, ge=0, le=1)  # from blurred (−) to sharpened (+) by up to this share of the detail
    sharpness_sigma_px: Range = (0.5, 1.5)  # detail: the difference to a Gaussian blur of this width
    vignette: float = Field(0.0, ge=0, lt=1)  # loss of brightness in the corners of the image
    shot_noise: float = Field(
        0.0, ge=0, le=1
    )  # standard deviation at white, proportional to √brightness; 1: the whole range
    read_noise: float = Field(0.0, ge=0, le=1)  # standard deviation, independent of brightness
    noise_sigma_px: float = Field(0.0, ge=0, le=8)  # coarseness: Gaussian width of the noise; 0: independent pixels
    grey_noise: bool = False  # equal noise in all channels, for images without colour
    jpeg_quality: tuple[int, int] | None = None  # range of JPEG quality (1–100); null: no compression
    jpeg_420: float = Field(0.0, ge=0, le=1)  # probability of colour at half the resolution (4:2:0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, pair in (
            ("sharpness_sigma_px", self.sharpness_sigma_px),
            ("jpeg_quality", self.jpeg_quality or (1, 1)),
        ):
            if pair[0] > pair[1] or pair[0] <= 0:
                raise ValueError(f"{name} {list(pair)} needs 0 < smallest ≤ largest")
        if self.jpeg_quality is not None and self.jpeg_quality[1] > 100:
            raise ValueError(f"jpeg_quality {list(self.jpeg_quality)} must not exceed 100")
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
    """A kind of view in methods that compare views, with its probabilities of blur and solarisation."""

    blur: float = Field(0.0, ge=0, le=1)  # probability
    solarize: float = Field(0.0, ge=0, le=1)  # probability


class LocalCrops(AlteredCrop):
    """DINO's local views, for the student only."""

    count: int = Field(ge=0, le=32)
    size_px: int = Field(ge=8)


class Views(Config):
    """Geometry and acquisition changes of the views of any method."""

    aspect: Range
    flip: float = Field(ge=0, le=1)  # probability of a left–right flip
    flip_vertical: float = Field(0.0, ge=0, le=1)  # probability of an up–down flip
    quarter_turns: float = Field(
        0.0, ge=0, le=1
    )  # probability of a rotation by 90, 180 or 270°; 0.75 makes all four orientations equally likely
    rotate_deg: float = Field(0.0, ge=0, le=180)  # largest rotation in either direction
    acquisition: Acquisition = Acquisition()

    @model_validator(mode="after")
    def _upright(self) -> Self:
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect {list(self.aspect)} needs 0 < smallest ≤ largest")
        return self


class MaeViews(Views):
    """Views of MAE: crop and flip suffice."""

    crop: Crop


class DinoViews(Views):
    """Two global views and `local.count` local ones; for methods that compare views of an image."""

    global_1: AlteredCrop
    global_2: AlteredCrop
    local: LocalCrops
    colour: Colour
    blur_sigma_px: Range  # standard deviation in pixels of the view
