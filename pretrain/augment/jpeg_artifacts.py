"""JPEG compression and decompression of a batch of images, computed on the training device.

All lossy steps of JPEG are computed: YCbCr, 8 × 8 cosine transform, and quantisation with the tables of the standard's
annex K, scaled like in the library of the Independent JPEG Group. ITU-T T.81 (1992), annexes A and K.

Shapes: k images, v side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# T.81, tables K.1 (luma) and K.2 (chroma), row by row.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *[99] * 32,
)  # fmt: skip
# Colour conversion of JFIF (ITU-R 601).
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def quantisation_tables(quality: Tensor) -> Tensor:
    """(k,) qualities from 1 to 100 → (k, 2, 64) float32 steps of luma and chroma, 1 to 255: IJG's
    `jpeg_set_quality`."""
    quality = quality.float()
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    base = torch.tensor([_LUMA, _CHROMA], dtype=torch.float32, device=quality.device)
    return ((base * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)


def jpeg_roundtrip(pictures: Tensor, quality: Tensor, *, half_colour: bool, phase: tuple[int, int] = (0, 0)) -> Tensor:
    """Images after JPEG compression and decompression.

    Args:
        pictures: (k, 3, v, v) float32 RGB in 0–1.
        quality: (k,) whole numbers from 1 to 100.
        half_colour: colour at half the resolution in both directions (4:2:0, as in most cameras); else 4:4:4.
        phase: number of pixels of the first block beyond the left and the upper edge, 0–15.

    Returns:
        The same shape, in 0–1.
    """
    k, _, height, width = pictures.shape
    left, top = phase
    unit = 16 if half_colour else 8
    right, below = -(left + width) % unit, -(top + height) % unit
    padded = F.pad(pictures, (left, right, top, below), mode="replicate") if left + right + top + below else pictures
    device = pictures.device
    h, w = padded.shape[2:]
    ycc = (torch.tensor(_TO_YCC, device=device) * 255) @ padded.reshape(k, 3, h * w)
    ycc[:, 0] -= 128
    ycc = ycc.view(k, 3, h, w).round_()  # JPEG stores integers, and rounding changes many coefficients
    tables = quantisation_tables(quality)
    if half_colour:
        luma = _quantised(ycc[:, :1], tables[:, :1])
        chroma = _quantised(F.avg_pool2d(ycc[:, 1:], 2).round_(), tables[:, 1:])
        # libjpeg's "fancy upsampling" is this triangle filter.
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
        ycc = torch.cat([luma, chroma], dim=1)
    else:
        ycc = _quantised(ycc, tables[:, [0, 1, 1]])
    to_rgb = torch.tensor(_TO_RGB, device=device) / 255
    offset = to_rgb[:, :1] * 128  # of the luma
    rgb = torch.baddbmm(offset.expand(k, 3, 1), to_rgb.expand(k, 3, 3), ycc.reshape(k, 3, h * w))
    return rgb.view(k, 3, h, w)[:, :, top : top + height, left : left + width].clamp(0, 1)


def _quantised(planes: Tensor, tables: Tensor) -> Tensor:
    """(k, c, h, w) and (k, c, 64) steps → the planes with every 8 × 8 block's cosine coefficients rounded to steps."""
    k, c, h, w = planes.shape
    transform = cosine_transform(planes.device)  # (64, 64)
    blocks = planes.reshape(k, c, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(k, c, -1, 64)
    steps = tables[:, :, None]
    rounded = (blocks @ transform.T).div_(steps).round_().mul_(steps)
    back = (rounded @ transform).round_().clamp_(-128, 127).view(k, c, h // 8, w // 8, 8, 8)
    return back.transpose(3, 4).reshape(k, c, h, w)


def cosine_transform(device: torch.device) -> Tensor:
    """(64, 64) orthonormal: the two-dimensional DCT-II of a block read row by row (T.81, A.3.3)."""
    n = torch.arange(8, dtype=torch.float64)
    once = torch.cos((2 * n + 1) * n[:, None] * (math.pi / 16)) / 2
    once[0] /= math.sqrt(2)
    return torch.kron(once, once).to(device, torch.float32)
