"""Views of one image whose vectors are averaged: the mirror image, or the whole image and its four corners."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pellucid.cohort.config import find_recipe, read_yaml
from pellucid.cohort.errors import UserError

_CORNER_OF = 8 / 7  # 224-pixel corners of a 256-pixel image, as in the ten crops of Krizhevsky et al. 2012, section 4.1


def square_px(average: str, input_px: int) -> int:
    """Side of the square to which an image is resized, for a network whose input has the side `input_px`.

    Corners are cropped without enlarging them, so the square is larger than the network's input.
    """
    return round(input_px * _CORNER_OF) if average == "crops" else input_px


def whole(pixels: Tensor, input_px: int) -> Tensor:
    """(n, 3, s, s) → (n, 3, input_px, input_px): the whole image at the size of the network's input."""
    if pixels.shape[-1] == input_px:
        return pixels
    return torch.nn.functional.interpolate(pixels, size=(input_px, input_px), mode="bilinear", antialias=True)


def views(pixels: Tensor, average: str, input_px: int) -> Iterator[Tensor]:
    """Yield the views of each image, in a fixed order and without randomness.

    Args:
        pixels: (n, 3, s, s) with s = `square_px(average, input_px)`.
        average: `none` (the image), `flip` (the image and its left-right mirror image), or `crops` (the whole image and
            its corners of seven eighths of the side).

    Yields:
        (n, 3, input_px, input_px).
    """
    yield whole(pixels, input_px)
    if average == "flip":
        yield pixels.flip(-1)
    elif average == "crops":
        far = pixels.shape[-1] - input_px
        for top in (0, far):
            for left in (0, far):
                yield pixels[:, :, top : top + input_px, left : left + input_px]


def refuse_flip(specialty: str | None, average: str) -> None:
    """Refuse to average over mirror images if the specialty's preset forbids flips because the side is a finding.

    Raises:
        UserError: the preset of `specialty` has `flip: 0`.
    """
    if specialty is None or average != "flip":
        return
    preset = read_yaml(find_recipe("specialty", specialty)).get("augmentation") or {}
    orientation = preset.get("orientation") or {}
    if orientation and not orientation.get("flip", 0):
        raise UserError(
            f"embed.average=flip: images of the specialty `{specialty}` must not be mirrored "
            f"({orientation.get('because', 'left and right are findings')}); use embed.average=crops or none"
        )
