"""Views: crops against PyTorch's antialiased resize, colour against torchvision, and what randomness may depend on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as tv

from pretrain.recipe import Colour
from pretrain.views import (
    Draw,
    _hue_rotation,
    blur_matrix,
    colour_transform,
    cut,
    normalize,
    random_boxes,
    random_mask,
    recolour,
    solarize,
)

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
    torch.testing.assert_close(cut(x, WHOLE.expand(3, 4), view_px), expected, atol=1e-5, rtol=0)


def test_a_crop_is_cut_where_its_box_says() -> None:
    x = pixels()
    box = torch.tensor([[6 / 24, 3 / 24, 12 / 24, 15 / 24]]).expand(3, 4)  # left 6, top 3, 12 wide, 15 high
    expected = F.interpolate(x[:, 3:18, 6:18].permute(0, 3, 1, 2) / 255, size=(30, 30), mode="bilinear")
    inner = (..., slice(2, -2), slice(2, -2))  # at its edge ours looks at the pixels beyond, as a camera would
    torch.testing.assert_close(cut(x, box, 30)[inner], expected[inner], atol=1e-5, rtol=0)


def test_flip_turns_left_and_right_of_the_chosen_images_only() -> None:
    x = pixels()
    plain = cut(x, WHOLE.expand(3, 4), 16)
    flipped = cut(x, WHOLE.expand(3, 4), 16, flip=torch.tensor([True, False, True]))
    torch.testing.assert_close(flipped[0], plain[0].flip(-1))
    torch.testing.assert_close(flipped[1], plain[1])


def test_blur_is_a_gaussian_and_sigma_zero_is_none() -> None:
    x = pixels()
    sigma = torch.tensor([0.0, 0.8, 1.5])
    plain, blurred = cut(x, WHOLE.expand(3, 4), 24), cut(x, WHOLE.expand(3, 4), 24, sigma_px=sigma)
    torch.testing.assert_close(blurred[0], plain[0])
    for i in (1, 2):
        expected = tv.gaussian_blur(plain[i], [13, 13], [float(sigma[i])] * 2)
        torch.testing.assert_close(blurred[i][:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=2e-4, rtol=0)
    torch.testing.assert_close(blur_matrix(sigma, 24).sum(2), torch.ones(3, 24))


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
    turn = _hue_rotation(angle)
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
