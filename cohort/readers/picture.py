"""What reading gives: pixels and what the header said, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.study import ScanConfig

# The names that `Picture.header` may hold, for every format; docs/reading.md says where each comes from.
HEADER_NAMES = (
    "manufacturer",
    "model",
    "station",
    "serial",
    "software",
    "lens",
    "date",  # of acquisition, yyyy-mm-dd
    "year",
    "operator",
    "institution",
    "modality",
    "body_part",
    "view",
    "laterality",
    "protocol",
    "kernel",
    "kvp",
    "slice_thickness",  # mm
    "magnification",  # of the objective
    "um_per_px",  # of a slide at its highest resolution
    "exposure_time",  # s
    "f_number",
    "iso",
    "focal_length",  # mm
    "flash",  # yes or no
    "patient_id",
)


class UnreadableImage(Exception):
    """This file has no picture to give; the message becomes the `reason` in the manifest."""


class NoPicture(UnreadableImage):
    """The file is sound, but it holds no picture of its own: a report, a plan, a directory, a level of a slide."""


NOTHING_SHOWN = "the file contains no image (a slide without tissue?)"


def decoding_reason(error: Exception) -> str:
    """Why a file has no image, for the column `reason`, by what a reader raised.

    A decoder may raise anything on a damaged file: one unusual file must not stop the work on an archive.
    """
    import cv2

    if isinstance(error, UnreadableImage):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem):
        return "the image does not fit in memory (scan.memory_limit_gb)"
    if isinstance(error, OSError):
        return f"the file cannot be opened ({error.strerror or type(error).__name__})"
    return f"unexpected error while decoding ({type(error).__name__}); please report this file"


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright; may be a smaller DCT scale of the original.
        width, height: of the original, upright, in pixels.
        format: jpeg, png, webp, bmp, gif, tiff, dicom or slide.
        bits: stored bits per channel.
        header: what the header says of how the image came to be (never shown, only joined and counted): HEADER_NAMES.
        findings: kinds of identifying content in the header, for example `exif_gps`.
        jpeg_quality: the IJG quality (1–100) that the quantisation tables speak of; None where nothing was lost to
            JPEG.
        how: what was done on the way from the stored pixels to these, for example `DCT scale 1/2`; empty for nothing.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    bits: int
    header: dict[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    jpeg_quality: float | None = None
    how: str = ""


@dataclass(frozen=True)
class ReadOptions:
    """How files are decoded; `pellucid.cohort.study.ScanConfig` explains each setting."""

    min_side_px: int = 0  # a JPEG may be decoded at a smaller DCT scale with at least this on both sides; 0: full size
    max_megapixels: float = 200
    frames: str = "all"  # of a file with several images: all, middle, or every N
    tile_px: int = 256  # whole slides are cut into tiles of this many pixels …
    tile_um_per_px: float = 0.5  # … at this resolution
    min_tissue: float = 0.5  # share of a tile that must be tissue

    @classmethod
    def from_scan_config(cls, config: ScanConfig, min_side_px: int) -> ReadOptions:
        """The options that a scan with this configuration reads with."""
        return cls(
            min_side_px=min_side_px,
            max_megapixels=config.max_megapixels,
            frames=config.frames,
            tile_px=config.tile_px,
            tile_um_per_px=config.tile_um_per_px,
            min_tissue=config.min_tissue,
        )


@dataclass(frozen=True)
class Source:
    """A file on its way through a reader.

    Attributes:
        data: the whole file.
        path: where it lies; None where only the bytes are at hand (whole slides are then refused).
        options: how to read it.
    """

    data: bytes
    path: Path | None
    options: ReadOptions


def chosen_frames(n_frames: int, frames: str) -> range:
    """The numbers of the frames to read: `all`, `middle` (the upper of two) or `every N`, counted from 0."""
    if frames == "middle":
        return range(n_frames // 2, n_frames // 2 + 1)
    step = 1 if frames == "all" else int(frames.removeprefix("every "))
    return range(0, n_frames, step)


def flat_rgb(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 1|3) uint8 as contiguous (H, W, 3): gray is repeated."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """EXIF and TIFF orientation 1–8 undone; anything else counts as 1."""
    if orientation in {2, 4, 5, 7}:
        pixels = pixels[:, ::-1] if orientation in {2, 5} else pixels[::-1]
        if orientation == 7:
            return np.ascontiguousarray(np.rot90(pixels, 1))
    turns = {3: 2, 5: 1, 6: 3, 8: 1}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def refuse_bomb(width: int, height: int, max_megapixels: float) -> None:
    """Refuse before decoding what would not fit in memory."""
    if width <= 0 or height <= 0:
        raise UnreadableImage("the header gives an image without pixels")
    if width * height > max_megapixels * 1e6:
        raise UnreadableImage(
            f"the header promises {width} × {height} pixels, more than the {max_megapixels:g} megapixels allowed "
            "(scan.max_megapixels): taken for a decompression bomb"
        )


def together(*parts: str) -> str:
    """The steps of `Picture.how` in one line; empty ones fall away."""
    return ", ".join(part for part in parts if part)
