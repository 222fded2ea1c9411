"""PNG chunks that Pillow refuses although the image is sound: long text, a large profile, a damaged comment."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PILLOW_TEXT, _PILLOW_TEXTS = 2**20, 2**26  # its limits for one text or profile, and for all together
_LARGEST_PROFILE = 2**25


@dataclass
class CleanPng:
    """A PNG file that Pillow opens.

    Attributes:
        data: the file without the chunks that were removed; the same object if there are none.
        damaged: types of chunks whose checksum is wrong; as in libpng, the image counts without them.
        texts: whether a text was removed.
        profile: an ICC profile that was removed because of its size.
    """

    data: bytes
    damaged: list[str] = field(default_factory=list)
    texts: bool = False
    profile: bytes | None = None


def clean_png(data: bytes) -> CleanPng:
    """The file without ancillary chunks (PNG 3rd edition, 5.4) that are damaged or too long for Pillow."""
    cleaned = CleanPng(data)
    kept: list[bytes] = [_SIGNATURE]
    at, n_text, removed = len(_SIGNATURE), 0, False
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data) or kind == b"IEND":
            break
        remove = False
        if kind[:1].islower():  # ancillary
            content = data[at + 8 : end - 4]
            remove = zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big")
            if remove:
                cleaned.damaged.append(kind.decode("latin-1"))
            elif kind in _TEXTS:
                size = _text_size(kind, content)
                n_text += size
                remove = size >= _PILLOW_TEXT or n_text > _PILLOW_TEXTS
            elif kind == b"iCCP" and len(profile := _inflated(content, _LARGEST_PROFILE)) >= _PILLOW_TEXT:
                remove, cleaned.profile = True, profile
            cleaned.texts |= remove and kind in _TEXTS
        if remove:
            removed = True
        else:
            kept.append(data[at:end])
        at = end
    if removed:
        cleaned.data = b"".join([*kept, data[at:]])
    return cleaned


def _text_size(kind: bytes, content: bytes) -> int:
    """Bytes of a text as Pillow unpacks it, up to its limit."""
    if kind == b"zTXt" or (kind == b"iTXt" and content.partition(b"\0")[2][:1] == b"\1"):
        return len(_inflated(content, _PILLOW_TEXT))
    return len(content)


def _inflated(content: bytes, limit: int) -> bytes:
    """The compressed part of a zTXt, iTXt or iCCP chunk; what cannot be unpacked is left to Pillow."""
    rest = content.partition(b"\0")[2]
    # iTXt: flag and method, then language and translated keyword; the others: a method
    rest = rest[2:].split(b"\0", 2)[-1] if rest[:2] == b"\1\0" else rest[1:]
    try:
        return zlib.decompressobj().decompress(rest, limit)
    except zlib.error:
        return b""
