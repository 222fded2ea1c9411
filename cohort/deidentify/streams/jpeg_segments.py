"""JPEG, JPEG-LS and JPEG 2000 streams without their comments and metadata; the coded pixels are not touched."""

from __future__ import annotations

import io
import struct

_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_KEPT = {*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xF7}  # frames, tables, scans, DNL, JPEG-LS
_ICC = b"ICC_PROFILE\0"
_CAP, _SIZ, _COD, _QCD = 0xFF50, 0xFF51, 0xFF52, 0xFF5C
_J2K_ROOM = frozenset(
    {0xFF53, 0xFF59, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61}
)  # rare, and may be for what is not there
_MOST_DENSE = 4800  # pixels per inch; below the number that two characters make
_ICC_CHUNK = 65_519  # bytes of a profile in one segment


def strip_jpeg(data: bytes, orientation: int = 1, dropped: set[str] | None = None) -> bytes:
    """A JPEG or JPEG-LS stream with nothing in it but what decoding and colour need.

    Kept are frames, tables, scans, the JFIF header (without its thumbnail) and Adobe's colour transform; `with_profile`
    adds a rebuilt ICC profile. EXIF, XMP, IPTC, comments, maker's notes, thumbnails, further images and all bytes after
    the end of the image go (ITU-T T.81 Annex B; T.87 Annex C).

    Args:
        data: from SOI on.
        orientation: EXIF orientation to state, 1 for none.
        dropped: takes the kinds of what went.

    Raises:
        ValueError: the stream does not follow the format.
    """
    dropped = set() if dropped is None else dropped
    if data[:2] != b"\xff\xd8":
        raise ValueError("no start of image")
    out = io.BytesIO()
    out.write(b"\xff\xd8")
    stated = orientation == 1
    at = 2
    while True:
        marker, at = _next_marker(data, at)
        if marker == 0xD9:
            out.write(b"\xff\xd9")
            if data[at:].strip(b"\0"):
                dropped.add("after_the_end")
            return out.getvalue()
        if marker in _ALONE:
            continue
        if at + 2 > len(data):
            raise ValueError("a segment is cut short")
        length = struct.unpack_from(">H", data, at)[0]
        body = data[at + 2 : at + length]
        if length < 2 or len(body) != length - 2:
            raise ValueError("a segment is cut short")
        at += length
        if not stated and marker != 0xE0:  # EXIF follows JFIF where there is one
            out.write(_segment(0xE1, b"Exif\0\0" + orientation_exif(orientation)))
            stated = True
        kept = _kept(marker, body)
        if kept is not None:
            out.write(_segment(marker, kept))
        if kept != body and not body.startswith(_ICC):
            dropped.add(_kind(marker, body))
        if marker == 0xDA:
            end = _end_of_scan(data, at)
            out.write(data[at:end])
            at = end


def scan_ends(data: bytes) -> list[int] | None:
    """Where the coded data of each scan of a clean stream end; None if restarts divide them."""
    at = 2
    ends: list[int] = []
    while True:
        marker, at = _next_marker(data, at)
        if marker == 0xD9:
            return ends
        if marker in _ALONE:
            continue
        at += struct.unpack_from(">H", data, at)[0]
        if marker == 0xDA:
            end = _end_of_scan(data, at)
            if any(data.find(bytes([0xFF, restart]), at, end) >= 0 for restart in range(0xD0, 0xD8)):
                return None
            ends.append(end)
            at = end


def with_profile(data: bytes, profile: bytes) -> bytes:
    """A clean JPEG with an ICC profile behind its first segments; unchanged where the profile is empty."""
    parts = [profile[start : start + _ICC_CHUNK] for start in range(0, len(profile), _ICC_CHUNK)]
    at = 2
    while data[at + 1] in {0xE0, 0xE1, 0xEE}:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    segments = (_segment(0xE2, _ICC + bytes([i + 1, len(parts)]) + part) for i, part in enumerate(parts))
    return data[:at] + b"".join(segments) + data[at:]


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    start = data.find(b"\xff", at)
    if start < 0:
        raise ValueError("no end of image")
    at = start + 1
    while at < len(data) and data[at] == 0xFF:  # fill bytes
        at += 1
    if at >= len(data):
        raise ValueError("no end of image")
    return data[at], at + 1


def _kept(marker: int, body: bytes) -> bytes | None:
    """What stays of a segment; None: nothing."""
    if marker in _KEPT or (marker == 0xF8 and body[:1] == b"\1"):  # JPEG-LS: its parameters, not its palettes
        return body
    if marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14:
        return body[:5] + b"\1\2" + _density(body[7:12]) + b"\0\0"
    if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
        return body[:5] + b"\0\x64\0\0\0\0" + body[11:12]  # the flags are for printers, and free
    return None


def _density(stated: bytes) -> bytes:
    """The pixels per inch or centimetre that a JFIF header states, if they are possible; two letters are not."""
    unit, across, down = struct.unpack(">BHH", stated)
    sound = unit <= 2 and 0 < across <= _MOST_DENSE and 0 < down <= _MOST_DENSE
    return stated if sound else b"\0\0\1\0\1"


def _kind(marker: int, body: bytes) -> str:
    if marker == 0xFE:
        return "comment"
    if marker == 0xE1:
        return "exif" if body.startswith(b"Exif\0") else "xmp" if b"xap" in body[:40] else "metadata"
    return {0xE0: "thumbnail", 0xED: "iptc", 0xE2: "further_pictures"}.get(marker, "metadata")


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _end_of_scan(data: bytes, at: int) -> int:
    """Where entropy-coded data end: at the first marker that is neither stuffing nor a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ValueError("no end of image")
        if data[at + 1] < 0x80 or data[at + 1] in _ALONE:
            at += 2
        elif data[at + 1] == 0xFF:
            at += 1
        else:
            return at


def orientation_exif(orientation: int) -> bytes:
    """An EXIF block (a TIFF header with the one entry 0x0112, without the `Exif` prefix) that states an orientation."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def strip_jpeg2000(data: bytes) -> bytes:
    """A JPEG 2000 codestream without its comments and without what follows its end (ISO 15444-1 Annex A).

    Raises:
        ValueError: the stream does not follow the format, has a segment that only few streams need or that is longer
            than its content, or is wrapped in a JP2 file.
    """
    if data[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("not a bare JPEG 2000 codestream")
    out, at = io.BytesIO(), 2
    out.write(data[:2])
    seen: dict[int, bytes] = {}
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90:  # SOT: tile parts, each with its own length, until EOC
            tile_length = struct.unpack_from(">I", data, at + 6)[0]
            end = at + tile_length if tile_length else data.rfind(b"\xff\xd9")
            if tile_length and (tile_length < 14 or end > len(data)):
                raise ValueError("a tile part is cut short")
            if end < at:
                raise ValueError("no end of codestream")
            out.write(_tile_part(data[at:end]))
            at = end
        elif marker == 0xFFD9:
            break
        elif marker < 0xFF00 or length < 2:
            raise ValueError("a marker is damaged")
        else:
            if marker in {_CAP, _SIZ, _COD, _QCD}:  # no comments, and no lists of lengths
                if marker in seen:
                    raise ValueError("a segment occurs twice")
                seen[marker] = data[at + 4 : at + 2 + length]
                out.write(data[at : at + 2 + length])
            elif marker in _J2K_ROOM:
                raise ValueError("a segment that few streams need")
            at += 2 + length
    if not _exact(seen):
        raise ValueError("a segment is longer than its content")
    out.write(b"\xff\xd9")
    return out.getvalue()


def _exact(segments: dict[int, bytes]) -> bool:
    """Whether the main header of a codestream has all it needs, and nothing more (tables A.9, A.13 and A.28)."""
    size, coding, quantisation = (segments.get(marker, b"") for marker in (_SIZ, _COD, _QCD))
    if len(size) < 36 or len(coding) < 10 or not quantisation:
        return False
    levels, style = coding[5], quantisation[0] & 31
    steps = {0: 3 * levels + 1, 1: 2, 2: 2 * (3 * levels + 1)}.get(style, -1)
    capabilities = segments.get(_CAP, b"")
    parts = int.from_bytes(capabilities[:4], "big").bit_count()
    return (
        len(size) == 36 + 3 * int.from_bytes(size[34:36], "big")
        and len(coding) == 10 + (levels + 1 if coding[0] & 1 else 0)
        and len(quantisation) == 1 + steps
        and len(capabilities) == (4 + 2 * parts if capabilities else 0)
    )


def tile_ends(data: bytes) -> list[int]:
    """Where the packets of each tile part of a clean codestream end."""
    ends, at = [], 2
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF90:
            tile_length = struct.unpack_from(">I", data, at + 6)[0]
            at = at + tile_length if tile_length else len(data) - 2
            ends.append(at)
        elif marker == 0xFFD9:
            break
        else:
            at += 2 + length
    return ends


def _tile_part(part: bytes) -> bytes:
    """A tile part without the comments of its header; its stated length follows."""
    at = 12
    while at + 4 <= len(part):
        marker, length = struct.unpack_from(">HH", part, at)
        if marker == 0xFF93:  # SOD: packets follow
            break
        if marker < 0xFF00 or length < 2:
            raise ValueError("a marker is damaged")
        if marker in _J2K_ROOM | {_COD, _QCD}:
            raise ValueError("a tile with settings different from the image's")
        at += 2 + length
    whole = part[:12] + part[at:]
    stated = len(whole) if struct.unpack_from(">I", part, 6)[0] else 0
    return whole[:6] + struct.pack(">I", stated) + whole[10:]
