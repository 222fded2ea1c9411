"""PNG files without text, EXIF, further pictures and bytes that affect no pixel; kinds of metadata of WebP."""

from __future__ import annotations

import struct
import zlib

from pellucid.cohort.deidentify.streams.jpeg_segments import orientation_exif

_PNG = b"\x89PNG\r\n\x1a\n"
# What decides how the pixels look (PNG third edition, 11.2 and 11.3); all text, time, EXIF and animation goes.
# Palettes are not among them: an image with a palette is stored again.
_PNG_KEPT = {b"IHDR", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"pHYs"}
_PNG_KINDS = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"eXIf": "exif", b"tIME": "date"}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each PNG colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_WEBP_PIXELS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP"}
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
        if kind == b"PLTE":  # of an image that is stored again, or only a suggestion
            continue
        if kind not in _PNG_KEPT or (kind != b"IDAT" and kind in {name for name, _ in chunks}):
            dropped.add(_PNG_KINDS.get(kind, "metadata"))
        elif kind == b"iCCP":
            if profile:
                chunks.append((kind, b"ICC\0\0" + zlib.compress(profile, 9)))
        elif kind in {b"IHDR", b"IDAT"} or _is_sound(kind, body, chunks[0][1]):
            chunks.append((kind, b"" if kind == b"IEND" else body))
        else:
            dropped.add("metadata")
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


def _is_sound(kind: bytes, body: bytes, header: bytes) -> bool:
    """Whether a small chunk has its length, and numbers that are possible: four letters are not (PNG 11.3)."""
    depth, colour = header[8], header[9]
    if kind == b"IEND":
        return True
    if kind == b"tRNS":
        levels = struct.unpack(f">{len(body) // 2}H", body) if len(body) in {2, 6} else ()
        return len(levels) == {0: 1, 2: 3}.get(colour) and all(level < 2**depth for level in levels)
    if kind == b"cHRM":
        return len(body) == 32 and max(struct.unpack(">8I", body)) <= 200_000
    if kind == b"gAMA":
        return len(body) == 4 and struct.unpack(">I", body)[0] <= 10_000_000
    if kind == b"pHYs":
        return len(body) == 9 and max(struct.unpack(">2I", body[:8])) <= 10_000_000 and body[8] <= 1
    if kind == b"sBIT":
        return len(body) == _CHANNELS[colour] and all(0 < bits <= depth for bits in body)
    return (kind == b"sRGB" and len(body) == 1 and body[0] <= 3) or (
        kind == b"cICP" and len(body) == 4 and max(body[:3]) <= 22 and body[3] <= 1
    )


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
    if len(raw) != expected or not inflate.eof or inflate.unused_data:
        dropped.add("after_the_end")
    # Always compressed again: there may be anything between the blocks of a stream.
    return zlib.compress(raw[:expected], 6)


def webp_metadata(data: bytes) -> set[str]:
    """The kinds of metadata in a WebP.

    Raises:
        ValueError: the file does not follow the format.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("no WebP signature")
    at, end = 12, 8 + int(struct.unpack_from("<I", data, 4)[0])
    found = {"after_the_end"} if data[end:].strip(b"\0") else set()
    while at + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind not in _WEBP_PIXELS:
            found.add(_WEBP_KINDS.get(kind, "metadata"))
        at += 8 + length + length % 2
    return found
