"""Entries of palettes that no pixel uses, spare bits, small chunks and tails: only bytes that affect pixels stay."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from pellucid.cohort.deidentify.raster_files import clean_raster, clean_tiff
from tests.cohort.deidentify.small_files import nothing

NAME = b"NovakJan19480814"


def with_palette() -> Image.Image:
    image = Image.fromarray((np.arange(41 * 30).reshape(30, 41) % 50).astype(np.uint8))
    image.putpalette(bytes(range(150)) + (NAME * 40)[:618])
    return image


@pytest.mark.parametrize("kind", ["png", "gif", "bmp"])
@pytest.mark.parametrize("transparent", [None, 3])
def test_unused_colours_go_and_used_ones_stay(kind: str, transparent: int | None) -> None:
    out = io.BytesIO()
    extra = {} if transparent is None or kind == "bmp" else {"transparency": transparent}
    with_palette().save(out, kind.upper(), **extra)
    cleaned = clean_raster(out.getvalue(), kind, nothing, max_megapixels=1)
    assert NAME[:4] not in cleaned.data
    before, after = (Image.open(io.BytesIO(data)).convert("RGBA") for data in (out.getvalue(), cleaned.data))
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_unused_colours_of_a_tiff_go() -> None:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :50] = np.arange(50) * 1300
    colours[1, 100:108] = np.frombuffer(NAME, "<u2")
    out = io.BytesIO()
    tifffile.imwrite(out, np.asarray(with_palette()), photometric="palette", colormap=colours)
    assert NAME in out.getvalue()
    cleaned = clean_tiff(out.getvalue(), nothing, max_megapixels=1)
    assert NAME not in cleaned.data
    with tifffile.TiffFile(io.BytesIO(cleaned.data)) as tiff:
        np.testing.assert_array_equal(tiff.pages[0].colormap[:, :50], colours[:, :50])  # type: ignore[union-attr]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"cHRM", (NAME * 2)[:32]), (b"gAMA", NAME[:4]), (b"pHYs", NAME[:9]), (b"sBIT", NAME[:3]), (b"tRNS", NAME[:6]),
     (b"PLTE", (NAME * 9)[:96]), (b"cICP", NAME[:4]), (b"sRGB", NAME[:1])],
)  # fmt: skip
def test_small_chunks_of_letters_go(kind: bytes, body: bytes) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(out, "PNG")
    data = out.getvalue()
    start = data.index(b"IDAT") - 4
    planted = data[:start] + chunk(kind, body) + data[start:]
    cleaned = clean_raster(planted, "png", nothing, max_megapixels=1)
    assert kind not in cleaned.data
    kept = {b"gAMA": struct.pack(">I", 45455), b"pHYs": struct.pack(">IIB", 2835, 2835, 1)}.get(kind)
    if kept:
        sound = clean_raster(data[:start] + chunk(kind, kept) + data[start:], "png", nothing, max_megapixels=1)
        assert kind + kept in sound.data


def test_spare_bits_at_the_ends_of_rows_go() -> None:
    """A row of 3 pixels of 1 bit has 5 bits to spare: 40 rows hold 25 letters."""
    rows = b"".join(b"\0" + bytes([0b10100000 | (letter & 31)]) for letter in NAME)
    header = struct.pack(">IIBBBBB", 3, len(NAME), 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    cleaned = clean_raster(data, "png", nothing, max_megapixels=1)
    at = cleaned.data.index(b"IDAT")
    length = struct.unpack_from(">I", cleaned.data, at - 4)[0]
    again = zlib.decompress(cleaned.data[at + 4 : at + 4 + length])
    assert {byte & 31 for byte in again[1::2]} == {0}
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(io.BytesIO(cleaned.data)))
    )


@pytest.mark.parametrize("lossless", [False, True])
def test_bytes_behind_the_last_partition_of_a_webp_go(lossless: bool) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(
        out, "WEBP", lossless=lossless
    )
    data, kind = out.getvalue(), b"VP8L" if lossless else b"VP8 "
    at = data.index(kind)
    length = struct.unpack_from("<I", data, at + 4)[0]
    body = data[at + 8 : at + 8 + length] + NAME + b"\0" * (length % 2)
    inside = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    planted = b"RIFF" + struct.pack("<I", len(inside)) + inside
    cleaned = clean_raster(planted, "webp", nothing, max_megapixels=1)
    assert NAME not in cleaned.data
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(planted)).convert("RGB")), cleaned.preview)
