"""JPEG: tables that no scan uses go; a table that could be a message is not copied."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.deidentify.raster_files import clean_raster
from pellucid.cohort.deidentify.streams.jpeg_segments import strip_jpeg
from pellucid.cohort.deidentify.streams.jpeg_tables import needed_tables
from tests.cohort.deidentify.small_files import nothing

NAME = b"NovakJan19480814"


def coded(mode: str = "RGB", **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 18, 3), dtype=np.uint8)).resize((240, 160)).convert(mode)
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options", [{"quality": 75}, {"quality": 100}, {"quality": 10}, {"optimize": True}, {"progressive": True}]
)
def test_what_encoders_write_is_copied(mode: str, options: dict[str, Any]) -> None:
    bare = strip_jpeg(coded(mode, **options))
    needed = needed_tables(bare)
    assert needed is not None
    np.testing.assert_array_equal(pixels(needed), pixels(bare))


@pytest.mark.parametrize(
    "planted",
    [
        segment(0xDB, b"\3" + NAME.ljust(64, b"\1")),
        segment(0xC4, b"\x13" + bytes([0] * 7 + [len(NAME)] + [0] * 8) + NAME),
        segment(0xDB, b"\0" + NAME.ljust(64, b"\1")),  # replaced by the image's own table before it is used
    ],
    ids=["quantisation", "huffman", "replaced"],
)
def test_tables_that_no_scan_uses_go(planted: bytes) -> None:
    data = coded()
    bare = strip_jpeg(data[:2] + planted + data[2:])
    assert NAME in bare
    needed = needed_tables(bare)
    assert needed == needed_tables(strip_jpeg(data))
    assert needed is not None
    assert NAME not in needed


def test_a_used_table_with_letters_is_not_copied() -> None:
    data = coded(quality=75)
    at = data.index(b"\xff\xdb") + 5
    told = bytearray(data)
    told[at + 40 : at + 56] = NAME
    assert needed_tables(strip_jpeg(bytes(told))) is None
    cleaned = clean_raster(bytes(told), "jpeg", nothing, max_megapixels=1)
    assert cleaned.suffix == ".png"
    assert NAME not in cleaned.data
    np.testing.assert_array_equal(pixels(cleaned.data), pixels(bytes(told)))


@pytest.mark.parametrize("letters", [b"Judith", b"qawsed", b"ZYXWVUT"])
def test_a_huffman_table_with_letters_in_codes_that_no_pixel_has_is_not_copied(letters: bytes) -> None:
    data = coded("L", quality=75)
    at = data.index(b"\xff\xc4", data.index(b"\xff\xc4") + 2) + 5  # the AC table
    told = bytearray(data)
    symbols = bytes(told[at + 16 : at + 16 + 162])
    kept = bytes(s for s in symbols if s not in letters)
    told[at + 16 : at + 16 + 162] = kept[:120] + letters + kept[120:]
    assert needed_tables(strip_jpeg(bytes(told))) is None


def test_a_second_frame_or_a_long_header_is_not_copied() -> None:
    data = strip_jpeg(coded("L"))
    frame = data.index(b"\xff\xc0")
    length = struct.unpack_from(">H", data, frame + 2)[0]
    header = data[frame : frame + 2 + length]
    assert needed_tables(data[:frame] + header + data[frame:]) is None
    long = segment(0xC0, header[4:] + NAME)
    assert needed_tables(data[:frame] + long + data[frame + 2 + length :]) is None


def test_a_density_of_letters_is_not_kept() -> None:
    data = bytearray(coded("L", dpi=(300, 300)))
    assert strip_jpeg(bytes(data))[13:18] == b"\1\1\x2c\1\x2c"
    data[14:18] = b"Lund"
    assert b"Lund" not in strip_jpeg(bytes(data))
