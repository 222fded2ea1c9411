"""Colour jitter of a batch of views as one affine map per image, solarisation and normalisation.

Shapes: b images of a batch, v side of the view.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.recipe import Colour

# ITU-R 601 luma, the grey of PIL and torchvision; and NTSC's YIQ, in which a change of hue is a rotation.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def colour_transform(draw: Draw, colour: Colour, mean_rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Random colour change as (b, 3, 3) matrices and (b, 3) offsets: brightness, contrast, saturation, hue, then grey.

    torchvision shuffles the first four and clamps in between; a fixed order without clamping makes it a single matrix.

    Args:
        mean_rgb: (b, 3) mean colour of each view, the reference of the contrast change.
    """
    device = mean_rgb.device
    luma = torch.tensor(_LUMA, device=device)
    eye = torch.eye(3, device=device)
    grey = luma.expand(3, 3)  # every channel becomes the luma
    brightness = draw.uniform(1 - colour.brightness, 1 + colour.brightness)
    contrast = draw.uniform(1 - colour.contrast, 1 + colour.contrast)
    saturation = draw.uniform(1 - colour.saturation, 1 + colour.saturation)[:, None, None]
    angle = draw.uniform(-colour.hue, colour.hue) * (2 * math.pi)
    # Contrast mixes in the mean grey of the view after the brightness change.
    offset = ((1 - contrast) * brightness * (mean_rgb @ luma))[:, None].expand(-1, 3)
    later = hue_rotation(angle) @ (saturation * eye + (1 - saturation) * grey)
    matrix = later * (brightness * contrast)[:, None, None]
    offset = (later @ offset[:, :, None])[:, :, 0]
    changed = draw.happens(colour.probability)
    matrix = torch.where(changed[:, None, None], matrix, eye)
    offset = torch.where(changed[:, None], offset, torch.zeros_like(offset))
    to_grey = draw.happens(colour.grayscale)
    last = torch.where(to_grey[:, None, None], grey, eye)
    return last @ matrix, (last @ offset[:, :, None])[:, :, 0]


def hue_rotation(angle: Tensor) -> Tensor:
    """(b,) radians → (b, 3, 3) in RGB: a rotation of the chroma plane of YIQ, which keeps the luma."""
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
    from_yiq = torch.linalg.inv(to_yiq)
    # from_yiq · (P + cos Q + sin R) · to_yiq, with the three products fixed.
    still = from_yiq @ torch.diag(torch.tensor([1.0, 0, 0], dtype=torch.float64)) @ to_yiq
    cos_part = from_yiq @ torch.diag(torch.tensor([0.0, 1, 1], dtype=torch.float64)) @ to_yiq
    turn = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    sin_part = from_yiq @ turn @ to_yiq
    still, cos_part, sin_part = (part.to(angle.device, torch.float32) for part in (still, cos_part, sin_part))
    turned: Tensor = still + angle.cos()[:, None, None] * cos_part + angle.sin()[:, None, None] * sin_part
    return turned


def recolour(views: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """(b, 3, v, v) with every colour c replaced by matrix · c + offset."""
    b, _, v, _ = views.shape
    return torch.baddbmm(offset[:, :, None], matrix, views.reshape(b, 3, v * v)).view(b, 3, v, v)


def solarize(views: Tensor, chosen: Tensor) -> Tensor:
    """(b, 3, v, v) in 0–1 with values from one half up inverted in the `chosen` (b,) images."""
    inverted = (views >= 0.5) & chosen[:, None, None, None]
    return torch.where(inverted, 1 - views, views)


def normalize(views: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Clamp to 0–1, subtract `mean` and divide by `std`, each (3,)."""
    return views.clamp_(0, 1).sub_(mean[:, None, None]).div_(std[:, None, None])
