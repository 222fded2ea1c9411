"""Colour profiles rebuilt from their numbers: a profile has room for names, notes and anything else (ICC.1:2022)."""

from __future__ import annotations

import struct

from pellucid.cohort.readers import UnreadableImage

_HEADER = 128
_CURVES = (b"rTRC", b"gTRC", b"bTRC", b"kTRC")
_XYZ = (b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt", b"bkpt")
_LUTS = (b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2", b"gamt")
_PARAMETERS = (1, 3, 4, 5, 7)  # of each function type of `para`
_REFUSAL = "a colour profile that cannot be rebuilt from its numbers: convert the image to sRGB first"


def rebuilt_profile(data: bytes) -> bytes:
    """A profile with the same colours: curves, matrix, white point and tables, without texts and free bytes.

    Raises:
        UnreadableImage: the profile is damaged, or describes colours in a way that is not rebuilt (lutAToBType).
    """
    if not data:
        return b""
    try:
        return _rebuilt(data)
    except (ValueError, struct.error, IndexError, KeyError):
        raise UnreadableImage(_REFUSAL) from None


def _rebuilt(data: bytes) -> bytes:
    if data[36:40] != b"acsp" or data[12:16] not in {b"mntr", b"scnr", b"prtr", b"spac"}:
        raise ValueError("no profile")
    found: dict[bytes, bytes] = {}
    for index in range(struct.unpack_from(">I", data, _HEADER)[0]):
        name, offset, size = struct.unpack_from(">4sII", data, _HEADER + 4 + 12 * index)
        body = data[offset : offset + size]
        if name in _XYZ:
            found[name] = _typed(body, b"XYZ ", 20)
        elif name == b"chad":
            found[name] = _typed(body, b"sf32", 44)
        elif name in _CURVES:
            found[name] = _curve(body)
        elif name in _LUTS:
            found[name] = _table(body)
    colours = any(name in found for name in (*_CURVES, b"A2B0"))
    if not colours:
        raise ValueError("nothing that describes colours")
    found[b"desc"], found[b"cprt"] = _text(b"desc", data), _text(b"cprt", data)
    return _assembled(data, found)


def _typed(body: bytes, kind: bytes, length: int) -> bytes:
    if body[:4] != kind or len(body) < length:
        raise ValueError("another type")
    return kind + b"\0\0\0\0" + body[8:length]


def _curve(body: bytes) -> bytes:
    if body[:4] == b"curv":
        return _typed(body, b"curv", 12 + 2 * struct.unpack_from(">I", body, 8)[0])
    function = struct.unpack_from(">H", body, 8)[0]
    whole = _typed(body, b"para", 12 + 4 * _PARAMETERS[function])
    return whole[:10] + b"\0\0" + whole[12:]


def _table(body: bytes) -> bytes:
    """A table of 8 or 16 bits (lut8Type, lut16Type) at the length that its header states."""
    inputs, outputs, grid = body[8:11]
    if body[:4] == b"mft1":
        length = 48 + 256 * inputs + grid**inputs * outputs + 256 * outputs
    else:
        n_in, n_out = struct.unpack_from(">HH", body, 48)
        length = 52 + 2 * (n_in * inputs + grid**inputs * outputs + n_out * outputs)
        if body[:4] != b"mft2":
            raise ValueError("another type")
    whole = _typed(body, body[:4], length)
    return whole[:11] + b"\0" + whole[12:]


def _text(name: bytes, data: bytes) -> bytes:
    """An empty description and copyright, as the version of the profile writes them."""
    if data[8] >= 4:
        return b"mluc" + struct.pack(">III", 0, 1, 12) + b"enUS" + struct.pack(">II", 2, 28) + b"\0-"
    if name == b"cprt":
        return b"text\0\0\0\0-\0"
    return b"desc" + struct.pack(">II", 0, 2) + b"-\0" + b"\0" * 78


def _assembled(data: bytes, tags: dict[bytes, bytes]) -> bytes:
    header = bytearray(_HEADER)
    header[8:24] = data[8:24]  # version, class, colour space, connection space
    header[8:12] = data[8:10] + b"\0\0"
    header[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    header[36:40] = b"acsp"
    header[64:68] = struct.pack(">I", struct.unpack_from(">I", data, 64)[0] & 3)  # rendering intent
    header[68:80] = bytes.fromhex("0000F6D6000100000000D32D")  # D50, the only one that is allowed
    if data[16:20] not in {b"RGB ", b"GRAY", b"CMYK", b"Lab ", b"XYZ "} or data[20:24] not in {b"XYZ ", b"Lab "}:
        raise ValueError("an unknown colour space")
    index, body = bytearray(struct.pack(">I", len(tags))), bytearray()
    start = _HEADER + 4 + 12 * len(tags)
    for name, value in sorted(tags.items()):
        index += name + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    whole = bytes(header + index + body)
    return struct.pack(">I", len(whole)) + whole[4:]
