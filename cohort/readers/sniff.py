"""What a file is, by its first bytes: names and suffixes lie."""

from __future__ import annotations

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
        ".avif",
        ".heic",
        ".heif",
    }
)

# Brands of an ISO base media file (ISO/IEC 14496-12, 23008-12; AVIF 1.1), at bytes 8 to 12 or among the compatible.
_AVIF, _HEIC = {b"avif", b"avis"}, {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
HEIC_NEEDS = (
    "a HEIC image, which is not read: `pip install pillow-heif` adds it (a separate package, whose wheels are under "
    "GPL-2.0)"
)

# What is recognised only to say so: an image that is not read, or no image.
_IMAGES = {
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"\xff\x4f\xff\x51": "a JPEG 2000 stream",
    b"\xff\x0a": "a JPEG XL file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file",
    b"II\xbc\x01": "a JPEG XR file",
    b"8BPS": "a Photoshop file",
    b"NRRD": "an NRRD volume",
    b"IIRO": "a raw file of a camera",
    b"IIU\0": "a raw file of a camera",
    b"FUJIFILMCCD-RAW": "a raw file of a camera",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
}
_OTHERS = {
    b"%PDF-": "a PDF file",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"MZ": "a Windows program",
    b"\x7fELF": "a program",
    b"\xd0\xcf\x11\xe0": "an old Office file or Thumbs.db",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
# Endings of images that are not read. Videos are no images: they are skipped, as documents are.
UNREAD_SUFFIXES = frozenset(
    {".jp2", ".j2k", ".jpx", ".jpf", ".jxl", ".jxr", ".psd", ".cr2", ".cr3", ".crw", ".nef", ".arw", ".dng", ".orf",
     ".rw2", ".raf", ".pef", ".czi", ".lif", ".vsi", ".mrxs", ".nd2", ".oib", ".oif", ".isyntax", ".nii", ".nrrd",
     ".mha", ".mhd", ".pcx", ".ppm", ".pgm", ".pnm", ".tga"}
)  # fmt: skip
_VRS = {
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH",
    b"SL", b"SQ", b"SS", b"ST", b"TM", b"UC", b"UI", b"UL", b"UN", b"UR", b"US", b"UT",
}  # fmt: skip
_LONG_VRS = {b"OB", b"OW", b"SQ", b"UN", b"UC", b"UR", b"UT"}


def sniff(data: bytes) -> str | None:
    """jpeg, png, webp, bmp, gif, tiff, dicom, avif, heic, or None for anything else; the first 512 bytes are enough."""
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
    if data[:2] == b"BM" and len(data) > 26 and data[15:18] == b"\0\0\0" and 12 <= data[14] <= 124:
        return "bmp"
    if data[4:8] == b"ftyp":
        return _media_image(data)
    if _is_bare_dicom(data):
        return "dicom"
    return None


def what_else(data: bytes) -> str | None:
    """The name of a kind of file that is known but not read, for the reason in the manifest."""
    if data[4:8] == b"ftyp" or data[:4] == b"\x1a\x45\xdf\xa3" or (data[:4] == b"RIFF" and data[8:11] == b"AVI"):
        return unread_image(data) or "a video"
    return unread_image(data) or next((name for start, name in _OTHERS.items() if data.startswith(start)), None)


def unread_image(data: bytes) -> str | None:
    """The name of a kind of image that is recognised but not read."""
    if data[4:12] == b"ftypcrx ":
        return "a raw file of a camera"
    if data[344:348] in {b"n+1\0", b"ni1\0"}:
        return "a NIfTI volume"
    return next((name for start, name in _IMAGES.items() if data.startswith(start)), None)


def _media_image(data: bytes) -> str | None:
    size = min(int.from_bytes(data[:4], "big"), len(data))
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))}
    if brands & _AVIF:
        return "avif"
    return "heic" if data[8:12] in _HEIC or (brands & (_HEIC - {b"mif1", b"msf1"}) and data[8:11] == b"mif") else None


def _is_bare_dicom(data: bytes) -> bool:
    """A dataset without the 128 bytes before it: its first elements of group 0002 or 0008, in ascending order."""
    for order in ("little", "big"):
        at, last, seen = 0, (0, -1), 0
        while at + 8 <= len(data) and seen < 3:
            group, element = (int.from_bytes(data[at + i : at + i + 2], order) for i in (0, 2))
            if (group, element) <= last or group not in ({2, 8} if seen == 0 else range(2, 0x7FE1)):
                break
            if data[at + 4 : at + 6] in _VRS:
                long = data[at + 4 : at + 6] in _LONG_VRS
                field = data[at + 8 : at + 12] if long else data[at + 6 : at + 8]
                head = 12 if long else 8
            else:
                field, head = data[at + 4 : at + 8], 8
            length = int.from_bytes(field, order)
            if length > 0xFFFF and length != 0xFFFFFFFF:
                break
            last, seen, at = (group, element), seen + 1, at + head + length
        if seen >= 3 or (seen >= 1 and at >= len(data) > 132):
            return True
    return False
