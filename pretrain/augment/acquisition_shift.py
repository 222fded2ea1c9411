"""Acquisition-robust augmentation: simulate other devices by random light, colour, sharpness, noise and compression.

An embedding that encodes the camera by white balance, vignette or JPEG tables is confounded if cameras and diagnoses
are associated. A method that compares views of an image learns to ignore differences between them. **Every view
therefore has independent random strengths**: with one draw per image, both views would show the same simulated device,
and matching them by device would be easiest, so that the network would learn to encode devices. MAE reconstructs its
input including the simulated device; for MAE this augmentation only adds variety.

It does not simulate other device effects, such as the field of view, text on the screen or the order of an examination.

Everything is computed at the resolution of the view, after cropping and scaling: noise, blocks and blur have the scale
that the network receives, not that of a camera's file.

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
    """Random sharpness change, applied by `resample_views`; None if the recipe has none."""
    if config.probability == 0 or config.sharpness == 0:
        return None
    amount = draw.uniform(-config.sharpness, config.sharpness) * draw.happens(config.probability)
    return Focus(amount, draw.uniform(*config.sharpness_sigma_px))


def shift_acquisition(views: Tensor, draw: Draw, config: Acquisition, pose: Pose) -> Tensor:
    """(b, 3, v, v) in 0–1 → the same, in place: vignette, tone and colour, noise, JPEG, each in randomly selected
    images.

    The order is that of a camera; sharpness, which precedes the noise, is `random_focus`.
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
        # One random number decides whether an image is compressed, and with which chroma subsampling.
        full, half = draw.parted(p * (1 - config.jpeg_420), p)
        quality = draw.uniform(low, high + 1).floor().clamp_max_(high)
        # Random phase: if blocks always began with a patch, the network could detect its own patch grid.
        phase = int(draw.shared(0, 8)), int(draw.shared(0, 8))
        for chosen, half_colour in ((full, False), (half, True)):
            saved = partial(jpeg_roundtrip, quality=quality[chosen], half_colour=half_colour, phase=phase)
            _change(views.clamp_(0, 1), chosen, saved)
    return views


def _change(views: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    if len(chosen):
        views.index_copy_(0, chosen, change(views.index_select(0, chosen)))


def vignette(pose: Pose, view_px: int, strength: Tensor, centre: Tensor) -> Tensor:
    """(b, v, v) relative brightness: the cos⁴ law around `centre`, down to 1 − strength at half a diagonal.

    It is defined in the image and not in the view: a crop from a corner is dark throughout.

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
        sigma_px: coarseness; the speckle of ultrasound is as wide as a resolution cell, not a pixel.
        grey: equal noise in all channels.
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
    """(k, 2) int32 → (k, n) numbers of mean 0 and variance 1, nearly normal, that depend only on seed and position.

    A generator of the device would depend on the device and the number of processes, and numbers drawn on the CPU would
    have to be transferred. Instead a counter is hashed (Wellons' lowbias32, a bijection of 32 bits) and the four bytes
    are added: the sum of four uniform numbers is nearly normal within three standard deviations.
    """
    x = torch.arange(n, dtype=torch.int32, device=seeds.device) + (seeds[:, :1] * 65536 + seeds[:, 1:])
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1)):
        x = x.bitwise_xor_((x >> shift) & (2 ** (32 - shift) - 1)).mul_(factor)  # >> copies the sign: mask it
    # Two bytes at a time, in the two halves of a word; then the halves.
    x = (x & 0x00FF00FF).add_((x >> 8).bitwise_and_(0x00FF00FF))
    total = (x & 0xFFFF).add_(x >> 16)
    return total.float().sub_(510).mul_((4 * (256**2 - 1) / 12) ** -0.5)
