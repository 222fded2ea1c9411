"""Acquisition-robust augmentation: JPEG against Pillow's, the vignette where the image has it, noise of the variance
asked for."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.pretrain.augment.acquisition_shift import (
    counted_noise,
    noisy,
    random_focus,
    shift_acquisition,
    toned,
    vignette,
)
from pellucid.pretrain.augment.geometry import Focus, Pose, resample_views
from pellucid.pretrain.augment.jpeg_artifacts import cosine_transform, jpeg_roundtrip, quantisation_tables
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.recipe import Acquisition

CPU = torch.device("cpu")
ALL_ON = Acquisition(
    probability=0.5, cast=0.2, gamma=0.2, sharpness=0.6, vignette=0.4, shot_noise=0.03, read_noise=0.02,
    jpeg_quality=(30, 95), jpeg_420=0.5,
)  # fmt: skip


def draw(step: int = 0, batch: int = 8, rows: slice | None = None) -> Draw:
    return Draw(0, step, batch, rows or slice(0, batch), CPU)


def photograph(size: int = 64, colour: float = 1.0) -> np.ndarray[Any, Any]:
    """(size, size, 3) uint8: waves, an edge and some noise, as a photograph has."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y), np.sin(12 * x * y + 1)], 2) * 70 * colour
    edge = np.where((x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.05, 60, 0)[..., None]
    picture = 110 + waves + 40 * np.sin(25 * x)[..., None] + edge + rng.normal(0, 5, (size, size, 1))
    return picture.clip(0, 255).astype(np.uint8)


def tensor(picture: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]


@pytest.mark.parametrize("quality", [10, 35, 50, 75, 90, 100])
@pytest.mark.parametrize("half_colour", [False, True])
@pytest.mark.parametrize("size", [64, 70])
def test_a_picture_through_our_jpeg_is_the_one_through_pillows(quality: int, half_colour: bool, size: int) -> None:
    picture = photograph(size)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2 if half_colour else 0)
    expected = np.asarray(Image.open(file), dtype=np.float32)

    def difference(quality: int) -> float:
        ours = jpeg_roundtrip(tensor(picture), torch.tensor([quality]), half_colour=half_colour)
        return float(np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - expected).mean())

    # Under one level: fixed-point arithmetic and its roundings put some coefficients onto the next step.
    assert difference(quality) < max(0.95, 0.27 * np.abs(picture - expected).mean())
    if quality < 100:  # neighbouring qualities are told apart
        assert difference(quality) < 0.75 * min(difference(quality - 8), difference(min(100, quality + 8)))


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 77, 95, 100])
def test_quantisation_tables_are_those_in_pillows_files(quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(16)).save(file, "JPEG", quality=quality)
    stored = Image.open(file).quantization  # type: ignore[attr-defined]
    ours = quantisation_tables(torch.tensor([quality]))[0]
    assert sorted(ours[0].int().tolist()) == sorted(stored[0])
    assert ours[0].int().tolist() == list(stored[0])
    assert ours[1].int().tolist() == list(stored[1])


def test_the_cosine_transform_is_orthonormal_and_its_first_row_the_mean() -> None:
    transform = cosine_transform(CPU)
    torch.testing.assert_close(transform @ transform.T, torch.eye(64), atol=1e-6, rtol=0)
    torch.testing.assert_close(transform[0], torch.full((64,), 1 / 8))


def test_each_picture_of_a_batch_gets_its_own_quality_and_blocks_move_with_the_phase() -> None:
    pictures = tensor(photograph()).expand(3, -1, -1, -1)
    together = jpeg_roundtrip(pictures, torch.tensor([20, 60, 95]), half_colour=False)
    for i, quality in enumerate([20, 60, 95]):
        alone = jpeg_roundtrip(pictures[:1], torch.tensor([quality]), half_colour=False)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
    loss = (together - pictures).abs().mean((1, 2, 3))
    assert loss[0] > loss[1] > loss[2]
    steps = {}
    for phase in (0, 3):
        ours = jpeg_roundtrip(tensor(photograph()), torch.tensor([5]), half_colour=False, phase=(phase, 0))[0]
        jumps = (ours[:, :, 1:] - ours[:, :, :-1]).abs().mean((0, 1))  # between columns x and x + 1
        steps[phase] = int(torch.stack([jumps[i::8].mean() for i in range(8)]).argmax())
    assert steps == {0: 7, 3: 4}


def test_the_vignette_lies_in_the_image_and_a_view_shows_its_part_of_it() -> None:
    centre, strength = torch.tensor([[0.5, 0.5]]), torch.tensor([0.6])
    whole = vignette(Pose(torch.tensor([[0.0, 0.0, 1.0, 1.0]])), 400, strength, centre)[0]
    assert float(whole.max()) == pytest.approx(1, abs=1e-4)
    assert float(whole[0, 0]) == pytest.approx(0.4, abs=0.005)
    radius = math.hypot(0.5 - 99.5 / 400, 0.5 - 49.5 / 400) / math.sqrt(0.5)
    angle = math.atan(radius * math.sqrt(0.4**-0.5 - 1))
    assert float(whole[49, 99]) == pytest.approx(math.cos(angle) ** 4, abs=1e-4)
    corner = torch.tensor([[0.0, 0.0, 0.25, 0.25]])
    flipped = vignette(Pose(corner, torch.tensor([True])), 100, strength, centre)[0]
    torch.testing.assert_close(flipped, whole[:100, :100].flip(1))


@pytest.mark.parametrize("sigma_px", [0.0, 1.5])
@pytest.mark.parametrize("grey", [False, True])
def test_noise_has_the_variance_of_shot_and_read_and_is_as_coarse_as_asked_for(sigma_px: float, grey: bool) -> None:
    grey_levels = torch.tensor([0.25, 0.5, 0.5])[:, None, None, None].expand(3, 3, 96, 96).clone()
    seeds = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int32)
    shot, read = torch.tensor([0.05, 0.0, 0.05]), torch.tensor([0.0, 0.02, 0.02])
    noise = noisy(grey_levels.clone(), seeds, shot, read, sigma_px=sigma_px, grey=grey) - grey_levels
    expected = torch.tensor([0.05 * 0.5, 0.02, math.hypot(0.05 * math.sqrt(0.5), 0.02)])
    torch.testing.assert_close(noise.std((1, 2, 3)), expected, rtol=0.06, atol=0)
    neighbours = torch.corrcoef(torch.stack([noise[0, 0, :, 1:].flatten(), noise[0, 0, :, :-1].flatten()]))[0, 1]
    assert float(neighbours) == pytest.approx(math.exp(-1 / (4 * 1.5**2)) if sigma_px else 0, abs=0.05)
    channels = torch.corrcoef(noise[0].flatten(1))[0, 1]
    assert float(channels) == pytest.approx(1 if grey else 0, abs=0.1)


def test_counted_noise_is_nearly_normal_and_depends_on_seed_and_place_alone() -> None:
    seeds = torch.tensor([[0, 0], [0, 1], [1, 0], [65535, 65535]], dtype=torch.int32)
    noise = counted_noise(seeds, 60_000).double()
    assert float(noise.mean(1).abs().max()) < 5 / math.sqrt(60_000)
    assert float((noise.var(1) - 1).abs().max()) < 0.03
    assert float((noise.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.02)
    assert float((noise.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=0.006)
    between = torch.corrcoef(noise) - torch.eye(4)
    assert float(between.abs().max()) < 0.02
    assert torch.equal(counted_noise(seeds[2:3], 60_000)[0].double(), noise[2])


def test_tone_is_a_gain_of_each_channel_and_one_exponent() -> None:
    x = torch.rand(2, 3, 4, 4) * 0.5
    gain, gamma = torch.tensor([[1.2, 1.0, 0.8], [1.0, 1.0, 1.0]]), torch.tensor([1.0, 2.0])
    out = toned(x.clone(), gain, gamma)
    torch.testing.assert_close(out[0], x[0] * gain[0, :, None, None])
    torch.testing.assert_close(out[1], x[1] ** 2)


def test_focus_takes_detail_away_or_adds_it_and_leaves_the_mean() -> None:
    x = torch.from_numpy(photograph().astype(np.float32)).expand(3, -1, -1, -1)
    pose = Pose(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4))
    amount, sigma = torch.tensor([-1.0, 0.0, 0.7]), torch.full((3,), 1.2)
    out = resample_views(x, pose, 64, focus=Focus(amount, sigma))
    plain, blurred = resample_views(x, pose, 64), resample_views(x, pose, 64, sigma_px=sigma)
    torch.testing.assert_close(out[0], blurred[0], atol=1e-5, rtol=0)  # all detail gone is the Gaussian
    torch.testing.assert_close(out[1], plain[1], atol=1e-5, rtol=0)
    detail = [float((o - b).square().mean()) for o, b in zip(out, blurred, strict=True)]
    assert detail[2] > 1.5 * detail[1] > 0
    torch.testing.assert_close(out.mean((2, 3)), plain.mean((2, 3)), atol=0.01, rtol=0)


def changed(config: Acquisition, batch: int, rows: slice | None = None, step: int = 0) -> torch.Tensor:
    rows = rows or slice(0, batch)
    numbers = draw(step, batch, rows)
    pictures = tensor(photograph(40)).expand(batch, -1, -1, -1)[rows].clone()
    pose = Pose(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(pictures), 4))
    return shift_acquisition(pictures, numbers, config, pose)


def test_what_happens_to_an_image_does_not_depend_on_how_the_batch_is_shared() -> None:
    whole = changed(ALL_ON, 12)
    parts = [changed(ALL_ON, 12, rows) for rows in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)
    assert len({tuple(x.flatten()[:50].tolist()) for x in whole}) > 10  # and no two images get the same


def test_two_views_of_an_image_get_strengths_that_know_nothing_of_each_other() -> None:
    """Else the made-up device would be the easiest thing to match the views by."""
    only_cast = Acquisition(probability=1, cast=0.3)
    numbers = draw(batch=600)
    pictures = torch.full((600, 3, 8, 8), 0.5)
    pose = Pose(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(600, 4))
    first, second = (shift_acquisition(pictures.clone(), numbers, only_cast, pose)[:, 0, 0, 0].log() for _ in range(2))
    assert float(first.std()) == pytest.approx(0.3 / math.sqrt(3), rel=0.1)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 5 / math.sqrt(600)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (Acquisition(), 0.0),
        (Acquisition(probability=0.3, cast=0.3), 0.3),
        (Acquisition(probability=0.3, vignette=0.5), 0.3),
        (Acquisition(probability=0.3, read_noise=0.1), 0.3),
        (Acquisition(probability=0.3, jpeg_quality=(20, 40), jpeg_420=0.4), 0.3),
        (Acquisition(probability=1.0, jpeg_quality=(20, 40), jpeg_420=1.0), 1.0),
    ],
)
def test_each_change_befalls_the_share_of_images_asked_for(config: Acquisition, share: float) -> None:
    plain = tensor(photograph(40))
    different = (changed(config, 1000) - plain).abs().amax((1, 2, 3)) > 1e-3
    assert float(different.float().mean()) == pytest.approx(share, abs=0.07 if 0 < share < 1 else 0)
    assert random_focus(draw(), config) is None


def test_grey_stays_grey_where_nothing_colours_it() -> None:
    grey = Acquisition(
        probability=1, gamma=0.3, sharpness=0.5, vignette=0.3, read_noise=0.05, noise_sigma_px=1, grey_noise=True,
        jpeg_quality=(40, 90),
    )  # fmt: skip
    numbers = draw()
    pictures = tensor(photograph(40))[:, :1].expand(8, 3, -1, -1).clone()
    out = shift_acquisition(pictures, numbers, grey, Pose(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(8, 4)))
    assert float((out - out.mean(1, keepdim=True)).abs().max()) < 0.01
