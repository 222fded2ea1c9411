"""Lines of burned-in text are found whole: bright or dark, small or large, coloured."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pellucid.cohort.identifiers.text_growth import whole_lines

NAMES = ["Novak, Jan *14.08.1948", "Musterfrau Erika", "MEIER 4711", "José Álvarez MRN 77", "ANNA-MARIA v. d. BERG"]


def tissue(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((224, 320)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 8)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 110).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [11, 16, 24])
@pytest.mark.parametrize("look", ["bright", "dark", "yellow"])
def test_the_whole_line_is_covered(name: str, size: int, look: str) -> None:
    image = Image.fromarray(np.repeat(tissue(size)[:, :, None], 3, axis=2))
    draw = ImageDraw.Draw(image)
    if look == "dark":
        draw.rectangle((0, 60, 320, 110), fill=(225, 225, 225))
    before = np.asarray(image).astype(int)
    colour = {"bright": (245, 245, 245), "dark": (15, 15, 15), "yellow": (240, 220, 20)}[look]
    draw.text((12, 70), name, font=ImageFont.load_default(size=size), fill=colour)
    after = np.asarray(image)
    ink = np.abs(after - before).max(axis=2) > 60
    covered = np.zeros(ink.shape, bool)
    for x, y, w, h in whole_lines(np.ascontiguousarray(after)):
        covered[y : y + h, x : x + w] = True
    assert (ink & covered).sum() > 0.97 * ink.sum()
    assert covered.mean() < 0.3  # the tissue stays


def test_tissue_without_text_is_left_alone() -> None:
    for seed in range(5):
        assert whole_lines(np.repeat(tissue(seed)[:, :, None], 3, axis=2)) == []
