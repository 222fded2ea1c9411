"""What a file is, by its first bytes: names and suffixes lie."""

from __future__ import annotations

# A file with one of these endings is meant as an image; one without any ending may be DICOM.
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".dcm",
        ".dicom",
        ".ima",
        ".tif",
        ".tiff",
        ".svs",
        ".ndpi",
        ".gif",
    }
)


def sniff(data: bytes) -> str | None:
    """jpeg, png, webp, bmp, dicom, tiff, gif, or None for anything else."""
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
    # DICOM without the 128-byte preamble starts with a group 0002 or 0008 element, little endian.
    if data[:4] in {b"\x02\0\0\0", b"\x08\0\x05\0", b"\x08\0\0\0"} and len(data) > 132:
        return "dicom"
    return None
