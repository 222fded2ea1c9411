"""Reasons for files without an image, in one wording for scan and embed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pellucid.cohort.readers import NoPicture, ReadOptions, UnreadableImage, decoding_reason
from pellucid.cohort.study import ScanConfig


def opencv_out_of_memory() -> cv2.error:
    error = cv2.error("allocation failed")
    error.code = cv2.Error.StsNoMem
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnreadableImage("the file is empty"), "the file is empty"),
        (NoPicture("a DICOMDIR"), "a DICOMDIR"),
        (PermissionError(13, "Permission denied"), "the file cannot be opened (Permission denied)"),
        (MemoryError(), "the image does not fit in memory (scan.memory_limit_gb)"),
        (opencv_out_of_memory(), "the image does not fit in memory (scan.memory_limit_gb)"),
        (ZeroDivisionError(), "unexpected error while decoding (ZeroDivisionError); please report this file"),
    ],
)
def test_every_exception_of_a_decoder_has_a_reason(error: Exception, reason: str) -> None:
    assert decoding_reason(error) == reason


def test_another_error_of_opencv_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(cv2.error) as caught:
        cv2.cvtColor(np.zeros((2, 2), np.uint8), cv2.COLOR_RGB2GRAY)
    assert "unexpected error" in decoding_reason(caught.value)


def test_a_reader_has_the_options_of_the_scan() -> None:
    config = ScanConfig(frames="every 3", tile_px=64, tile_um_per_px=1.0, min_tissue=0.1, max_megapixels=7)
    options = ReadOptions.from_scan_config(config, min_side_px=99)
    assert options == ReadOptions(99, 7, "every 3", 64, 1.0, 0.1)
