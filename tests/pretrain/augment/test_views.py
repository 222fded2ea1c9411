"""Views: crops against PyTorch's antialiased resize, colour against torchvision, and what randomness may depend on."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from pellucid.pretrain.augment.colour_jitter import colour_transform, hue_rotation, normalize, recolour, solarize
from pellucid.pretrain.augment.geometry import (
    Pose,
    blur_matrix,
    image_positions,
    moved_inside,
    random_boxes,
    random_pose,
    resample_views,
)
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.augment.views import make_view, random_mask
from pellucid.pretrain.recipe import Colour, DinoViews, MaeViews, load_recipe

CPU = torch.device("cpu")


def draw(step: int = 0, batch: int = 64, rows: slice | None = None, seed: int = 0) -> Draw:
    return Draw(seed, step, batch, rows or slice(0, batch), CPU)


def pixels(b: int = 3, s: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (b, s, s, 3), generator=torch.Generator().manual_seed(1)).float()


WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize("view_px", [8, 11, 24, 40])
def test_the_whole_image_is_resized_as_pytorch_does_with_antialiasing(view_px: int) -> None:
    x = pixels()
    expected = F.interpolate(x.permute(0, 3, 1, 2) / 255, size=(view_px, view_px), mode="bilinear", antialias=True)
    torch.testing.assert_close(resample_views(x, Pose(WHOLE.expand(3, 4)), view_px), expected, atol=1e-5, rtol=0)


def test_a_crop_is_cut_where_its_box_says() -> None:
    x = pixels()
    box = torch.tensor([[6 / 24, 3 / 24, 12 / 24, 15 / 24]]).expand(3, 4)  # left 6, top 3, 12 wide, 15 high
    expected = F.interpolate(x[:, 3:18, 6:18].permute(0, 3, 1, 2) / 255, size=(30, 30), mode="bilinear")
    inner = (..., slice(2, -2), slice(2, -2))  # at its edge ours looks at the pixels beyond, as a camera would
    torch.testing.assert_close(resample_views(x, Pose(box), 30)[inner], expected[inner], atol=1e-5, rtol=0)


def test_flip_turns_left_and_right_of_the_chosen_images_only() -> None:
    x = pixels()
    plain = resample_views(x, Pose(WHOLE.expand(3, 4)), 16)
    flipped = resample_views(x, Pose(WHOLE.expand(3, 4), torch.tensor([True, False, True])), 16)
    torch.testing.assert_close(flipped[0], plain[0].flip(-1))
    torch.testing.assert_close(flipped[1], plain[1])


def test_blur_is_a_gaussian_and_sigma_zero_is_none() -> None:
    x = pixels()
    sigma = torch.tensor([0.0, 0.8, 1.5])
    plain, blurred = (
        resample_views(x, Pose(WHOLE.expand(3, 4)), 24),
        resample_views(x, Pose(WHOLE.expand(3, 4)), 24, sigma_px=sigma),
    )
    torch.testing.assert_close(blurred[0], plain[0])
    for i in (1, 2):
        expected = tv.gaussian_blur(plain[i], [13, 13], [float(sigma[i])] * 2)
        torch.testing.assert_close(blurred[i][:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=2e-4, rtol=0)
    torch.testing.assert_close(blur_matrix(sigma, 24).sum(2), torch.ones(3, 24))


def smooth(s: int = 96) -> torch.Tensor:
    """(1, s, s, 3): a picture without detail finer than any filter here, so that methods of resampling agree."""
    y, x = torch.meshgrid(*[(torch.arange(s) + 0.5) / s] * 2, indexing="ij")
    waves = [(6 * x + 2 * y).sin(), (5 * y - 3 * x).cos(), (9 * x * y).sin()]
    return torch.stack(waves, dim=2)[None] * 100 + 128


def at(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same picture, computed at (x, y) instead of resampled."""
    return (
        torch.stack([(6 * x + 2 * y).sin(), (5 * y - 3 * x).cos(), (9 * x * y).sin()], dim=1) * (100 / 255) + 128 / 255
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("degrees", [None, 0.0, 20.0, -75.0, 160.0])
def test_every_pose_shows_the_picture_where_its_positions_say(
    flip: bool, vertical: bool, transpose: bool, degrees: float | None
) -> None:
    yes = torch.tensor([True])
    angle = None if degrees is None else torch.tensor([math.radians(degrees)])
    box = torch.tensor([[0.3, 0.25, 0.36, 0.44]])
    pose = Pose(box, yes & flip, yes & vertical, yes & transpose, angle, math.pi)
    torch.testing.assert_close(resample_views(smooth(), pose, 48), at(*image_positions(pose, 48)), atol=4e-3, rtol=0)


def test_positions_without_turns_are_the_crop_and_flips_mirror_it() -> None:
    box = torch.tensor([[0.25, 0.5, 0.5, 0.25]])
    x, y = image_positions(Pose(box), 4)
    torch.testing.assert_close(x[0, 0], torch.tensor([0.3125, 0.4375, 0.5625, 0.6875]))
    torch.testing.assert_close(y[0, :, 0], 0.5 + (torch.arange(4) + 0.5) / 16)
    mirrored, _ = image_positions(Pose(box, torch.tensor([True])), 4)
    torch.testing.assert_close(mirrored, x.flip(2))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotation_by_quarter_turns_is_rot90(degrees: int) -> None:
    noise = F.interpolate(pixels(1, 16).permute(0, 3, 1, 2), size=(48, 48), mode="bicubic").permute(0, 2, 3, 1)
    turned = resample_views(noise, Pose(WHOLE, angle=torch.tensor([math.radians(degrees)]), largest_angle=math.pi), 48)
    expected = resample_views(noise, Pose(WHOLE), 48).rot90(-degrees // 90, (2, 3))  # clockwise
    assert float((turned - expected).abs().mean()) < 0.02  # the sampling softens what it turns
    assert float((turned - expected.flip(3)).abs().mean()) > 0.15


@pytest.mark.parametrize("degrees", [10.0, 37.0, -120.0])
def test_rotation_is_opencvs(degrees: float) -> None:
    """On a real texture: what OpenCV samples from an image that was first blurred to the view's resolution."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (120, 120, 3)).astype(np.float32), (0, 0), 2.5)
    picture = (picture - picture.min()) / (picture.max() - picture.min()) * 255
    pose = Pose(
        torch.tensor([[0.25, 0.25, 0.5, 0.5]]), angle=torch.tensor([math.radians(degrees)]), largest_angle=math.pi
    )
    ours = resample_views(torch.from_numpy(picture)[None], pose, 60)[0].permute(1, 2, 0).numpy() * 255
    turn = cv2.getRotationMatrix2D((59.5, 59.5), -degrees, 1)  # OpenCV counts anticlockwise, from pixel centres
    turned = cv2.warpAffine(picture, turn, (120, 120), flags=cv2.INTER_CUBIC)[30:90, 30:90]
    assert float(np.abs(ours - turned).mean()) < 0.01 * float(turned.max() - turned.min())


def test_a_rotated_view_is_antialiased() -> None:
    """Stripes finer than the view can hold become grey, where sampling points would show false ones."""
    stripes = torch.zeros(1, 240, 240, 3)
    stripes[:, :, ::2] = 255
    pose = Pose(torch.tensor([[0.2, 0.2, 0.6, 0.6]]), angle=torch.tensor([0.3]), largest_angle=0.5)
    view = resample_views(stripes, pose, 48)
    assert float((view - 0.5).abs().max()) < 0.04  # points would give 0.5


def test_blur_is_the_same_whether_the_view_is_rotated_or_not() -> None:
    x = torch.zeros(1, 64, 64, 3)
    x[:, 32, 32] = 255 * 64
    sigma = torch.tensor([2.0])
    box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
    plain = resample_views(x, Pose(box), 32, sigma_px=sigma)
    turned = resample_views(x, Pose(box, angle=torch.tensor([0.0]), largest_angle=0.1), 32, sigma_px=sigma)
    torch.testing.assert_close(turned, plain, atol=0.08 * float(plain.max()), rtol=0)


def test_crops_are_moved_inside_and_what_is_too_large_is_mirrored() -> None:
    many = draw(batch=2000)
    boxes = random_boxes(many, (0.1, 0.3), (0.75, 4 / 3))
    angle = many.uniform(-0.5, 0.5)
    moved = moved_inside(boxes, angle)
    x, y = image_positions(Pose(moved, angle=angle, largest_angle=0.5), 8)
    assert min(float(x.min()), float(y.min())) >= 0
    assert max(float(x.max()), float(y.max())) <= 1
    assert bool(((moved == boxes).all(1) | (angle.abs() > 0)).all())
    assert float((moved - boxes)[:, 2:].abs().max()) == 0
    assert 0.05 < float((moved - boxes).abs().amax(1).gt(1e-6).float().mean()) < 0.7  # only those near an edge
    # The whole image at 45°: white stays white in the corners, nothing is filled with black.
    whole = resample_views(
        torch.full((1, 40, 40, 3), 255.0), Pose(WHOLE, angle=torch.tensor([math.pi / 4]), largest_angle=1.0), 32
    )
    torch.testing.assert_close(whole, torch.ones_like(whole))


def test_quarter_turns_and_flips_make_all_eight_poses_alike() -> None:
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu", "views": {"flip": 0.5, "quarter_turns": 0.75}})
    assert isinstance(recipe.views, MaeViews)
    pose = random_pose(draw(batch=8000), (1.0, 1.0), recipe.views)
    assert pose.flip is not None
    assert pose.flip_vertical is not None
    assert pose.transpose is not None
    which = pose.flip * 4 + pose.flip_vertical * 2 + pose.transpose
    share = torch.bincount(which, minlength=8) / 8000
    assert float((share - 1 / 8).abs().max()) < 0.02  # five standard errors


def test_half_turns_come_as_often_as_the_others() -> None:
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu", "views": {"flip": 0, "quarter_turns": 0.6}})
    pose = random_pose(draw(batch=8000), (1.0, 1.0), recipe.views)
    x = smooth(32).expand(8000, -1, -1, -1)[:1]
    plain = resample_views(x, Pose(WHOLE), 8)
    turns = [plain.rot90(k, (2, 3)) for k in range(4)]
    kinds = torch.stack([pose.flip, pose.flip_vertical, pose.transpose], dim=1).unique(dim=0)  # type: ignore[list-item]
    seen = []
    for flip, vertical, transpose in kinds:
        view = resample_views(x, Pose(WHOLE, flip[None], vertical[None], transpose[None]), 8)
        seen.append(min(range(4), key=lambda k: float((turns[k] - view).abs().max())))
        torch.testing.assert_close(view, turns[seen[-1]], atol=1e-5, rtol=0)  # a turn, never a mirror image
    assert sorted(seen) == [0, 1, 2, 3]
    turned = (pose.flip | pose.flip_vertical | pose.transpose).float().mean()  # type: ignore[operator]
    assert abs(float(turned) - 0.6) < 0.03


class Fixed(Draw):
    """A Draw whose uniform numbers are the upper end of their range, and where everything happens."""

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.full((self.batch_size, *shape), high)

    def happens(self, probability: float) -> torch.Tensor:
        return torch.full((self.batch_size,), probability > 0)


def test_colour_is_torchvisions_brightness_contrast_saturation() -> None:
    x = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.3  # far from any clamp
    strength = Colour(probability=1, brightness=0.2, contrast=0.3, saturation=0.4, hue=0, grayscale=0)
    ours = recolour(x, *colour_transform(Fixed(0, 0, 4, slice(0, 4), CPU), strength, x.mean((2, 3))))
    expected = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(x, 1.2), 1.3), 1.4)
    torch.testing.assert_close(ours, expected, atol=2e-3, rtol=0)  # torchvision rounds the luma weights


def test_grayscale_and_untouched() -> None:
    x = torch.rand(4, 3, 10, 10)
    nothing = Colour(probability=0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0)
    torch.testing.assert_close(recolour(x, *colour_transform(draw(batch=4), nothing, x.mean((2, 3)))), x)
    grey = nothing.model_copy(update={"grayscale": 1.0})
    ours = recolour(x, *colour_transform(draw(batch=4), grey, x.mean((2, 3))))
    torch.testing.assert_close(ours, tv.rgb_to_grayscale(x, 3), atol=2e-3, rtol=0)


def test_hue_rotates_colour_and_leaves_luma_and_grey_alone() -> None:
    angle = torch.tensor([0.0, 0.4, -1.1, 2 * math.pi])
    turn = hue_rotation(angle)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(luma @ turn, luma.expand(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn @ torch.ones(3), torch.ones(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn[0], torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn[3], torch.eye(3), atol=1e-5, rtol=0)
    assert (turn[1] - torch.eye(3)).abs().max() > 0.1


def test_solarize_and_normalize() -> None:
    x = torch.rand(2, 3, 4, 4)
    chosen = torch.tensor([True, False])
    expected = torch.stack([tv.solarize(x[0], 0.5), x[1]])
    torch.testing.assert_close(solarize(x, chosen), expected)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.4, 0.3])
    torch.testing.assert_close(normalize(x.clone(), mean, std), tv.normalize(x, mean.tolist(), std.tolist()))


def test_boxes_lie_in_the_image_and_have_the_area_and_aspect_asked_for() -> None:
    boxes = random_boxes(draw(batch=4000), (0.2, 0.6), (0.75, 4 / 3))
    left, top, width, height = boxes.unbind(1)
    area, ratio = width * height, width / height
    assert bool(
        (left >= 0).all() and (top >= 0).all() and (left + width <= 1.0001).all() and (top + height <= 1.0001).all()
    )
    assert 0.199 < float(area.min()) < 0.21
    assert 0.59 < float(area.max()) < 0.601
    assert abs(float(area.mean()) - 0.4) < 0.01
    assert 0.749 < float(ratio.min()) < 0.76
    assert abs(float(ratio.log().mean())) < 0.02


def test_a_crop_that_never_fits_is_the_whole_image() -> None:
    torch.testing.assert_close(random_boxes(draw(batch=2), (1.0, 1.0), (4.0, 5.0)), WHOLE.expand(2, 4))


def test_mask_parts_the_patches_in_the_ratio_and_uniformly() -> None:
    keep, masked = random_mask(draw(batch=4000), 49, 0.75)
    assert keep.shape == (4000, 12)
    assert bool((torch.cat([keep, masked], dim=1).sort(dim=1).values == torch.arange(49)).all())
    share = torch.bincount(keep.flatten(), minlength=49) / 4000
    assert float((share - 12 / 49).abs().max()) < 0.035  # five standard errors


def test_randomness_depends_on_seed_and_step_and_not_on_how_the_batch_is_shared() -> None:
    whole = draw(step=3, batch=8).uniform(0, 1, 5)
    halves = [draw(step=3, batch=8, rows=rows).uniform(0, 1, 5) for rows in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, draw(step=4, batch=8).uniform(0, 1, 5))
    assert not torch.equal(whole, draw(step=3, batch=8, seed=1).uniform(0, 1, 5))


def recipe_views(**changes: object) -> DinoViews:
    _, recipe = load_recipe({"recipe": "dino-tiny-cpu", "views": changes})
    assert isinstance(recipe.views, DinoViews)
    return recipe.views


MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
ALL_ON = {
    "flip_vertical": 0.5,
    "quarter_turns": 0.5,
    "rotate_deg": 20,
    "global_2": {"solarize": 0.5, "blur": 0.5},
}


@pytest.mark.parametrize("changes", [{}, ALL_ON])
def test_a_view_of_a_share_of_the_batch_is_that_share_of_the_views(changes: dict[str, object]) -> None:
    x = torch.randint(0, 256, (6, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    views = recipe_views(**changes)
    whole = make_view(x, draw(batch=6), views.global_2, 32, views, MEAN, STD)
    parts = [
        make_view(x[rows], draw(batch=6, rows=rows), views.global_2, 32, views, MEAN, STD)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-5)
    assert whole.shape == (6, 3, 32, 32)
    assert x.dtype == torch.uint8


def test_maes_view_is_the_normalised_crop_and_nothing_else() -> None:
    x = pixels(5, 40)
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu"})
    assert isinstance(recipe.views, MaeViews)
    again = draw(batch=5)
    pose = Pose(random_boxes(again, recipe.views.crop.scale, recipe.views.aspect), again.happens(0.5))
    expected = tv.normalize(resample_views(x, pose, 32), MEAN.tolist(), STD.tolist())
    torch.testing.assert_close(make_view(x, draw(batch=5), recipe.views.crop, 32, recipe.views, MEAN, STD), expected)
