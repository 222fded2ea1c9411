"""The one door to every reader: a reason from every bad file, what a file is by its content, which frames are read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.readers import (
    NoPicture,
    Picture,
    ReadOptions,
    UnreadableImage,
    read_image,
    read_pictures,
    sniff,
)
from pellucid.cohort.readers.picture import HEADER_NAMES, chosen_frames


def scene(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, 255 - x * 2], axis=2).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_promises(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * 1_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
BAD = {
    "empty": (b"", "the file is empty"),
    "text named .png": (b"this is not a picture\n" * 20, "the content is not an image of a kind that can be read"),
    "PDF": (b"%PDF-1.7 and so on", "a PDF file: JPEG, PNG, WebP, BMP, GIF, AVIF, TIFF, DICOM and whole slides are"),
    "HEIC": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "a HEIC image, which is not read: `pip install pillow-heif`"),
    "truncated JPEG": (saved(Image.fromarray(scene()), "JPEG")[:-200], "a damaged JPEG: the file is cut short"),
    "truncated PNG": (saved(NOISE, "PNG")[:3000], "a damaged PNG: "),
    "truncated TIFF": (saved(NOISE, "TIFF")[:3000], "a damaged TIFF: the "),
    "truncated GIF": (saved(NOISE, "GIF")[:1200], "a damaged GIF: the file is cut short"),
    "JPEG header only": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "a damaged JPEG: the header cannot be read"),
    "TIFF header only": (b"II*\0\xff\xff\xff\xff", "a damaged TIFF: "),
    "zip bomb": (png_that_promises(60_000, 60_000), "taken for a decompression bomb"),
    "large but not absurd": (png_that_promises(16_000, 16_000), ("the header promises 16000 × 16000 pixels, more "
                                                                "than the 200 megapixels allowed")),
    "DICOM without a picture": (b"\0" * 128 + b"DICM" + b"\0" * 64, ("a DICOM file without a picture, or with a "
                                                                    "damaged header")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gives_its_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(UnreadableImage) as caught:
        read_image(data)
    assert reason in str(caught.value)
    assert not isinstance(caught.value, NoPicture), "damage is not an empty file of another kind"
    with pytest.raises(UnreadableImage, match=r".") as again:
        list(read_pictures(Path("nowhere"), data, ReadOptions()))
    assert str(again.value) == str(caught.value)


def test_name_plays_no_part() -> None:
    assert sniff(saved(Image.fromarray(scene()), "JPEG")) == "jpeg"
    assert sniff(saved(Image.fromarray(scene()), "TIFF")) == "tiff"
    assert sniff(b"hello") is None
    label, picture = next(read_pictures(Path("scan.dcm"), saved(Image.fromarray(scene()), "PNG"), ReadOptions()))
    assert label == ""
    assert isinstance(picture, Picture)
    assert picture.format == "png"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_mutated_files_are_read_or_refused(kind: str) -> None:
    """Flipped bytes, cuts and foreign pieces: a picture or a reason, and nothing else, ever."""
    rng = np.random.default_rng(1)
    good = saved(NOISE if kind != "JPEG" else Image.fromarray(scene()), kind)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(0, min(len(data), 400)))
            data[at] = int(rng.integers(0, 256))
        if rng.random() < 0.3:
            data = data[: int(rng.integers(1, len(data)))]
        try:
            for _, picture in read_pictures(Path("nowhere"), bytes(data), ReadOptions(max_megapixels=1)):
                assert isinstance(picture, Picture | UnreadableImage)
        except UnreadableImage:
            refused += 1
    assert refused


def test_chosen_frames() -> None:
    assert list(chosen_frames(7, "all")) == list(range(7))
    assert list(chosen_frames(7, "middle")) == [3]
    assert list(chosen_frames(1, "middle")) == [0]
    assert list(chosen_frames(7, "every 3")) == [0, 3, 6]


def test_header_names_are_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reading.md").read_text(encoding="utf-8")
    assert [name for name in HEADER_NAMES if f"`{name}`" not in text] == []
    assert len(set(HEADER_NAMES)) == len(HEADER_NAMES)


def element(group: int, number: int, vr: bytes | None, value: bytes, order: str) -> bytes:
    tag = group.to_bytes(2, order) + number.to_bytes(2, order)  # type: ignore[arg-type]
    length = len(value).to_bytes(2 if vr else 4, order)  # type: ignore[arg-type]
    return tag + (vr or b"") + length + value


@pytest.mark.parametrize(("vr", "order"), [(b"CS", "little"), (None, "little"), (b"CS", "big")])
@pytest.mark.parametrize("first", [0x0005, 0x0008, 0x0012, 0x0016, 0x0018, 0x0020, 0x0060])
def test_dicom_without_preamble_is_recognised_by_group_0008(first: int, vr: bytes | None, order: str) -> None:
    numbers = [n for n in (first, 0x0061, 0x0070, 0x0090) if n >= first]
    data = b"".join(element(0x0008, n, vr, b"ORIGINAL\\PRIMARY ", order) for n in numbers)
    data += element(0x0010, 0x0010, vr, b"x" * 120, order)
    assert sniff(data) == "dicom"
    assert sniff(data[4:]) is None


def test_a_bitmap_is_more_than_its_first_two_letters() -> None:
    assert sniff(b"BMW is a car, and this text is no bitmap.") is None
