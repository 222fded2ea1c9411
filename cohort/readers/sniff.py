"""What a file is, by its first bytes: names and suffixes lie."""

from __future__ import annotations

from typing import Literal

# A file with one of these endings is meant as an image; one without any ending may be DICOM.
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".dcm",
        ".dicom",
        ".ima",
        ".tif",
        ".tiff",
        ".btf",
        ".svs",
        ".ndpi",
        ".scn",
        ".bif",
    }
)

# DICOM without the 128-byte preamble starts with one of these elements, in either byte order.
_FIRST_ELEMENTS = [(0x0002, 0x0000), (0x0002, 0x0001), *((0x0008, e) for e in (0x0000, 0x0001, 0x0005, 0x0008, 0x0016))]
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
_BARE_DICOM = frozenset(
    group.to_bytes(2, order) + element.to_bytes(2, order) for group, element in _FIRST_ELEMENTS for order in _ORDERS
)  # fmt: skip

# What is recognised only to say so.
_OTHERS = {
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"\xff\x4f\xff\x51": "a JPEG 2000 stream",
    b"\xff\x0a": "a JPEG XL file",
    b"%PDF-": "a PDF file",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"NRRD": "an NRRD volume",
    b"\x89HDF": "an HDF5 file",
}


def sniff(data: bytes) -> str | None:
    """jpeg, png, webp, bmp, gif, tiff, dicom, or None for anything else."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[128:132] == b"DICM":
        return "dicom"
    if data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return "tiff"
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return "gif"
    if data[:2] == b"BM" and len(data) > 26:
        return "bmp"
    if data[:4] in _BARE_DICOM and len(data) > 132:
        return "dicom"
    return None


def what_else(data: bytes) -> str | None:
    """The name of a kind of file that is known but not read, for the reason in the manifest."""
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    return next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
