"""The position of a view in its image, and one resampling that crops, flips, rotates and blurs.

Crop, flips and blur are linear and separable, so that one small matrix per axis and image applies all of them:
view = V · image · Hᵀ. The matrices are antialiased, unlike point sampling with `grid_sample`. A quarter turn exchanges
the axes of the result. Only a free rotation is not separable: the same matrices resample the crop, with a margin, to
slightly more than the view's resolution, and one bilinear sampling rotates it.

Shapes: b images of a batch, s side of the source, v side of the view.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.recipe import Range, Views

_TRIES = 10  # draws of a crop before the whole image is used, as in torchvision
_FINER = 1.25  # pixels per view pixel before a free rotation: with 1, bilinear sampling flattens edges by a fifth


class Pose(NamedTuple):
    """The geometry of the views of a batch; None for transformations that the recipe does not use.

    From view to image coordinates: exchange of the axes, flips, rotation around the centre, then scaling to the box.
    """

    boxes: Tensor  # (b, 4): left, top, width, height as shares of the image
    flip: Tensor | None = None  # (b,) bool: left and right exchanged
    flip_vertical: Tensor | None = None  # (b,) bool
    transpose: Tensor | None = None  # (b,) bool: rows and columns exchanged
    angle: Tensor | None = None  # (b,) radians; positive is clockwise
    largest_angle: float = 0.0  # radians; determines the margin


class Focus(NamedTuple):
    """Change of sharpness along each axis; detail is the difference between a view and its Gaussian blur."""

    amount: Tensor  # (b,) −1: all detail removed; 0: unchanged; positive: that share added (unsharp masking)
    sigma_px: Tensor  # (b,) of the Gaussian, in pixels of the view


def random_boxes(draw: Draw, scale: Range, aspect: Range) -> Tensor:
    """(b, 4) boxes (left, top, width, height) as shares of the image: Inception's random resized crop.

    The area is uniform in `scale`, the aspect ratio log-uniform in `aspect`; the first of ten draws that fits into
    the image is used, else the whole image.
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


def random_pose(draw: Draw, scale: Range, views: Views) -> Pose:
    """Random crop, flips, quarter turns and rotation with the probabilities in the recipe's `views`."""
    boxes = random_boxes(draw, scale, views.aspect)
    flip: Tensor | None = draw.happens(views.flip)
    vertical = draw.happens(views.flip_vertical) if views.flip_vertical > 0 else None
    transpose = None
    if views.quarter_turns > 0:
        turned, which = draw.happens(views.quarter_turns), draw.uniform(0, 3)
        # By 90° and 270°: exchange of the axes and one flip, left and right or above and below. By 180°: both flips.
        across, down = turned & (which < 2), turned & (which >= 1)
        flip = across if flip is None else flip ^ across
        vertical = down if vertical is None else vertical ^ down
        transpose = across ^ down
    if views.rotate_deg == 0:
        return Pose(boxes, flip, vertical, transpose)
    largest = math.radians(views.rotate_deg)
    angle = draw.uniform(-largest, largest)
    return Pose(moved_inside(boxes, angle), flip, vertical, transpose, angle, largest)


def moved_inside(boxes: Tensor, angle: Tensor) -> Tensor:
    """Boxes moved by the least distance that keeps their corners inside the image after rotation around their centre.

    A crop that is too large for this is centred; the part outside the image is filled by mirroring.
    """
    reach = angle.cos().abs() + angle.sin().abs()
    size = boxes[:, 2:]
    half = (size * reach[:, None] / 2).clamp_max(0.5)
    middle = boxes[:, :2] + size / 2
    return torch.cat([torch.minimum(torch.maximum(middle, half), 1 - half) - size / 2, size], dim=1)


def resampling_matrix(start: Tensor, length: Tensor, source_px: int, view_px: int, flip: Tensor | None) -> Tensor:
    """(b, v, s): rows are the triangle filter that resamples [start, start + length] of a unit interval to v pixels.

    The filter is wider than a pixel if the view is smaller than its source (antialiasing), else linear interpolation:
    the values of `interpolate(mode="bilinear", antialias=True)`. Beyond its ends the interval is mirrored.

    Args:
        start, length: (b,) shares of the axis.
        flip: (b,) bool, reverses the view; None for no flips.
    """
    step = length * (source_px / view_px)  # source pixels per view pixel
    position = torch.arange(view_px, device=start.device) + 0.5
    if flip is not None:
        position = torch.where(flip[:, None], view_px - position, position)
    centre = start[:, None] * source_px + position * step[:, None]  # (b, v)
    centre = (source_px - (source_px - centre.abs()).abs()).abs()
    pixel = torch.arange(source_px, device=start.device) + 0.5
    distance = (pixel - centre[:, :, None]).abs_()  # (b, v, s)
    weight = distance.div_(-step.clamp_min(1)[:, None, None]).add_(1).clamp_min_(0)
    return weight.div_(weight.sum(dim=2, keepdim=True))


def blur_matrix(sigma_px: Tensor, view_px: int) -> Tensor:
    """(b,) standard deviations → (b, v, v) Gaussian blur of an axis; 0 is no blur. Rows sum to one."""
    position = torch.arange(view_px, device=sigma_px.device, dtype=torch.float32)
    squared = (position[:, None] - position).square()
    exponent = squared / (-2 * sigma_px.clamp_min(1e-3).square()[:, None, None])
    weight = exponent.clamp_min_(
        -60
    ).exp_()  # smaller values would be denormal numbers, which are a hundred times slower
    return weight.div_(weight.sum(dim=2, keepdim=True))


def axis_filter(view_px: int, sigma_px: Tensor | None, focus: Focus | None) -> Tensor | None:
    """(b, v, v) blur, then focus, as one matrix per axis; None for neither."""
    blur = None if sigma_px is None else blur_matrix(sigma_px, view_px)
    if focus is None:
        return blur
    amount = focus.amount[:, None, None]
    change = blur_matrix(focus.sigma_px, view_px).mul_(-amount)  # (1 + amount) · identity − amount · Gaussian
    change.diagonal(dim1=1, dim2=2).add_(1 + focus.amount[:, None])
    return change if blur is None else change @ blur


def resample_views(
    pixels: Tensor, pose: Pose, view_px: int, *, sigma_px: Tensor | None = None, focus: Focus | None = None
) -> Tensor:
    """The views at `pose`, with blur and change of sharpness.

    Args:
        pixels: (b, s, s, 3) uint8, or float32 in 0–255.
        sigma_px: (b,) standard deviation of a Gaussian in pixels of the view; None for no blur.
        focus: change of sharpness after the blur; None for no change.

    Returns:
        (b, 3, v, v) float32 in 0–1; values may exceed this range after sharpening.
    """
    if pose.angle is None:
        change = axis_filter(view_px, sigma_px, focus)
        view = _separable(pixels, pose.boxes, view_px, pose.flip, pose.flip_vertical, change)
        return _exchanged(view, pose.transpose)
    # The square that contains the rotated view, in finer pixels, with a margin of one pixel for the sampling.
    reach = math.cos(min(pose.largest_angle, math.pi / 4)) + math.sin(min(pose.largest_angle, math.pi / 4))
    fine_px = math.ceil(view_px * reach * _FINER) + 2
    grown = fine_px / (view_px * _FINER)
    margin = pose.boxes[:, 2:] * ((grown - 1) / 2)
    boxes = torch.cat([pose.boxes[:, :2] - margin, pose.boxes[:, 2:] * grown], dim=1)
    # A Gaussian is isotropic, so that it may be applied before the rotation.
    change = axis_filter(
        fine_px,
        None if sigma_px is None else sigma_px * _FINER,
        None if focus is None else Focus(focus.amount, focus.sigma_px * _FINER),
    )
    fine = _separable(pixels, boxes, fine_px, None, None, change)
    # x and y in the coordinates of grid_sample: −1 to 1 over the fine square.
    grid = F.affine_grid(_turn(pose) / grown, [len(fine), 3, view_px, view_px], align_corners=False)
    return F.grid_sample(fine, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _turn(pose: Pose) -> Tensor:
    """(b, 2, 3): from the view's coordinates, −1 to 1 around its centre, to those of its box before flips and
    rotations."""
    boxes = pose.boxes
    none = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    x = torch.where(none if pose.flip is None else pose.flip, -1.0, 1.0)
    y = torch.where(none if pose.flip_vertical is None else pose.flip_vertical, -1.0, 1.0)
    swapped = none if pose.transpose is None else pose.transpose
    zero = torch.zeros_like(x)
    plain = torch.stack([torch.stack([x, zero], 1), torch.stack([zero, y], 1)], 1)
    matrix = torch.where(swapped[:, None, None], plain.flip(2), plain)
    if pose.angle is not None:
        cos, sin = pose.angle.cos(), pose.angle.sin()
        matrix = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1) @ matrix
    return F.pad(matrix, (0, 1))


def image_positions(pose: Pose, view_px: int) -> tuple[Tensor, Tensor]:
    """Position of each pixel centre of the views in its image: x and y, each (b, v, v), 0–1 over the image."""
    boxes = pose.boxes
    size = boxes[:, 2:]
    matrix = _turn(pose)[:, :, :2] * (size / 2)[:, :, None]
    middle = boxes[:, :2] + size / 2
    steps = (torch.arange(view_px, device=boxes.device) * 2 + 1) / view_px - 1
    x, y = (
        middle[:, axis, None, None]
        + matrix[:, axis, 0, None, None] * steps
        + matrix[:, axis, 1, None, None] * steps[:, None]
        for axis in (0, 1)
    )
    return x, y


def _exchanged(view: Tensor, transpose: Tensor | None) -> Tensor:
    return view if transpose is None else torch.where(transpose[:, None, None, None], view.transpose(2, 3), view)


def _separable(
    pixels: Tensor,
    boxes: Tensor,
    view_px: int,
    flip: Tensor | None,
    flip_vertical: Tensor | None,
    change: Tensor | None,
) -> Tensor:
    b, s = pixels.shape[:2]
    left, top, width, height = boxes.unbind(1)
    across = resampling_matrix(left, width, s, view_px, flip)
    down = resampling_matrix(top, height, s, view_px, flip_vertical).div_(255)
    if change is not None:
        across, down = change @ across, change @ down
    if pixels.device.type == "cpu":
        return _one_by_one(pixels, down, across)
    rows = down @ pixels.float().reshape(b, s, s * 3)  # (b, v, s · 3): no copy of the image for the first axis
    rows = rows.view(b, view_px, s, 3).permute(0, 3, 1, 2).reshape(b, 3 * view_px, s)
    return (rows @ across.transpose(1, 2)).view(b, 3, view_px, view_px)


def _one_by_one(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The same products restricted to the part of each image that its view shows; on a CPU this halves the work."""
    b, v = down.shape[:2]
    views = torch.empty(b, 3, v, v)
    for i, (y, x) in enumerate(zip(_used(down), _used(across), strict=True)):
        part = pixels[i, y, x].float()  # (h, w, 3)
        h, w = part.shape[:2]
        rows = (down[i, :, y] @ part.reshape(h, w * 3)).view(v, w, 3)
        torch.mm(rows.permute(2, 0, 1).reshape(3 * v, w), across[i, :, x].T, out=views[i].view(3 * v, v))
    return views


def _used(matrix: Tensor) -> list[slice]:
    """For each (v, s) matrix, the range of source pixels with a weight above 1e-6."""
    counts = (matrix.abs().amax(dim=1) > 1e-6).int()
    first, last = counts.argmax(dim=1), counts.shape[1] - counts.flip(1).argmax(dim=1)
    return [slice(low, high) for low, high in zip(first.tolist(), last.tolist(), strict=True)]
