"""Sound PNG files that Pillow refuses: long text, a large profile, damaged ancillary chunks."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pellucid.cohort.readers import UnreadableImage, read_image
from pellucid.cohort.readers.png_chunks import clean_png


def scene() -> np.ndarray:
    y, x = np.mgrid[:40, :56]
    return np.stack([x * 2, y * 3, x + y], -1).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, wrong: bool = False) -> bytes:
    crc = 1 if wrong else zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def with_chunk(data: bytes, added: bytes, at_end: bool = False) -> bytes:
    at = len(data) - 12 if at_end else 33
    return data[:at] + added + data[at:]


LONG = zlib.compress(b"x=1;" * 700_000)
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Info\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "tEXt": chunk(b"tEXt", b"Info\0" + b"x=1;" * 700_000),
    "damaged": chunk(b"tEXt", b"Comment\0hello", wrong=True),
}


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_long_or_damaged_text_costs_nothing_but_is_found(name: str, at_end: bool) -> None:
    picture = read_image(with_chunk(png(scene()), TEXTS[name], at_end))
    assert np.array_equal(picture.pixels, scene())
    assert "exif_comment" in picture.findings
    assert picture.how == ("damaged tEXt ignored" if name == "damaged" else "")


def test_a_large_profile_is_applied_or_ignored_as_any_other() -> None:
    broken = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2_000_000)))
    picture = read_image(with_chunk(png(scene()), broken))
    assert np.array_equal(picture.pixels, scene())
    assert picture.how == "broken ICC profile ignored"


def test_deep_png_with_long_text() -> None:
    deep = (scene()[:, :, 0].astype(np.uint16) << 8) | 0xFF
    picture = read_image(with_chunk(png(deep), TEXTS["zTXt"]))
    assert np.array_equal(picture.pixels, read_image(png(deep)).pixels)


def test_a_sound_file_is_not_copied_and_a_damaged_image_is_still_refused() -> None:
    sound = with_chunk(png(scene()), chunk(b"tEXt", b"Comment\0short"))
    assert clean_png(sound).data is sound
    with pytest.raises(UnreadableImage, match="a damaged PNG"):
        read_image(sound[: len(sound) // 2])
