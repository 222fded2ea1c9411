"""Which burned-in text is masked, and with what."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pellucid.cohort.deidentify.cleaning_settings import CleaningSettings
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.text_masking import TextFinder, fill
from pellucid.cohort.identifiers.ocr import TextBox, TextReader


def test_a_mask_is_one_value_of_its_surroundings() -> None:
    pixels = np.full((30, 40, 3), 7, np.uint8)
    pixels[10:15, 10:30] = 255
    pixels[20, 5] = 200
    fill(pixels, [(8, 8, 24, 9)])
    assert (pixels[8:17, 8:32] == 7).all()
    assert (pixels[20, 5] == 200).all()


def test_only_identifying_text_is_masked_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["MAMA ESQUERDA", "QSE 12 MHz", "MEIER, ERIKA", "Me1er", "04.05.2019", "0012345678", "P 77412"]
    lines = [TextBox((10, 20 * i, 50, 10), text, 0.99) for i, text in enumerate(texts)]
    lines.append(TextBox((10, 200, 50, 10), "blurred", 0.4))
    monkeypatch.setattr(TextReader, "read_text", lambda self, pixels: lines)
    picture = np.zeros((240, 100, 3), np.uint8)
    finder = TextFinder("ocr", "identifying", frozenset({"77412"}))
    masked = {(y + 2) // 20 for _, y, _, _ in finder.boxes([picture], ["Meier^Erika"])}
    assert masked == {2, 3, 4, 5, 6, 10}
    assert len(TextFinder("ocr", "all").boxes([picture], [])) == len(lines)


def test_a_new_patient_is_looked_for_in_pictures_already_done() -> None:
    marks = {
        CleaningSettings(TextFinder("ocr", "identifying", frozenset(ids)), DicomOptions(), 10, ()).mark()
        for ids in ({"77412"}, {"77412", "88123"})
    }
    assert len(marks) == 2


def test_a_shape_that_was_read_as_one_large_character_is_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    cv2.ellipse(picture, (200, 150), (180, 140), 0, 0, 360, (90, 90, 90), -1)  # a body
    cv2.putText(picture, "MEIER ERIKA", (120, 160), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    body, marker, title = (20, 10, 360, 280), (5, 5, 12, 20), (0, 200, 300, 80)
    lines = [
        TextBox(body, "0", 0.92),
        TextBox(marker, "R", 0.9),
        TextBox(title, "MEIER", 0.9),
        TextBox(body, "CO", 0.6),
    ]
    monkeypatch.setattr(TextReader, "read_text", lambda self, pixels: lines)
    mask = np.zeros(picture.shape[:2], bool)
    for x, y, w, h in TextFinder("ocr", "all").boxes([picture], []):
        mask[y : y + h, x : x + w] = True
    assert mask[5:25, 5:17].all()  # one small character
    assert mask[200:280, :300].all()  # large text
    assert mask[picture[:, :, 0] == 255].all()  # text inside the shape, which the reader took for a part of it
    assert not mask[20:130, 100:300].any()
