"""Phenotypes: closed forms, scikit-image as oracle, and what must not change them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import sato
from skimage.measure import shannon_entropy

from pellucid.cohort.images.pixels import shrink
from pellucid.cohort.measures.phenotypes import PHENOTYPES, grey_level_matrix, look, phenotypes
from pellucid.cohort.phantom.drawing import Dials, draw_image, patient_tissue

Pixels = NDArray[np.uint8]


def speckle(seed: int = 0, size: tuple[int, int] = (256, 342), grain_px: float = 4) -> Pixels:
    """A reddish texture with no pixel dark enough for black border."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((*size, 3)), (0, 0), grain_px)
    return np.clip(np.array([170, 120, 100]) + 25 * noise / noise.std(), 40, 250).astype(np.uint8)


def mucosa(seed: int = 0) -> Pixels:
    tissue = patient_tissue(np.random.default_rng([seed, 1]), 256, full_frame=True)
    rng = np.random.default_rng([seed, 2])
    return draw_image(tissue, rng, (342, 256), severity=1, device="Aurora 1", operator="A", dials=Dials())


@pytest.mark.parametrize("colour", [(180, 90, 70), (128, 128, 128), (10, 200, 90), (250, 240, 60)])
def test_a_uniform_picture_has_its_colour_and_no_structure(colour: tuple[int, int, int]) -> None:
    found = phenotypes(np.full((256, 340, 3), colour, np.uint8))
    lightness, a, b = rgb2lab(np.array([[colour]], np.uint8) / 255)[0, 0]
    assert found["brightness"] == pytest.approx(lightness, abs=0.5)  # 8-bit CIELAB
    assert found["redness"] == pytest.approx(a, abs=1)
    assert found["yellowness"] == pytest.approx(b, abs=1)
    assert found["saturation"] == pytest.approx(np.hypot(a, b), abs=1.5)
    assert found["shadows"] == found["highlights"] == pytest.approx(found["brightness"], abs=1e-4)
    for none in ("contrast", "skewness", "colour_variation", "entropy", "texture_contrast", "edges", "vessels"):
        assert found[none] == 0, none
    assert (found["texture_homogeneity"], found["texture_correlation"], found["field"]) == (1, 1, 1)
    assert found["vignetting"] == pytest.approx(0, abs=1e-9)
    assert found["sharpness"] == -3  # log10 of the floor


def test_colour_and_brightness_agree_with_scikit_image() -> None:
    picture = mucosa()
    lab = rgb2lab(look(picture).tiny / 255).reshape(-1, 3)
    found = phenotypes(picture)
    assert found["redness"] == pytest.approx(lab[:, 1].mean(), abs=0.5)
    assert found["yellowness"] == pytest.approx(lab[:, 2].mean(), abs=0.5)
    assert found["saturation"] == pytest.approx(np.hypot(lab[:, 1], lab[:, 2]).mean(), abs=0.7)
    assert found["colour_variation"] == pytest.approx(lab[:, 1:].var(axis=0).sum() ** 0.5, abs=0.3)
    lightness = rgb2lab(look(picture).small / 255)[:, :, 0]
    assert found["brightness"] == pytest.approx(lightness.mean(), abs=0.3)
    assert found["contrast"] == pytest.approx(lightness.std(), abs=0.3)
    assert found["shadows"] == pytest.approx(np.percentile(lightness, 5), abs=0.5)
    assert found["highlights"] == pytest.approx(np.percentile(lightness, 95), abs=0.5)
    centred = lightness - lightness.mean()
    assert found["skewness"] == pytest.approx((centred**3).mean() / lightness.std() ** 3, abs=0.05)
    assert found["entropy"] == pytest.approx(shannon_entropy(look(picture).lightness), abs=1e-4)


def test_texture_agrees_with_scikit_image_inside_the_field_only() -> None:
    picture = mucosa()
    picture[:, :90] = 0
    seen = look(picture)
    levels = np.where(seen.inside > 0, 1 + seen.lightness // 8, 0).astype(np.uint8)
    counted = graycomatrix(levels, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], levels=33, symmetric=True)
    pooled = counted[1:, 1:].sum(axis=3, keepdims=True).astype(float)
    np.testing.assert_allclose(grey_level_matrix(seen), pooled[:, :, 0, 0] / pooled.sum(), atol=1e-12)
    found = phenotypes(picture)
    for name in ("contrast", "homogeneity", "correlation"):
        assert found[f"texture_{name}"] == pytest.approx(float(graycoprops(pooled, name)[0, 0]), abs=1e-5), name


def test_texture_of_a_checkerboard() -> None:
    """Squares of 2 px: on the half copy each pixel differs from its neighbours beside it, and equals those across."""
    tile = np.kron(np.indices((128, 128)).sum(0) % 2, np.ones((2, 2)))
    board = np.repeat((64 + 128 * tile)[:, :, None], 3, axis=2).astype(np.uint8)
    seen = look(board)
    low, high = (int(v) // 8 for v in np.unique(seen.lightness))
    beside, across = 2 * 128 * 127, 2 * 127 * 127
    found = phenotypes(board)
    assert found["texture_contrast"] == pytest.approx((high - low) ** 2 * beside / (beside + across), rel=1e-5)
    assert found["texture_homogeneity"] == pytest.approx(
        (across + beside / (1 + (high - low) ** 2)) / (beside + across), abs=1e-5
    )


def test_erythema_is_the_ratio_of_red_to_green_light_whatever_the_exposure() -> None:
    def lit(red: float, green: float) -> float:
        light = np.array([red, green, 0.1])
        srgb = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        return phenotypes(np.full((64, 64, 3), np.round(srgb), np.uint8))["erythema"]

    assert lit(0.4, 0.4) == 0
    assert lit(0.4, 0.1) == pytest.approx(100 * np.log10(4), abs=0.7)
    assert lit(0.8, 0.2) == pytest.approx(lit(0.4, 0.1), abs=1)


def test_colour_variation_of_two_halves_is_half_their_distance() -> None:
    picture = np.full((256, 256, 3), (200, 110, 90), np.uint8)
    picture[:, 128:] = (120, 130, 160)
    one, other = (rgb2lab(picture[:1, x : x + 1] / 255)[0, 0, 1:] for x in (0, 255))
    assert phenotypes(picture)["colour_variation"] == pytest.approx(np.linalg.norm(one - other) / 2, abs=0.6)


def test_reflection_is_the_share_that_is_bright_and_colourless() -> None:
    picture = np.full((256, 256, 3), (180, 90, 80), np.uint8)
    picture[100:116, 100:132] = 255
    assert phenotypes(picture)["reflection"] == pytest.approx(16 * 32 / 256**2, abs=1e-5)
    picture[100:116, 100:132] = (255, 250, 160)  # as bright, but yellow
    assert phenotypes(picture)["reflection"] == 0


def test_edges_lie_where_the_steps_are() -> None:
    picture = np.full((256, 256, 3), 100, np.uint8)
    one = picture.copy()
    one[:, 128:] = 180
    three = one.copy()
    three[:, 60:90] = 180
    assert phenotypes(one)["edges"] == pytest.approx(1 / 128, abs=2 / 128)
    assert phenotypes(three)["edges"] == pytest.approx(3 * phenotypes(one)["edges"], rel=0.05)
    faint = picture.copy()
    faint[:, 128:] = 102
    assert phenotypes(faint)["edges"] == 0, "a step of less than 2 L* is no edge, however even the rest"


def test_vessels_are_thin_dark_lines_and_not_bright_or_wide_ones() -> None:
    tissue = np.full((256, 256, 3), (200, 140, 120), np.uint8)

    def drawn(factor: float, width_px: int) -> float:
        picture = tissue.copy()
        for y in range(30, 256, 40):
            colour = [int(c) for c in np.array([200, 140, 120]) * factor]
            cv2.line(picture, (0, y), (255, y + 12), colour, width_px)
        return phenotypes(picture)["vessels"]

    assert drawn(0.7, 4) == pytest.approx(6 * 5 / 256, rel=0.35)  # OpenCV draws 5 px for 4
    assert drawn(1.2, 4) == 0
    assert drawn(0.7, 24) == 0
    dimmed = (tissue * 0.5).astype(np.uint8)
    cv2.line(dimmed, (0, 60), (255, 90), (70, 49, 42), 4)
    lit = tissue.copy()
    cv2.line(lit, (0, 60), (255, 90), (140, 98, 84), 4)
    assert phenotypes(dimmed)["vessels"] == pytest.approx(phenotypes(lit)["vessels"], rel=0.15), "a share of the light"


@pytest.mark.long
def test_vessels_rank_pictures_as_a_published_filter_does() -> None:
    pictures = [mucosa(seed) for seed in range(8)]
    ours = np.argsort(np.argsort([phenotypes(p)["vessels"] for p in pictures]))
    ridges = [sato(np.log1p(p[:, :, 1].astype(float)), sigmas=[1, 2, 3]).mean() for p in pictures]
    assert np.corrcoef(ours, np.argsort(np.argsort(ridges)))[0, 1] > 0.7


def test_vignetting_of_a_known_fall_of_light() -> None:
    y, x = np.mgrid[-1:1:256j, -1:1:340j]
    even = np.full((256, 340), 160.0)
    dark = even * (1 - 0.4 * np.clip(np.hypot(x, y), 0, 1) ** 2)

    def vignetting(grey: NDArray[np.float64]) -> float:
        return phenotypes(np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8))["vignetting"]

    assert vignetting(even) == pytest.approx(0, abs=1e-6)
    assert 0.2 < vignetting(dark) < 0.4
    assert vignetting(even * 2 - dark) < -0.15
    framed = cv2.copyMakeBorder(dark, 0, 0, 60, 60, cv2.BORDER_CONSTANT, value=0)
    assert vignetting(framed) == pytest.approx(vignetting(dark), abs=0.03), "the rim is that of the field"


def test_a_black_border_changes_nothing_but_the_field() -> None:
    picture = mucosa(3)[:240, :320]
    bare = phenotypes(picture)
    # the short side stays at 256, so that nothing is rescaled
    framed = phenotypes(cv2.copyMakeBorder(picture, 8, 8, 160, 160, cv2.BORDER_CONSTANT, value=(0, 0, 0)))
    assert framed.pop("field") == pytest.approx(bare.pop("field") * picture.size / (256 * 640 * 3), abs=0.01)
    tolerance = {"redness": 0.2, "yellowness": 0.2, "saturation": 0.2, "erythema": 0.5, "entropy": 0.01}
    for name, value in bare.items():
        assert framed[name] == pytest.approx(value, abs=tolerance.get(name, 0.02 + 0.02 * abs(value))), name


def test_blur_lowers_sharpness_edges_and_raises_correlation() -> None:
    rows = [phenotypes(cv2.GaussianBlur(mucosa(1), (0, 0), s) if s else mucosa(1)) for s in (0, 1, 2, 4)]
    for name, sign in (("sharpness", -1), ("texture_contrast", -1), ("texture_correlation", 1)):
        assert (np.diff([sign * row[name] for row in rows]) > 0).all(), name


def test_measures_are_those_of_the_copy_whatever_the_size_of_the_picture() -> None:
    large = cv2.resize(mucosa(2), (1368, 1024), interpolation=cv2.INTER_CUBIC)
    assert phenotypes(large) == phenotypes(shrink(large, 256))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 3), (5, 7), (33, 1000), (63, 64)])
@pytest.mark.parametrize("level", [0, 3, 128, 255])
def test_every_picture_gives_every_number(size: tuple[int, int], level: int) -> None:
    found = phenotypes(np.full((*size, 3), level, np.uint8))
    assert list(found) == list(PHENOTYPES)
    assert np.isfinite(list(found.values())).all()
    dotted = np.zeros((*size, 3), np.uint8)
    dotted[size[0] // 2, size[1] // 2] = 255
    assert np.isfinite(list(phenotypes(dotted).values())).all()


def test_the_same_numbers_wherever_the_pixels_lie_in_memory() -> None:
    picture = mucosa(4)
    expected = phenotypes(picture)
    buffer = np.zeros(picture.size + 64, np.uint8)
    for shift in (1, 3, 17, 32):
        moved = buffer[shift : shift + picture.size].reshape(picture.shape)
        moved[:] = picture
        assert phenotypes(moved) == expected
    wide = np.zeros((256, 400, 3), np.uint8)
    wide[:, 20:362] = picture
    assert phenotypes(wide[:, 20:362]) == expected, "a view that is not contiguous"
