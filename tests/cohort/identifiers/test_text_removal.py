"""Burned-in text is painted over, everything else stays as it is."""

from __future__ import annotations

import cv2
import numpy as np

from pellucid.cohort.identifiers.text_detector import text_lines
from pellucid.cohort.identifiers.text_removal import without_text


def speckle(height: int = 400, width: int = 520) -> np.ndarray:
    grey = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 160, (height, width)).astype(np.uint8), (0, 0), 3)
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_lines_go_and_the_rest_stays() -> None:
    plain = speckle()
    written = plain.copy()
    cv2.putText(written, "MAMA DIREITA 12", (30, 380), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    assert text_lines(written)
    cleaned = without_text(written)
    assert not text_lines(cleaned)
    assert np.array_equal(cleaned[:350], plain[:350])
    assert np.abs(cleaned.astype(int) - plain).mean() < np.abs(written.astype(int) - plain).mean()
    assert np.array_equal(written[370:385, 30:200].max(), 255), "the picture that was given is not changed"


def test_a_picture_without_text_is_returned_as_it_is() -> None:
    plain = speckle()
    assert without_text(plain) is plain


def test_large_pictures_are_painted_at_their_own_size() -> None:
    large = cv2.resize(speckle(), None, fx=3, fy=3)
    cv2.putText(large, "ESQUERDA 7", (90, 1140), cv2.FONT_HERSHEY_SIMPLEX, 1.8, (255, 255, 255), 3)
    cleaned = without_text(large)
    assert cleaned.shape == large.shape
    assert cleaned[1090:1150, 90:400].max() < 200
