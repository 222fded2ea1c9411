"""What EXIF and TIFF tags say of how an image came to be, and which kinds of identifying content they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from PIL import ExifTags, Image

_BASE = ExifTags.Base
ORIENTATION = int(_BASE.Orientation)
GPS = int(ExifTags.IFD.GPSInfo)
MAKER_NOTE = int(ExifTags.IFD.MakerNote)
XMP, IPTC, PHOTOSHOP = 700, 33723, 34377

_TEXT = {
    "manufacturer": _BASE.Make,
    "model": _BASE.Model,
    "software": _BASE.Software,
    "lens": _BASE.LensModel,
    "serial": _BASE.BodySerialNumber,
}
_NUMBERS = {"exposure_time": _BASE.ExposureTime, "f_number": _BASE.FNumber, "focal_length": _BASE.FocalLength}
_OWNER = (_BASE.Artist, _BASE.Copyright, _BASE.CameraOwnerName)
_SERIAL = (_BASE.BodySerialNumber, _BASE.LensSerialNumber)
_COMMENT = (_BASE.ImageDescription, _BASE.UserComment, XMP, IPTC, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)  # XP…
_CHARSETS = (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", b"\0" * 8)  # EXIF 2.32, 4.6.6, UserComment
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]+")


def exif_of(image: Image.Image) -> dict[int, Any]:
    """All tags of a Pillow image in one mapping; GPS is only said to be there. A broken block counts as none."""
    try:
        exif = image.getexif()
        merged = dict(exif)
        merged.update(exif.get_ifd(ExifTags.IFD.Exif))
        if exif.get_ifd(ExifTags.IFD.GPSInfo):
            merged[GPS] = True
        else:
            merged.pop(GPS, None)
        return merged
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return {}


def orientation_of(exif: Mapping[int, Any]) -> int:
    try:
        return int(exif.get(ORIENTATION, 1))
    except (TypeError, ValueError):
        return 1


def exif_header(exif: Mapping[int, Any]) -> dict[str, str]:
    """The acquisition facts in EXIF tags, under the names of `picture.HEADER_NAMES`; only those that are there."""
    if not exif:
        return {}
    header = {name: clean(exif.get(tag)) for name, tag in _TEXT.items()}
    header |= {name: _number(exif.get(tag)) for name, tag in _NUMBERS.items()}
    header["iso"] = _number(exif.get(_BASE.ISOSpeedRatings))
    flash = _number(exif.get(_BASE.Flash))
    header["flash"] = ("yes" if int(float(flash)) & 1 else "no") if flash else ""
    taken = next((iso for iso in map(iso_date, _times(exif)) if iso), "")
    header |= {"date": taken, "year": taken[:4]}
    return {name: value for name, value in header.items() if value}


def exif_findings(exif: Mapping[int, Any]) -> tuple[str, ...]:
    """Which kinds of identifying content the tags hold: exif_gps, exif_owner, exif_serial, exif_comment."""
    found = ["exif_gps"] if exif.get(GPS) else []
    if any(clean(exif.get(tag)) for tag in _OWNER):
        found.append("exif_owner")
    # A maker note is the manufacturer's own block, and repeats the serial number as a rule.
    if any(clean(exif.get(tag)) for tag in _SERIAL) or exif.get(MAKER_NOTE):
        found.append("exif_serial")
    if any(clean(exif.get(tag)) for tag in _COMMENT):
        found.append("exif_comment")
    return tuple(found)


def clean(value: Any, longest: int = 200) -> str:
    """A header value as one line of text: no NULs, no control characters, no character set prefix."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        if value[:8] in _CHARSETS:
            value = value[8:]
        value = value.decode("utf-8", "replace")
    elif isinstance(value, tuple):
        value = bytes(value) if all(isinstance(v, int) and 0 <= v < 256 for v in value) else " ".join(map(str, value))
        return clean(value, longest)
    return " ".join(_CONTROL.sub(" ", str(value)).split())[:longest].strip()


def iso_date(value: str) -> str:
    """yyyy-mm-dd of `2021:03:04 …`, `20210304…`, `2021.03.04`, `03/04/21` (month first); empty for anything else."""
    match = re.match(r"\s*(\d{4})([:./-]?)(\d{2})\2(\d{2})(?!\d{1,3}$)", value)
    if match:
        year, month, day = int(match[1]), int(match[3]), int(match[4])
    elif match := re.match(r"\s*(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})\s*$", value):
        month, day, year = int(match[1]), int(match[2]), int(match[3])
        year += 2000 if year < 100 else 0
    else:
        return ""
    try:
        return date(year, month, day).isoformat() if year >= 1900 else ""
    except ValueError:
        return ""


def _times(exif: Mapping[int, Any]) -> list[str]:
    """Taken, digitised; the file's own time of change only where a camera wrote it and nothing better is there."""
    times = [clean(exif.get(_BASE.DateTimeOriginal)), clean(exif.get(_BASE.DateTimeDigitized))]
    return [*times, clean(exif.get(_BASE.DateTime))] if exif.get(_BASE.Make) else times


def _number(value: Any) -> str:
    if isinstance(value, tuple):  # tifffile gives a rational as (numerator, denominator)
        value = value[0] / value[1] if len(value) == 2 and value[1] else value[0] if len(value) == 1 else None
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return ""
    return f"{number:.6g}" if abs(number) < 1e12 else ""
