"""What a compressed stream states about itself without being decoded: quality, size, precision, colours, its end."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# ITU-T T.81 (1992), Annex K, table K.1: luminance, row by row.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def _zigzag() -> NDArray[np.int64]:
    """Flat index of each coefficient in the order in which a DQT segment stores them (T.81, figure A.6)."""
    cells = [(row, column) for row in range(8) for column in range(8)]
    cells.sort(key=lambda c: (c[0] + c[1], c[0] if (c[0] + c[1]) % 2 else c[1]))
    return np.array([row * 8 + column for row, column in cells])


def ijg_table(quality: int) -> NDArray[np.int64]:
    """The (64,) zigzag luminance table that the IJG library writes at a quality from 1 to 100.

    Source: libjpeg's `jpeg_quality_scaling` and `jpeg_add_quant_table` (jcparam.c), baseline tables.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((_LUMINANCE.ravel()[_zigzag()] * scale + 50) // 100).clip(1, 255)


_TABLES = np.stack([ijg_table(quality) for quality in range(1, 101)])


@lru_cache(maxsize=256)
def _nearest(table: tuple[int, ...]) -> float:
    return float(np.abs(_TABLES - np.array(table)).sum(axis=1).argmin() + 1)


def jpeg_quality(data: bytes | memoryview) -> float | None:
    """The IJG quality whose luminance table lies nearest (least sum of absolute differences) to that of a stream.

    Exact for streams of the IJG library and its relatives; for an encoder with tables of its own, the quality at which
    the IJG library would lose about as much.

    Args:
        data: a JPEG stream, or the abbreviated one that holds the tables of a TIFF.

    Returns:
        1–100, or None where there is no quantisation table (lossless JPEG) or the stream is not JPEG.
    """
    table = luminance_table(data)
    return None if table is None else _nearest(table)


def luminance_table(data: bytes | memoryview) -> tuple[int, ...] | None:
    """Table 0 of the first DQT segment that defines it (T.81, B.2.4.1), 64 values in zigzag order."""
    for marker, segment in _segments(data):
        if marker == 0xDB:
            found = _table_zero(bytes(segment))
            if found is not None:
                return found
    return None


def stream_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 stream will decode to; None where it does not say.

    Sources: T.81 B.2.2 and T.87 C.2.2 (start of frame), T.800 A.5.1 (SIZ).
    """
    frame = _start_of_frame(data)
    if len(frame) >= 5:
        return int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big")
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # raw, or in a JP2 box
    if at >= 0 and len(data) >= at + 24:
        x1, y1, x0, y0 = (int.from_bytes(data[at + o : at + o + 4], "big") for o in (8, 12, 16, 20))
        return x1 - x0, y1 - y0
    return None


def stream_precision(data: bytes) -> int | None:
    """Bits per sample of a JPEG, JPEG-LS or JPEG 2000 stream; None where it does not say.

    Sources: T.81 B.2.2 and T.87 C.2.2 (start of frame), T.800 A.5.1 (Ssiz).
    """
    frame = _start_of_frame(data)
    if frame:
        return frame[0]
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    return (data[at + 42] & 0x7F) + 1 if at >= 0 and len(data) > at + 42 else None


def unusual_jpeg(data: bytes) -> str:
    """What sort of JPEG a file is if common decoders do not read it (T.81 table B.1); empty for the common ones."""
    for marker, segment in _segments(data):
        if marker in {0xC3, 0xC7, 0xCB, 0xCF}:
            return "a lossless JPEG"
        if marker in {0xC9, 0xCA, 0xCD, 0xCE}:
            return "a JPEG with arithmetic coding"
        if marker == 0xF7:
            return "a JPEG-LS file"
        if marker in {0xC0, 0xC1, 0xC2} and segment[:1] not in {b"\x08", b""}:
            return f"a JPEG of {segment[0]} bits"
    return ""


def is_whole(data: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 stream reaches its end marker; other streams have none, and count as whole.

    Entropy-coded data never hold the two bytes of the marker (T.81 B.1.1.5, T.800 B.10.1); a thumbnail before them may.
    """
    if data[:2] == b"\xff\xd8":
        start = 2 + sum(len(segment) + 4 for _, segment in _segments(data))
    elif (codestream := data.find(b"\xff\x4f\xff\x51", 0, 4096)) >= 0:
        start = data.find(b"\xff\x90", codestream)  # the first tile-part
    else:
        return True
    return start >= 0 and data.rfind(b"\xff\xd9", start) >= 0


def colour_space(data: bytes) -> str | None:
    """RGB or YCbCr, where a JPEG stream of three components states it or can only be one of them; else None.

    JFIF means YCbCr; Adobe's marker names the transform; component ids R, G, B mean RGB (as in libjpeg's
    `default_decompress_parms`). Encoders subsample chroma and give it its own quantisation table, which they do not do
    with green and blue.
    """
    frame = _start_of_frame(data)
    if not frame or len(frame) < 15 or frame[5] != 3:
        return None
    ids, sampling, tables = bytes(frame[6:15:3]), bytes(frame[7:15:3]), bytes(frame[8:15:3])
    for marker, segment in _segments(data):
        if marker == 0xE0 and bytes(segment[:5]) == b"JFIF\0":
            return "YCbCr"
    for marker, segment in _segments(data):
        if marker == 0xEE and bytes(segment[:5]) == b"Adobe" and len(segment) >= 12:
            return {0: "RGB", 1: "YCbCr"}.get(segment[11])
    if ids.upper() == b"RGB":
        return "RGB"
    return "YCbCr" if sampling[0] not in sampling[1:] or (tables[1] == tables[2] != tables[0]) else None


def _start_of_frame(data: bytes | memoryview) -> bytes:
    """Content of the segment that begins a JPEG or JPEG-LS frame (T.81 B.2.2); empty where there is none."""
    for marker, segment in _segments(data):
        if (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}) or marker == 0xF7:
            return bytes(segment)
    return b""


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, bytes | memoryview]]:
    """Marker and content of each segment before the first scan."""
    if bytes(data[:2]) != b"\xff\xd8":
        return
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in {0xDA, 0xD9} or length < 2:
            return
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def _table_zero(segment: bytes) -> tuple[int, ...] | None:
    at = 0
    while at < len(segment):
        width = 2 if segment[at] >> 4 else 1
        values = segment[at + 1 : at + 1 + 64 * width]
        if len(values) < 64 * width:
            return None
        if segment[at] & 15 == 0:
            return tuple(np.frombuffer(values, dtype=">u2" if width == 2 else "u1").tolist())
        at += 1 + 64 * width
    return None
