"""PNG and WebP files without their text, EXIF, XMP and further pictures; the coded pixels are not touched."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from pellucid.cohort.deidentify.streams.jpeg_segments import orientation_exif

_PNG = b"\x89PNG\r\n\x1a\n"
# What decides how the pixels look (PNG third edition, 11.2 and 11.3); all text, time, EXIF and animation goes.
_PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"pHYs"}
_PNG_KINDS = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"eXIf": "exif", b"tIME": "date"}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each PNG colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"ALPH"}
_WEBP_KINDS = {b"EXIF": "exif", b"XMP ": "xmp"}


def strip_png(data: bytes, orientation: int, dropped: set[str], profile: bytes = b"") -> bytes:
    """A PNG with only the chunks that decide how it looks.

    Args:
        data: the file.
        orientation: EXIF orientation to state, 1 for none.
        dropped: takes the kinds of what went.
        profile: the rebuilt ICC profile, in place of the one of the file.

    Raises:
        ValueError: the file does not follow the format.
    """
    if data[:8] != _PNG:
        raise ValueError("no PNG signature")
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while not chunks or chunks[-1][0] != b"IEND":
        if at + 8 > len(data):
            raise ValueError("a chunk is cut short")
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) != length:
            raise ValueError("a chunk is cut short")
        at += 12 + length
        if kind not in _PNG_KEPT:
            dropped.add(_PNG_KINDS.get(kind, "metadata"))
        elif kind == b"iCCP":
            if profile:
                chunks.append((kind, b"ICC\0\0" + zlib.compress(profile, 9)))
        else:
            chunks.append((kind, b"" if kind == b"IEND" else body))
    if data[at:].strip(b"\0"):
        dropped.add("after_the_end")
    pixels = _only_pixels(chunks[0][1], b"".join(body for kind, body in chunks if kind == b"IDAT"), dropped)
    out = [_PNG]
    for kind, body in chunks:
        if kind == b"IDAT":
            if pixels:
                if orientation != 1:
                    out.append(_chunk(b"eXIf", orientation_exif(orientation)))
                out.append(_chunk(kind, pixels))
            pixels = b""  # several IDAT chunks become one
        else:
            out.append(_chunk(kind, body))
    return b"".join(out)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _only_pixels(header: bytes, stream: bytes, dropped: set[str]) -> bytes:
    """The zlib stream of the scanlines without anything hidden behind them."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for x, y, step_x, step_y in passes:
        columns, rows = max(0, -(-(width - x) // step_x)), max(0, -(-(height - y) // step_y))
        if columns and rows:
            expected += rows * (1 + (columns * _CHANNELS[colour] * depth + 7) // 8)
    inflate = zlib.decompressobj()
    raw = inflate.decompress(stream, expected + 1)
    if len(raw) < expected:
        raise ValueError("scanlines are missing")
    if len(raw) == expected and inflate.eof and not inflate.unused_data:
        return stream
    dropped.add("after_the_end")
    return zlib.compress(raw[:expected], 6)


def strip_webp(data: bytes, orientation: int, dropped: set[str], profile: bytes = b"") -> bytes:
    """A WebP with only its picture and colour profile.

    Raises:
        ValueError: the file does not follow the format, or is an animation.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("no WebP signature")
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if data[end:].strip(b"\0"):
        dropped.add("after_the_end")
    out: list[bytes] = []
    for kind, body in _riff(data[12:end]):
        if kind in {b"ANIM", b"ANMF"}:
            raise ValueError("an animation")
        if kind == b"VP8X":  # flags: ICC 0x20, alpha 0x10, EXIF 0x08, XMP 0x04, animation 0x02
            flags = body[0] & 0x10 | (0x08 if orientation != 1 else 0) | (0x20 if profile else 0)
            out.append(_riff_chunk(kind, bytes([flags]) + body[1:10]))
        elif kind == b"ICCP":
            if profile:
                out.append(_riff_chunk(kind, profile))
        elif kind in _WEBP_KEPT:
            out.append(_riff_chunk(kind, body))
        else:
            dropped.add(_WEBP_KINDS.get(kind, "metadata"))
    if orientation != 1:
        out.append(_riff_chunk(b"EXIF", orientation_exif(orientation)))
    inside = b"WEBP" + b"".join(out)
    return b"RIFF" + struct.pack("<I", len(inside)) + inside


def coded_ends(data: bytes) -> list[int]:
    """Where the coded data of a clean WebP end."""
    ends, at = [], 12
    for kind, body in _riff(data[12:]):
        if kind in _WEBP_KEPT:
            ends.append(at + 8 + len(body))
        at += 8 + len(body) + len(body) % 2
    return ends


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) != length:
            raise ValueError("a chunk is cut short")
        yield kind, body
        at += 8 + length + length % 2


def _riff_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
