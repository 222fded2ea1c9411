"""Views as another device would have made them: light, colour, sharpness, noise and compression changed at random.

An embedding that tells the camera from the white balance, the vignette or the JPEG tables will be confounded wherever
the cameras are not shared evenly among the diagnoses. A method that compares views of an image learns to ignore what
differs between them. **So every strength is drawn for each view by itself**: were it drawn once per image, both views
would carry the same made-up device, and to recognise it would be the easiest way to match them, which teaches to encode
devices rather than to ignore them. MAE paints back what it sees, made-up device included: to it, this is only variety.

It cannot reach what these five do not imitate: a field of view, a text on the screen, an order of examination.

Everything is computed at the resolution of the view, where the image is cut and scaled already: the noise, the blocks
and the softness are of the size that a network sees, not that of any camera's file.

Shapes: b images of a batch, k of them chosen, v side of the view.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pellucid.pretrain.augment.geometry import Focus, Pose, blur_matrix, image_positions
from pellucid.pretrain.augment.jpeg_artifacts import jpeg_roundtrip
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.recipe import Acquisition


def random_focus(draw: Draw, config: Acquisition) -> Focus | None:
    """Softer or sharper, for `cut` to do on its way; None where the recipe never asks for it."""
    if config.probability == 0 or config.sharpness == 0:
        return None
    amount = draw.uniform(-config.sharpness, config.sharpness) * draw.happens(config.probability)
    return Focus(amount, draw.uniform(*config.sharpness_sigma_px))


def shift_acquisition(views: Tensor, draw: Draw, config: Acquisition, pose: Pose) -> Tensor:
    """(b, 3, v, v) in 0–1 → the same, in place: vignette, tone and colour, noise, JPEG, each in the chosen images only.

    In the order of a camera; sharpness, which comes before the noise, is `random_focus`.
    """
    if config.probability == 0:
        return views
    if config.vignette > 0:
        chosen = draw.chosen(config.probability)
        strength, centre = draw.uniform(0, config.vignette), draw.uniform(0.4, 0.6, 2)
        light = vignette(pose, views.shape[2], strength, centre)
        _change(views, chosen, lambda x: x.mul_(light[chosen, None]))
    if config.cast > 0 or config.gamma > 0:
        chosen = draw.chosen(config.probability)
        gain = draw.uniform(-config.cast, config.cast, 3).exp()
        gamma = draw.uniform(-config.gamma, config.gamma).exp()
        _change(views, chosen, lambda x: toned(x, gain[chosen], gamma[chosen]))
    if config.shot_noise > 0 or config.read_noise > 0:
        chosen = draw.chosen(config.probability)
        shot, read = draw.uniform(0, config.shot_noise), draw.uniform(0, config.read_noise)
        seeds = draw.uniform(0, 2**16, 2).int()
        _change(
            views,
            chosen,
            lambda x: noisy(
                x, seeds[chosen], shot[chosen], read[chosen], sigma_px=config.noise_sigma_px, grey=config.grey_noise
            ),
        )
    if config.jpeg_quality is not None:
        low, high = config.jpeg_quality
        p = config.probability
        # One number decides both: whether it is saved as a JPEG, and with how much colour.
        full, half = draw.parted(p * (1 - config.jpeg_420), p)
        quality = draw.uniform(low, high + 1).floor().clamp_max_(high)
        # A network whose patches always began where a block does could read its own grid off the blocks.
        phase = int(draw.shared(0, 8)), int(draw.shared(0, 8))
        for chosen, half_colour in ((full, False), (half, True)):
            saved = partial(jpeg_roundtrip, quality=quality[chosen], half_colour=half_colour, phase=phase)
            _change(views.clamp_(0, 1), chosen, saved)
    return views


def _change(views: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    if len(chosen):
        views.index_copy_(0, chosen, change(views.index_select(0, chosen)))


def vignette(pose: Pose, view_px: int, strength: Tensor, centre: Tensor) -> Tensor:
    """(b, v, v) share of the light that arrives: the cos⁴ law about `centre`, down to 1 − strength half a diagonal off.

    It lies in the image and not in the view: a crop from the corner is dark throughout.

    Args:
        strength: (b,) in 0–1.
        centre: (b, 2), x and y as shares of the image.
    """
    x, y = image_positions(pose, view_px)
    squared = (x - centre[:, 0, None, None]).square_().add_((y - centre[:, 1, None, None]).square_())
    tan_squared = (1 - strength).rsqrt() - 1  # at a distance of √½, where cos⁴ = 1 / (1 + tan²)² is 1 − strength
    return squared.mul_(2 * tan_squared[:, None, None]).add_(1).square_().reciprocal_()


def toned(pictures: Tensor, gain: Tensor, gamma: Tensor) -> Tensor:
    """(k, 3, v, v) in 0–1 → gain · picture^gamma, clamped to 0–1; gain (k, 3), gamma (k,)."""
    return pictures.clamp_(0, 1).pow_(gamma[:, None, None, None]).mul_(gain[:, :, None, None]).clamp_(0, 1)


def noisy(pictures: Tensor, seeds: Tensor, shot: Tensor, read: Tensor, *, sigma_px: float, grey: bool) -> Tensor:
    """(k, 3, v, v) in 0–1 with sensor noise of variance shot² · brightness + read²; shot and read (k,).

    Args:
        seeds: (k, 2) int32 in 0–65535.
        sigma_px: how coarse it is; ultrasound's speckle is as wide as its resolution cell, not as a pixel.
        grey: the same in all channels.
    """
    k, _, v, _ = pictures.shape
    noise = counted_noise(seeds, (1 if grey else 3) * v * v).view(k, -1, v, v)
    if sigma_px > 0:
        spread = blur_matrix(noise.new_full((1,), sigma_px), v)[0]
        spread /= spread.square().sum(dim=1, keepdim=True).sqrt()  # sums of independent numbers: unit variance again
        noise = spread @ noise @ spread.T
    deviation = pictures.clamp_min_(0) * shot.square()[:, None, None, None]
    deviation.add_(read.square()[:, None, None, None]).sqrt_()
    return pictures.add_(deviation.mul_(noise)).clamp_(0, 1)


def counted_noise(seeds: Tensor, n: int) -> Tensor:
    """(k, 2) int32 → (k, n) numbers of mean 0 and variance 1, nearly normal, that depend on the seed and the place alone.

    A generator of the device would give other numbers on another device or with another number of processes, and
    numbers drawn on the CPU would have to be sent. Here a counter is hashed (Wellons' lowbias32, 32 bits in and out, one to
    one) and the four bytes are added up: the sum of four uniform numbers is normal to within three deviations.
    """
    x = torch.arange(n, dtype=torch.int32, device=seeds.device) + (seeds[:, :1] * 65536 + seeds[:, 1:])
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1)):
        x = x.bitwise_xor_((x >> shift) & (2 ** (32 - shift) - 1)).mul_(factor)  # >> copies the sign: mask it
    # Two bytes at a time, in the two halves of a word; then the halves.
    x = (x & 0x00FF00FF).add_((x >> 8).bitwise_and_(0x00FF00FF))
    total = (x & 0xFFFF).add_(x >> 16)
    return total.float().sub_(510).mul_((4 * (256**2 - 1) / 12) ** -0.5)
