"""One way to read any clinical image: bytes in, a `Picture` or a reason why not out."""

from __future__ import annotations

from cohort.readers.picture import Picture, UnreadableImage, flat_rgb
from cohort.readers.sniff import IMAGE_SUFFIXES, sniff

__all__ = ["IMAGE_SUFFIXES", "Picture", "UnreadableImage", "flat_rgb", "read_image", "sniff"]


def read_image(data: bytes, *, min_side_px: int = 0, max_megapixels: float = 200) -> Picture:
    """Decode one image from its bytes; what the file is called plays no part.

    Args:
        data: the whole file.
        min_side_px: JPEGs may be decoded at a smaller DCT scale, as long as both sides keep this many pixels (0: full).
        max_megapixels: a header that promises more is taken for a decompression bomb and nothing is decoded.

    Raises:
        UnreadableImage: with a reason fit for the manifest.
    """
    kind = sniff(data)
    if not data:
        raise UnreadableImage("the file is empty")
    if kind == "dicom":
        from cohort.readers.dicom import read_dicom

        return read_dicom(data, max_megapixels=max_megapixels)
    if kind in {"jpeg", "png", "webp", "bmp"}:
        from cohort.readers.raster import read_raster

        return read_raster(data, kind, min_side_px=min_side_px, max_megapixels=max_megapixels)
    if kind is not None:
        raise UnreadableImage(f"a {kind.upper()} file: this version reads JPEG, PNG, WebP, BMP and single-frame DICOM")
    raise UnreadableImage("the content is not an image of a kind that can be read, whatever the file is called")
