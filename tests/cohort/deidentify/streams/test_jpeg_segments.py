"""JPEG and JPEG 2000 streams: comments go, and a stream that is cut short is none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.deidentify.streams.jpeg_segments import strip_jpeg, strip_jpeg2000
from tests.cohort.deidentify.small_files import photo


def test_jpeg_2000_comments_go_and_the_picture_stays() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(gray).save(out, "JPEG2000", no_jp2=True, irreversible=False, comment="Erika Musterfrau")
    data = out.getvalue()
    clean = strip_jpeg2000(data + b"Musterfrau")
    assert b"Musterfrau" in data
    assert b"Musterfrau" not in clean
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(clean))), gray)


@pytest.mark.parametrize("cut", [2, 3, 10, 200, -2])
def test_a_jpeg_that_is_cut_short_is_no_jpeg(cut: int) -> None:
    out = io.BytesIO()
    photo().save(out, "JPEG")
    with pytest.raises(ValueError):
        strip_jpeg(out.getvalue()[:cut])
