"""Tables of a JPEG: those that no scan uses go, and those that could hold something else are recognised.

A Huffman or quantisation table is a list of bytes that the writer of a file chooses. One that no scan refers to, or
whose entries no encoder writes, may be a message (ITU-T T.81 Annexes B, C and K).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_SOS, _DHT, _DQT, _SOI, _EOI = 0xDA, 0xC4, 0xDB, 0xD8, 0xD9
_APPLICATION = frozenset({0xE0, 0xE1, 0xE2, 0xEE})  # rewritten by `strip_jpeg`
_HUFFMAN_FRAMES = {0xC0: "sequential", 0xC1: "sequential", 0xC2: "progressive", 0xC3: "lossless"}
_RESTART_INTERVAL = 0xDD
_COMPONENT_IDS = ({1}, {0}, {1, 2, 3}, {0, 1, 2}, {1, 2, 3, 4}, {0, 1, 2, 3}, set(b"RGB"), set(b"CMYK"), {1, 34, 35})
_IN_ORDER = 14  # lengths of codes whose symbols are sorted; longer codes are shortened to 16 bits, which mixes the rest
_LETTERS = 5
_NO_TEXT_BELOW = 48  # a table of such values holds neither letters nor digits
_ZIGZAG = (
    "0 1 8 16 9 2 3 10 17 24 32 25 18 11 4 5 12 19 26 33 40 48 41 34 27 20 13 6 7 14 21 28 35 42 49 56 57 50 43 36 29 "
    "22 15 23 30 37 44 51 58 59 52 45 38 31 39 46 53 60 61 54 47 55 62 63"
)
# Table K.1 and K.2, which nearly all encoders scale by a quality from 1 to 100.
_LUMINANCE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 18 22 37 56 68 "
    "109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMINANCE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
)
# Tables K.3 to K.6 as they are written: 16 counts of codes by their length, and the symbols.
_STANDARD_HUFFMAN = frozenset(
    bytes.fromhex(text)
    for text in (
        "00010501010101010100000000000000000102030405060708090a0b",
        "00030101010101010101010000000000000102030405060708090a0b",
        "0002010303020403050504040000017d"
        "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738"
        "393a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5"
        "a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa",
        "00020102040403040705040400010277"
        "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a3536"
        "3738393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3"
        "a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa",
    )
)


def _scaled(base: str) -> Iterator[bytes]:
    """A table of Annex K at every quality, as libjpeg scales it, in zigzag order."""
    values = [int(v) for v in base.split()]
    for quality in range(1, 101):
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        yield bytes(min(255, max(1, (values[int(at)] * scale + 50) // 100)) for at in _ZIGZAG.split())


_USUAL_QUANTISATION = frozenset([*_scaled(_LUMINANCE), *_scaled(_CHROMINANCE)])


@dataclass
class _Table:
    """One table: the marker of its segment, class and number, and its bytes."""

    marker: int
    label: int
    body: bytes
    precision: int = 0
    used: bool = False


@dataclass
class _Reading:
    """What has been read of a stream: all parts in order, and the tables that count now."""

    parts: list[_Table | bytes] = field(default_factory=list)
    current: dict[tuple[int, int], _Table] = field(default_factory=dict)
    components: dict[int, int] = field(default_factory=dict)  # id → number of the quantisation table
    kind: str = ""
    precision: int = 8


def needed_tables(data: bytes) -> bytes | None:
    """A clean stream without the tables that no scan uses; None if what is left might hold something else.

    Args:
        data: of `pellucid.cohort.deidentify.streams.jpeg_segments.strip_jpeg`. JPEG-LS streams have no such tables and
            are returned unchanged.

    Raises:
        ValueError, IndexError, struct.error: a segment is damaged.
    """
    reading = _Reading()
    for marker, body, coded in _segments(data):
        if marker == 0xF7:
            return data if len(body) == 6 + 3 * body[5] else None
        if marker in _HUFFMAN_FRAMES:
            if reading.kind or not _frame(reading, marker, body):
                return None
            reading.parts.append(_segment(marker, body))
        elif marker in {_DHT, _DQT}:
            for table in _tables(marker, body):
                reading.current[marker, table.label] = table
                reading.parts.append(table)
        elif marker == _SOS:
            if not _scan(reading, body):
                return None
            reading.parts.append(_segment(marker, body) + coded)
        elif marker in _APPLICATION or (marker == _RESTART_INTERVAL and len(body) == 2):
            reading.parts.append(_segment(marker, body))
        else:  # a second frame, arithmetic coding, a number of lines afterwards: rare, and room for anything
            return None
    out = [b"\xff\xd8"]
    for part in reading.parts:
        if isinstance(part, bytes):
            out.append(part)
        elif part.used:
            if not _is_usual(part, reading):
                return None
            first = part.label | (part.precision << 4)
            out.append(_segment(part.marker, bytes([first]) + part.body))
    return b"".join([*out, b"\xff\xd9"])


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, content and (of a scan) coded data of each segment of a clean stream."""
    at = 2
    while True:
        marker = data[at + 1]
        if marker == _EOI:
            return
        length = struct.unpack_from(">H", data, at + 2)[0]
        body, at = data[at + 4 : at + 2 + length], at + 2 + length
        end = at
        if marker == _SOS:
            while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
                end = data.index(b"\xff", end + 1)
        yield marker, body, data[at:end]
        at = end


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _frame(reading: _Reading, marker: int, body: bytes) -> bool:
    """Read a frame header; whether it has nothing in it but its components."""
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        return False
    reading.kind, reading.precision = _HUFFMAN_FRAMES[marker], body[0]
    for start in range(6, len(body), 3):
        reading.components[body[start]] = body[start + 2]
    return len(reading.components) == body[5] and set(reading.components) in _COMPONENT_IDS


def _tables(marker: int, body: bytes) -> Iterator[_Table]:
    at = 0
    while at < len(body):
        first = body[at]
        if marker == _DHT:
            length = 16 + sum(body[at + 1 : at + 17])
            yield _Table(marker, first, body[at + 1 : at + 1 + length])
        else:
            length = 128 if first >> 4 else 64
            yield _Table(marker, first & 15, body[at + 1 : at + 1 + length], first >> 4)
        at += 1 + length
    if at != len(body):
        raise ValueError("a table is cut short")


def _scan(reading: _Reading, body: bytes) -> bool:
    """Mark the tables that a scan uses; whether its header is sound and all of them are there."""
    count = body[0]
    if len(body) != 4 + 2 * count or not reading.kind:
        return False
    start, end, successive = body[-3], body[-2], body[-1]
    wanted: set[tuple[int, int]] = set()
    for at in range(1, 1 + 2 * count, 2):
        if body[at] not in reading.components:
            return False
        if reading.kind != "lossless":
            wanted.add((_DQT, reading.components[body[at]]))
        if reading.kind != "progressive" or (start == 0 and successive >> 4 == 0):
            wanted.add((_DHT, body[at + 1] >> 4))
        if reading.kind == "sequential" or (reading.kind == "progressive" and end > 0):
            wanted.add((_DHT, 0x10 | (body[at + 1] & 15)))
    if not wanted <= reading.current.keys():
        return False
    for table in wanted:
        reading.current[table].used = True
    return True


def _is_usual(table: _Table, reading: _Reading) -> bool:
    """Whether an encoder would write such a table.

    Huffman: a table of the standard, or one made for the image by its frequencies, whose symbols are possible, each
    once, and in order for each length (ITU-T T.81 K.2), without a run of letters. Quantisation: a table of the standard
    at any quality, or small values.
    """
    if table.marker == _DQT:
        return table.body in _USUAL_QUANTISATION or (table.precision == 0 and max(table.body) < _NO_TEXT_BELOW)
    if table.body in _STANDARD_HUFFMAN:
        return True
    symbols, at = table.body[16:], 16
    if len(set(symbols)) != len(symbols):
        return False
    for count in table.body[:_IN_ORDER]:
        run = table.body[at : at + count]
        if list(run) != sorted(run):
            return False
        at += count
    if table.label < 0x10:
        return max(symbols, default=0) <= 16
    largest = reading.precision + 2
    return all(symbol & 15 <= largest for symbol in symbols) and not _spells(symbols)


def _spells(symbols: bytes) -> bool:
    """Whether five letters in a row are not in ascending order: a table made by frequencies has few of them."""
    runs = (symbols[at : at + _LETTERS] for at in range(len(symbols) - _LETTERS + 1))
    return any(run.isalpha() and list(run) != sorted(run) for run in runs)
