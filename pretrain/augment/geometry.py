"""Where a view lies in its image, and the one resampling that cuts, flips, turns, rotates and blurs it.

A crop, its flips and its blur are linear and separable, so that one small matrix per axis and image does all of them at
once: view = V · image · Hᵀ. The matrices are antialiased, unlike a point-sampling `grid_sample`. A quarter turn
exchanges the axes of the result. Only a free rotation is not separable: there the same matrices bring the crop, with a
margin, to somewhat more than the view's resolution, and one bilinear sampling turns that.

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

_TRIES = 10  # draws of a crop before the whole image is taken, as in torchvision
_FINER = 1.25  # pixels per view pixel before a free rotation: with 1, bilinear sampling takes a fifth of the slopes


class Pose(NamedTuple):
    """How the views of a batch lie in their images; None where the recipe never does it.

    A view's pixel is looked up so: exchange of the axes, flips, rotation about the middle, then stretch onto the box.
    """

    boxes: Tensor  # (b, 4): left, top, width, height as shares of the image
    flip: Tensor | None = None  # (b,) bool: left and right exchanged
    flip_vertical: Tensor | None = None  # (b,) bool
    transpose: Tensor | None = None  # (b,) bool: rows and columns exchanged
    angle: Tensor | None = None  # (b,) radians; positive turns the picture clockwise
    largest_angle: float = 0.0  # radians; what the margin must allow for


class Focus(NamedTuple):
    """How much softer or sharper views become along each axis: the detail is what a Gaussian takes away."""

    amount: Tensor  # (b,) −1: all detail gone; 0: as it was; positive: that share added (unsharp masking)
    sigma_px: Tensor  # (b,) of the Gaussian, in pixels of the view


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


def random_pose(draw: Draw, scale: Range, views: Views) -> Pose:
    """Crop, flips, quarter turns and rotation as the recipe's views ask for."""
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
    """Boxes moved by as little as it takes for their corners to stay in the image when turned about their middle.

    A crop that is too large for that is put in the middle; what then sticks out is filled by mirroring.
    """
    reach = angle.cos().abs() + angle.sin().abs()
    size = boxes[:, 2:]
    half = (size * reach[:, None] / 2).clamp_max(0.5)
    middle = boxes[:, :2] + size / 2
    return torch.cat([torch.minimum(torch.maximum(middle, half), 1 - half) - size / 2, size], dim=1)


def resampling_matrix(start: Tensor, length: Tensor, source_px: int, view_px: int, flip: Tensor | None) -> Tensor:
    """(b, v, s): rows are the triangle filter that resamples [start, start + length] of a unit interval to v pixels.

    Wider than a pixel where the view is smaller than its source (antialiasing), linear interpolation where it is larger;
    the same numbers as `interpolate(mode="bilinear", antialias=True)`. Beyond its ends the interval is mirrored.

    Args:
        start, length: (b,) shares of the axis.
        flip: (b,) bool, reverses the view; None for never.
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
    """(b,) standard deviations → (b, v, v) Gaussian blur of an axis; 0 leaves it as it is. Rows sum to one."""
    position = torch.arange(view_px, device=sigma_px.device, dtype=torch.float32)
    squared = (position[:, None] - position).square()
    exponent = squared / (-2 * sigma_px.clamp_min(1e-3).square()[:, None, None])
    weight = exponent.clamp_min_(-60).exp_()  # below that lie denormal numbers, a hundred times slower
    return weight.div_(weight.sum(dim=2, keepdim=True))


def axis_filter(view_px: int, sigma_px: Tensor | None, focus: Focus | None) -> Tensor | None:
    """(b, v, v) what blur, then focus, do to an axis; None for nothing."""
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
    """The views at `pose`, blurred and refocused where asked.

    Args:
        pixels: (b, s, s, 3) uint8, or float32 in 0–255.
        sigma_px: (b,) standard deviation of a Gaussian in pixels of the view; None for never.
        focus: a change of sharpness, after the blur; None for never.

    Returns:
        (b, 3, v, v) float32 in 0–1; sharpening goes beyond.
    """
    if pose.angle is None:
        change = axis_filter(view_px, sigma_px, focus)
        view = _separable(pixels, pose.boxes, view_px, pose.flip, pose.flip_vertical, change)
        return _exchanged(view, pose.transpose)
    # The square that holds the view however it is turned, in finer pixels, and one of them more for the sampling.
    reach = math.cos(min(pose.largest_angle, math.pi / 4)) + math.sin(min(pose.largest_angle, math.pi / 4))
    fine_px = math.ceil(view_px * reach * _FINER) + 2
    grown = fine_px / (view_px * _FINER)
    margin = pose.boxes[:, 2:] * ((grown - 1) / 2)
    boxes = torch.cat([pose.boxes[:, :2] - margin, pose.boxes[:, 2:] * grown], dim=1)
    # A Gaussian looks the same from every side, so that it may come before the rotation.
    change = axis_filter(
        fine_px,
        None if sigma_px is None else sigma_px * _FINER,
        None if focus is None else Focus(focus.amount, focus.sigma_px * _FINER),
    )
    fine = _separable(pixels, boxes, fine_px, None, None, change)
    # Rows of x and y as grid_sample counts them: from −1 to 1 over the fine square.
    grid = F.affine_grid(_turn(pose) / grown, [len(fine), 3, view_px, view_px], align_corners=False)
    return F.grid_sample(fine, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _turn(pose: Pose) -> Tensor:
    """(b, 2, 3): from the view's coordinates, −1 to 1 about its middle, to those of its box before flips and turns."""
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
    """Where the centre of each pixel of the views lies in its image: x and y, each (b, v, v), 0–1 over the image."""
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
    """The same products, but only of the part of each image that its view shows: on a CPU that halves the work."""
    b, v = down.shape[:2]
    views = torch.empty(b, 3, v, v)
    for i, (y, x) in enumerate(zip(_used(down), _used(across), strict=True)):
        part = pixels[i, y, x].float()  # (h, w, 3)
        h, w = part.shape[:2]
        rows = (down[i, :, y] @ part.reshape(h, w * 3)).view(v, w, 3)
        torch.mm(rows.permute(2, 0, 1).reshape(3 * v, w), across[i, :, x].T, out=views[i].view(3 * v, v))
    return views


def _used(matrix: Tensor) -> list[slice]:
    """Of each (v, s) matrix, the pixels of the source that count: the others' weights are nothing or next to it."""
    counts = (matrix.abs().amax(dim=1) > 1e-6).int()
    first, last = counts.argmax(dim=1), counts.shape[1] - counts.flip(1).argmax(dim=1)
    return [slice(low, high) for low, high in zip(first.tolist(), last.tolist(), strict=True)]
