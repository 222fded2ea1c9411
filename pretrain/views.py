"""uint8 squares → augmented views, in batches and on the training device: the only place where pixels are changed.

A crop, its flip and its blur are linear and separable, so that one small matrix per axis and image does all three at
once: view = V · image · Hᵀ. The matrices are antialiased, unlike a point-sampling `grid_sample`. Brightness, contrast,
saturation, hue and grayscale are affine in colour: one 3 × 4 matrix per image. Both kinds commute, and what is left per
pixel is a clamp, the solarisation and the normalisation.

Shapes: b images of a batch, s side of the source, v side of the view.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pretrain.batches import step_seed
from pretrain.recipe import Colour, Range

# ITU-R 601 luma, the grey of PIL and torchvision; and NTSC's YIQ, in which a change of hue is a rotation.
_LUMA = (0.299, 0.587, 0.114)
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
_TRIES = 10  # draws of a crop before the whole image is taken, as in torchvision


class Draw:
    """The random numbers of one step: drawn for the global batch on the CPU, then this process's rows.

    So they depend on seed and step only: not on the device, not on the number of processes, not on what came before.
    """

    def __init__(self, seed: int, step: int, batch_size: int, rows: slice, device: torch.device) -> None:
        self.batch_size, self.rows, self.device = batch_size, rows, device
        self._generator = torch.Generator().manual_seed(step_seed(seed, step))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(b, *shape) float32, uniform in [low, high)."""
        values = torch.rand((self.batch_size, *shape), generator=self._generator)
        return (low + (high - low) * values[self.rows]).to(self.device, non_blocking=True)

    def happens(self, probability: float) -> Tensor:
        """(b,) bool, each true with `probability`."""
        return self.uniform(0, 1) < probability


def random_boxes(draw: Draw, scale: Range, aspect: Range) -> Tensor:
    """(b, 4) boxes (left, top, width, height) as shares of the image: Inception's random resized crop.

    The area is uniform in `scale`, the aspect ratio log-uniform in `aspect`; of ten draws the first that fits into the
    image is taken, else the whole image.
    """
    area = draw.uniform(scale[0], scale[1], _TRIES)
    ratio = draw.uniform(math.log(aspect[0]), math.log(aspect[1]), _TRIES).exp()
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.float().argmax(dim=1, keepdim=True)
    size = torch.stack([width.gather(1, first), height.gather(1, first)], dim=2)[:, 0]
    size = torch.where(fits.any(dim=1, keepdim=True), size, torch.ones_like(size))
    corner = draw.uniform(0, 1, 2) * (1 - size)
    return torch.cat([corner, size], dim=1)


def resampling_matrix(start: Tensor, length: Tensor, source_px: int, view_px: int, flip: Tensor | None) -> Tensor:
    """(b, v, s): rows are the triangle filter that resamples [start, start + length] of a unit interval to v pixels.

    Wider than a pixel where the view is smaller than its source (antialiasing), linear interpolation where it is larger;
    the same numbers as `interpolate(mode="bilinear", antialias=True)`.

    Args:
        start, length: (b,) shares of the axis.
        flip: (b,) bool, reverses the view; None for never.
    """
    step = length * (source_px / view_px)  # source pixels per view pixel
    position = torch.arange(view_px, device=start.device) + 0.5
    if flip is not None:
        position = torch.where(flip[:, None], view_px - position, position)
    centre = start[:, None] * source_px + position * step[:, None]  # (b, v)
    pixel = torch.arange(source_px, device=start.device) + 0.5
    distance = (pixel - centre[:, :, None]).abs_()  # (b, v, s)
    weight = distance.div_(-step.clamp_min(1)[:, None, None]).add_(1).clamp_min_(0)
    return weight.div_(weight.sum(dim=2, keepdim=True))


def blur_matrix(sigma_px: Tensor, view_px: int) -> Tensor:
    """(b,) standard deviations → (b, v, v) Gaussian blur of an axis; 0 leaves it as it is. Rows sum to one."""
    position = torch.arange(view_px, device=sigma_px.device, dtype=torch.float32)
    squared = (position[:, None] - position).square()
    exponent = squared / (-2 * sigma_px.clamp_min(1e-3).square()[:, None, None])
    weight = exponent.clamp_min_(-60).exp_()  # below that lie denormal numbers, a hundred times slower
    return weight.div_(weight.sum(dim=2, keepdim=True))


def cut(
    pixels: Tensor,
    boxes: Tensor,
    view_px: int,
    *,
    flip: Tensor | None = None,
    sigma_px: Tensor | None = None,
) -> Tensor:
    """(b, s, s, 3) float32 in 0–255 and (b, 4) boxes → (b, 3, v, v) in 0–1, flipped left to right and blurred."""
    b, s = pixels.shape[:2]
    left, top, width, height = boxes.unbind(1)
    across = resampling_matrix(left, width, s, view_px, flip)
    down = resampling_matrix(top, height, s, view_px, None).div_(255)
    if sigma_px is not None:
        blur = blur_matrix(sigma_px, view_px)
        across, down = blur @ across, blur @ down
    rows = down @ pixels.reshape(b, s, s * 3)  # (b, v, s · 3): no copy of the image for the first axis
    rows = rows.view(b, view_px, s, 3).permute(0, 3, 1, 2).reshape(b, 3 * view_px, s)
    return (rows @ across.transpose(1, 2)).view(b, 3, view_px, view_px)


def colour_transform(draw: Draw, colour: Colour, mean_rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Random colour change as (b, 3, 3) matrices and (b, 3) offsets: brightness, contrast, saturation, hue, then grey.

    torchvision shuffles the first four and clamps in between; one order without clamps is what makes it a matrix.

    Args:
        mean_rgb: (b, 3) mean colour of each view, which contrast pulls towards.
    """
    device = mean_rgb.device
    luma = torch.tensor(_LUMA, device=device)
    eye = torch.eye(3, device=device)
    grey = luma.expand(3, 3)  # every channel becomes the luma
    brightness = draw.uniform(1 - colour.brightness, 1 + colour.brightness)
    contrast = draw.uniform(1 - colour.contrast, 1 + colour.contrast)
    saturation = draw.uniform(1 - colour.saturation, 1 + colour.saturation)[:, None, None]
    angle = draw.uniform(-colour.hue, colour.hue) * (2 * math.pi)
    # Contrast mixes in the mean grey of the picture as brightness left it.
    offset = ((1 - contrast) * brightness * (mean_rgb @ luma))[:, None].expand(-1, 3)
    later = _hue_rotation(angle) @ (saturation * eye + (1 - saturation) * grey)
    matrix = later * (brightness * contrast)[:, None, None]
    offset = (later @ offset[:, :, None])[:, :, 0]
    changed = draw.happens(colour.probability)
    matrix = torch.where(changed[:, None, None], matrix, eye)
    offset = torch.where(changed[:, None], offset, torch.zeros_like(offset))
    to_grey = draw.happens(colour.grayscale)
    last = torch.where(to_grey[:, None, None], grey, eye)
    return last @ matrix, (last @ offset[:, :, None])[:, :, 0]


def _hue_rotation(angle: Tensor) -> Tensor:
    """(b,) radians → (b, 3, 3) in RGB: a rotation of the chroma plane of YIQ, which leaves the luma as it is."""
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


def random_mask(draw: Draw, n_patches: int, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Indices of the patches kept, (b, n_keep), and masked, (b, n_patches − n_keep): uniform without replacement.

    MAE, He et al. 2021, section 3: sorting noise. n_keep = ⌊n_patches · (1 − mask_ratio)⌋, at least one.
    """
    n_keep = max(1, int(n_patches * (1 - mask_ratio)))
    shuffled = draw.uniform(0, 1, n_patches).argsort(dim=1)
    return shuffled[:, :n_keep], shuffled[:, n_keep:]
