"""Which burned-in text is masked, and with what."""

from __future__ import annotations

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
