"""Hashes: what must break the one, and what the other must survive."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pellucid.cohort.images.content_hashes import hamming, perceptual_hash, pixel_hash
from pellucid.cohort.images.pixels import encode, shrink
from pellucid.cohort.phantom.drawing import Dials, draw_image, patient_tissue

Pixels = NDArray[np.uint8]


def mucosa(seed: int) -> Pixels:
    tissue = patient_tissue(np.random.default_rng([seed, 1]), 240)
    rng = np.random.default_rng([seed, 2])
    return draw_image(tissue, rng, (320, 240), severity=seed % 4, device="Aurora 1", operator="A", dials=Dials())


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    return [mucosa(seed) for seed in range(16)]


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.long
def test_the_same_pixels_in_another_container_have_the_same_pixel_hash(pictures: list[Pixels]) -> None:
    lossy = decoded(encode(pictures[0], 80))
    height, width = lossy.shape[:2]
    for kind in ("PNG", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(lossy).save(buffer, kind)
        assert pixel_hash(decoded(buffer.getvalue()), width, height) == pixel_hash(lossy, width, height)
    strided = np.zeros((height, 2 * width, 3), np.uint8)[:, ::2]
    strided[:] = lossy
    assert pixel_hash(strided, width, height) == pixel_hash(lossy, width, height)


@pytest.mark.long
def test_any_change_of_the_pixels_changes_the_pixel_hash() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    seen = {pixel_hash(picture, 64, 48)}
    for index in range(picture.size):  # every single sample, by one bit
        picture.flat[index] ^= 1 << (index % 8)
        seen.add(pixel_hash(picture, 64, 48))
        picture.flat[index] ^= 1 << (index % 8)
    assert len(seen) == picture.size + 1
    assert all(len(value) == 32 for value in seen)
    others = {pixel_hash(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), 8, 8) for _ in range(2000)}
    assert len(others) == 2000


def test_size_and_shape_belong_to_the_pixel_hash() -> None:
    flat = np.full((40, 60, 3), 7, np.uint8)
    names = {
        pixel_hash(flat, 60, 40),
        pixel_hash(flat, 480, 320),  # decoded at an eighth
        pixel_hash(np.full((60, 40, 3), 7, np.uint8), 60, 40),
        pixel_hash(np.full((40, 61, 3), 7, np.uint8), 60, 40),
        pixel_hash(flat[:, ::-1] + np.uint8(1), 60, 40),
    }
    assert len(names) == 5


def test_swapped_bands_do_not_hash_alike() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert pixel_hash(picture, 64, 64) != pixel_hash(np.roll(picture, 2, axis=0), 64, 64)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: decoded(encode(p, 50)),
        lambda p: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8),
        lambda p: np.asarray(cv2.resize(p, None, fx=1.6, fy=1.6, interpolation=cv2.INTER_CUBIC), np.uint8),
        lambda p: np.clip(p.astype(int) + 12, 0, 255).astype(np.uint8),
        lambda p: np.clip(p * 0.9, 0, 255).astype(np.uint8),
        lambda p: shrink(decoded(encode(p, 30)), 128),
    ],
    ids=["JPEG 50", "half", "larger", "brighter", "darker", "JPEG 30 at 128 px"],
)
def test_the_perceptual_hash_survives_what_keeps_the_look(pictures: list[Pixels], change) -> None:  # type: ignore[no-untyped-def]
    assert max(hamming(perceptual_hash(p), perceptual_hash(change(p))) for p in pictures) <= 6


def test_different_pictures_lie_far_apart(pictures: list[Pixels]) -> None:
    names = [perceptual_hash(p) for p in pictures]
    apart = [hamming(a, b) for i, a in enumerate(names) for b in names[:i]]
    assert np.mean(np.array(apart) > 12) > 0.95
    assert min(apart) > 4
    assert hamming(names[0], perceptual_hash(np.ascontiguousarray(pictures[0][:, ::-1]))) > 12, "a mirror image"


def test_the_perceptual_hash_is_the_median_test_of_the_lowest_frequencies() -> None:
    """One cosine in one of the 64 places: that bit alone is set."""
    rows, columns = np.mgrid[:32, :32] + 0.5
    for u, v in ((1, 1), (3, 2), (8, 8)):
        wave = 100 * np.cos(np.pi * u * rows / 32) * np.cos(np.pi * v * columns / 32)
        picture = np.repeat(np.round(128 + wave)[:, :, None], 3, axis=2).astype(np.uint8)
        value = int(perceptual_hash(picture), 16)
        assert value >> (63 - (8 * (u - 1) + v - 1)) & 1
        # rounding to 8 bits leaves little ripples at other places, but the flat rest is not above its median
        assert bin(value).count("1") <= 32


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_flat_picture_hashes_to_zeros(level: int) -> None:
    assert perceptual_hash(np.full((100, 130, 3), level, np.uint8)) == "0" * 16


def test_tiny_pictures_hash() -> None:
    for size in ((1, 1), (1, 9), (3, 2)):
        assert len(perceptual_hash(np.full((*size, 3), 9, np.uint8))) == 16
        assert len(pixel_hash(np.full((*size, 3), 9, np.uint8), 1, 1)) == 32
