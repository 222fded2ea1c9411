"""Whole slides by OpenSlide: tiles of tissue at one resolution, in raster order, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from pellucid.cohort.readers.colour import to_srgb
from pellucid.cohort.readers.exif import clean, iso_date
from pellucid.cohort.readers.picture import (
    Picture,
    ReadOptions,
    Source,
    UnreadableImage,
    refuse_bomb,
    together,
)
from pellucid.cohort.readers.tissue_mask import tissue_mask

if TYPE_CHECKING:
    from openslide import OpenSlide

_PLAIN_MEGAPIXELS = (
    20  # a tiled TIFF of no vendor up to this size is a picture, unless its resolution is a microscope's
)
_MICROSCOPE_UM_PER_PX = (0.02, 10.0)  # outside of it, a resolution tag speaks of print or screen
_THUMBNAIL_UM_PER_PX = 8.0
_BLOCK_PX = 4096  # the thumbnail of a slide without small levels is made of blocks of this side
_CLOSE = 1.02  # a level within 2 % of the resolution asked for is taken as it is
_FINEST = 0.8  # tiles are enlarged by no more than this allows: scanned µm/px × 0.8 ≤ asked for
_HEADER = {
    "manufacturer": ("hamamatsu.Product", "leica.device-model", "dicom.Manufacturer", "tiff.Make"),
    "model": ("dicom.ManufacturerModelName", "tiff.Model"),
    "serial": ("aperio.ScanScope ID", "hamamatsu.NDP.S/N", "leica.device-version", "dicom.DeviceSerialNumber"),
    "software": ("tiff.Software", "dicom.SoftwareVersions"),
}


WHOLE_SLIDE_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # DICOM: VL Whole Slide Microscopy Image Storage
_VENDORS = ("svs", "ndpi", "scn", "bif", "philips", "qpi")  # makers whose files tifffile recognises
_OTHER_VENDORS = ("vms", "avs", "sis")  # their marks also occur in plain microscope images


def is_slide_tiff(tiff: tifffile.TiffFile, path: Path | None = None, *, cautious: bool = False) -> bool:
    """Whether a TIFF is a whole slide: by its maker's mark, or a tiled pyramid that is too large or too finely
    resolved.

    Args:
        tiff: the opened file.
        path: of the file, for OpenSlide, which decides about tiled files without a known maker; None: they count as
            plain images.
        cautious: for de-identification, where a slide that is taken for a plain image could show its label: the mark
            of any maker and any tiled pyramid count.
    """
    vendors = (*_VENDORS, *_OTHER_VENDORS) if cautious else _VENDORS
    if any(getattr(tiff, f"is_{vendor}", False) for vendor in vendors):
        return True
    pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    full = [page for page in pages if not page.subfiletype & 0b101]  # TIFF 6.0: neither reduced resolution nor a mask
    if not full or not full[0].is_tiled:
        return False
    if cautious:
        return any(page.is_reduced for page in pages)
    return path is not None and _is_slide_for_openslide(path)


def _is_slide_for_openslide(path: Path) -> bool:
    """Whether OpenSlide takes a tiled TIFF for a whole slide; False where OpenSlide is not installed."""
    try:
        import openslide
    except ImportError:
        return False
    try:
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor is None or vendor != "generic-tiff":
            return vendor is not None
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
            return width * height > _PLAIN_MEGAPIXELS * 1e6 or _um_per_px(slide)[0] is not None
    except (OSError, openslide.OpenSlideError):
        return False


def read_slide(
    source: Source, kind: str, jpeg_quality: float | None = None
) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """The tiles of a slide that hold enough tissue; see `pellucid.cohort.readers.read_pictures`.

    Args:
        source: whose path OpenSlide opens; label, macro and thumbnail (they carry names) are never read.
        kind: what to call the file in a reason: TIFF or DICOM.
        jpeg_quality: of its tiles, where it is known.
    """
    if source.path is None:
        raise UnreadableImage("a whole slide: it is read tile by tile by `scan`, not as one image")
    try:
        import openslide
    except ImportError:
        raise UnreadableImage("a whole slide: install pellucid[slides] to read it") from None
    try:
        slide = openslide.OpenSlide(source.path)
    except (OSError, openslide.OpenSlideError) as error:
        raise UnreadableImage(f"a whole slide ({kind}) that OpenSlide cannot open ({_short(error)})") from None
    tiles = _Tiles(slide, source.options, jpeg_quality)
    try:
        yield from _tiles(tiles, source.path)
    finally:
        tiles.slide.close()


def _tiles(tiles: _Tiles, path: Path) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    import openslide

    try:
        tiles.look()
    except openslide.OpenSlideError as error:
        raise UnreadableImage(f"a damaged slide: its tissue cannot be looked for ({_short(error)})") from None
    found = False
    for left, top in tiles.corners():
        found = True
        label = f"x{left}-y{top}"
        try:
            yield label, tiles.picture(left, top)
        except openslide.OpenSlideError as error:
            yield label, UnreadableImage(f"a damaged slide: this tile cannot be decoded ({_short(error)})")
            tiles.slide.close()  # an object that has failed once fails for ever: the other tiles need a new one
            tiles.slide = openslide.OpenSlide(path)
    if not found:
        raise UnreadableImage(
            f"a whole slide without tissue: no tile of {tiles.side0} pixels holds "
            f"{tiles.options.min_tissue:.0%} of it (scan.min_tissue)"
        )


class _Tiles:
    """The grid over one slide."""

    def __init__(self, slide: OpenSlide, options: ReadOptions, jpeg_quality: float | None) -> None:
        self.slide, self.options, self.jpeg_quality = slide, options, jpeg_quality

    def look(self) -> None:
        """Find the level to read from, and the tissue."""
        slide, options = self.slide, self.options
        um_per_px, self.resolution = _um_per_px(slide)
        if um_per_px is None:
            raise UnreadableImage("a whole slide that does not say its resolution: µm per pixel are not known")
        scale = options.tile_um_per_px / um_per_px
        if scale < _FINEST:
            raise UnreadableImage(
                f"a whole slide scanned at {um_per_px:.3g} µm per pixel, coarser than the "
                f"{options.tile_um_per_px:g} asked for (scan.tile_um_per_px)"
            )
        self.level = max((i for i, down in enumerate(slide.level_downsamples) if down <= scale * _CLOSE), default=0)
        down = slide.level_downsamples[self.level]
        if 1 / _CLOSE <= scale / down <= _CLOSE:  # as good as what was asked for: no pixel is touched
            scale = down
        self.side0 = round(options.tile_px * scale)
        self.level_side = options.tile_px if scale == down else max(1, round(self.side0 / down))
        refuse_bomb(self.level_side, self.level_side, options.max_megapixels)
        self.profile = _icc(slide)
        self.header = _header(slide, um_per_px)
        self.bounds = _bounds(slide)
        _, _, width, height = self.bounds
        if width < self.side0 or height < self.side0:
            raise UnreadableImage(
                f"a whole slide of {width} × {height} pixels, smaller than one tile of {self.side0} × {self.side0}"
            )
        self.per_thumbnail_px = max(1.0, _THUMBNAIL_UM_PER_PX / um_per_px)
        refuse_bomb(
            math.ceil(width / self.per_thumbnail_px),
            math.ceil(height / self.per_thumbnail_px),
            options.max_megapixels,
        )
        self.mask = tissue_mask(_thumbnail(slide, self.bounds, self.per_thumbnail_px))

    def corners(self) -> Iterator[tuple[int, int]]:
        """Left and top of each whole tile with enough tissue, in pixels of level 0, row by row."""
        x0, y0, width, height = self.bounds
        summed = cv2.integral(self.mask.astype(np.uint8))
        for row in range(height // self.side0):
            for column in range(width // self.side0):
                left, top = column * self.side0, row * self.side0
                if _share(summed, left, top, self.side0, self.per_thumbnail_px) >= self.options.min_tissue:
                    yield x0 + left, y0 + top

    def picture(self, left: int, top: int) -> Picture:
        side = self.options.tile_px
        pixels = _region(self.slide, left, top, self.level, self.level_side, self.level_side)
        if self.level_side != side:
            method = cv2.INTER_AREA if self.level_side > side else cv2.INTER_CUBIC
            pixels = np.asarray(cv2.resize(pixels, (side, side), interpolation=method), dtype=np.uint8)
        pixels, colour = to_srgb(pixels, self.profile)
        how = f"tile at {self.options.tile_um_per_px:.3g} µm/px from level {self.level}"
        enlarged = "enlarged" if self.level_side < side else ""
        return Picture(
            pixels,
            side,
            side,
            "slide",
            8,
            self.header,
            (),
            self.jpeg_quality,
            together(how, enlarged, self.resolution, colour),
        )


def _um_per_px(slide: OpenSlide) -> tuple[float | None, str]:
    """µm per pixel of level 0, and a note where it was not measured but concluded from the objective."""
    properties = slide.properties
    sides = [_float(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    known = [side for side in sides if side and _MICROSCOPE_UM_PER_PX[0] <= side <= _MICROSCOPE_UM_PER_PX[1]]
    if len(known) == 2:
        return math.sqrt(known[0] * known[1]), ""
    power = _float(properties.get("openslide.objective-power"))
    if power and 1 <= power <= 200:  # the scanners' convention: 0.25 µm at 40×, 0.5 µm at 20×
        return 10 / power, f"resolution concluded from the {power:g}× objective"
    return None, ""


def _bounds(slide: OpenSlide) -> tuple[int, int, int, int]:
    """Left, top, width and height, in level 0, of the part of the slide that was scanned."""
    width, height = slide.dimensions
    given = [_float(slide.properties.get(f"openslide.bounds-{name}")) for name in ("x", "y", "width", "height")]
    if any(value is None for value in given):
        return 0, 0, width, height
    x, y, w, h = (int(value or 0) for value in given)
    inside = x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
    return (x, y, w, h) if inside else (0, 0, width, height)


def _thumbnail(slide: OpenSlide, bounds: tuple[int, int, int, int], per_px: float) -> NDArray[np.uint8]:
    """The scanned part with `per_px` pixels of level 0 to one, put together from blocks so that memory stays flat."""
    x0, y0, width, height = bounds
    level = slide.get_best_level_for_downsample(per_px)
    down = slide.level_downsamples[level]
    step = max(1, int(_BLOCK_PX * down / per_px))  # thumbnail pixels per block
    out = np.full((max(1, round(height / per_px)), max(1, round(width / per_px)), 3), 255, np.uint8)
    for top in range(0, out.shape[0], step):
        for left in range(0, out.shape[1], step):
            rows, columns = min(step, out.shape[0] - top), min(step, out.shape[1] - left)
            block = _region(
                slide,
                x0 + round(left * per_px),
                y0 + round(top * per_px),
                level,
                max(1, round(columns * per_px / down)),
                max(1, round(rows * per_px / down)),
            )
            out[top : top + rows, left : left + columns] = cv2.resize(
                block, (columns, rows), interpolation=cv2.INTER_AREA
            )
    return out


def _region(slide: OpenSlide, left: int, top: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8; what was not scanned is white, as glass is."""
    rgba = np.asarray(slide.read_region((left, top), level, (width, height)))
    pixels, alpha = rgba[:, :, :3], rgba[:, :, 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(pixels)
    share = alpha.astype(np.float32) / 255
    return np.asarray(np.rint(pixels * share + 255 * (1 - share)), dtype=np.uint8)


def _share(summed: NDArray[Any], left: int, top: int, side: int, per_px: float) -> float:
    height, width = summed.shape[0] - 1, summed.shape[1] - 1
    x1, y1 = min(int(left / per_px), width - 1), min(int(top / per_px), height - 1)
    x2, y2 = (
        min(max(x1 + 1, round((left + side) / per_px)), width),
        min(max(y1 + 1, round((top + side) / per_px)), height),
    )
    inside = int(summed[y2, x2]) - int(summed[y1, x2]) - int(summed[y2, x1]) + int(summed[y1, x1])
    return float(inside / ((x2 - x1) * (y2 - y1)))


def _icc(slide: OpenSlide) -> bytes | None:
    try:
        profile = slide.color_profile
        return None if profile is None else bytes(profile.tobytes())
    except Exception:  # a broken profile is no reason to lose the slide
        return None


def _header(slide: OpenSlide, um_per_px: float) -> dict[str, str]:
    properties = slide.properties
    header = {
        name: next(filter(None, (clean(properties.get(key)) for key in keys)), "") for name, keys in _HEADER.items()
    }
    header["manufacturer"] = header["manufacturer"] or clean(properties.get("openslide.vendor"))
    header["magnification"] = clean(properties.get("openslide.objective-power"))
    header["um_per_px"] = f"{um_per_px:.4g}"
    dates = ("aperio.Date", "tiff.DateTime", "dicom.AcquisitionDateTime", "dicom.StudyDate", "leica.creation-date")
    taken = next(filter(None, (iso_date(clean(properties.get(key))) for key in dates)), "")
    header |= {"date": taken, "year": taken[:4]}
    return {name: value for name, value in header.items() if value and value != "generic-tiff"}


def _float(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _short(error: Exception) -> str:
    return clean(str(error), 80) or type(error).__name__
