"""Images of a file as squares for a network, decoded in a reading process (`pellucid.cohort.intake.sandbox`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from pellucid.cohort.identifiers import without_text
from pellucid.cohort.images import Pixels, as_prepared, stretch
from pellucid.cohort.intake.file_record import bytes_of
from pellucid.cohort.intake.sandbox import ReaderDied, run_apart
from pellucid.cohort.readers import (
    NOTHING_SHOWN,
    Picture,
    ReadOptions,
    UnreadableImage,
    decoding_reason,
    read_image,
    read_pictures,
)
from pellucid.cohort.study import ScanConfig

_DEFAULTS = ScanConfig()
T = TypeVar("T")
P = ParamSpec("P")


class Square(NamedTuple):
    """One image of a file, or the reason why there is none.

    Attributes:
        sha256: of the file; empty if it could not be read.
        frame: its label in the file, empty for a file's only image, `None` where the reason is that of the rest.
        pixels: (size_px, size_px, 3) uint8 RGB, or None.
        reason: empty where there are pixels.
    """

    sha256: str
    frame: str | None
    pixels: Pixels | None
    reason: str = ""


def squares_apart(
    root: Path,
    file: str,
    config: ScanConfig,
    size_px: int,
    *,
    frames: Collection[str] | None = None,
    mask_text: bool = False,
    through_prepared: bool = False,
) -> Iterator[Square]:
    """The images of a file, decoded in another process; a file that kills it gives its reason.

    Args:
        root: folder that `file` is relative to.
        file: the file.
        config: how it is read, and the limits of time and memory.
        size_px: side of the squares.
        frames: labels of the frames to give; None: all.
        mask_text: paint over burned-in text.
        through_prepared: shrink and compress first, as the scan does for a prepared copy.
    """
    sha256 = ""
    try:
        for square in run_apart(config, squares, root, file, config, size_px, frames, mask_text, through_prepared):
            sha256 = square.sha256
            yield square
    except ReaderDied as death:
        yield Square(sha256, None, None, str(death))


def squares(
    root: Path,
    file: str,
    config: ScanConfig,
    size_px: int,
    frames: Collection[str] | None,
    mask_text: bool,
    through_prepared: bool,
) -> Iterator[Square]:
    """As `squares_apart`, in this process."""
    sha256, any_picture = "", False
    missing = None if frames is None else set(frames)
    try:
        data = bytes_of(root / file)
        sha256 = hashlib.sha256(data).hexdigest()
        # lines of text are found at full size
        options = ReadOptions.from_scan_config(config, min_side_px=0 if mask_text else size_px)
        for frame, picture in read_pictures(root / file, data, options):
            any_picture = True
            if missing is not None and frame not in missing:
                continue
            if isinstance(picture, UnreadableImage):
                yield Square(sha256, frame, None, str(picture))
            else:
                pixels = without_text(picture.pixels) if mask_text else picture.pixels
                if through_prepared:
                    pixels = as_prepared(pixels, config.size_px, config.jpeg_quality, size_px)
                yield Square(sha256, frame, stretch(pixels, size_px))
            if missing is not None:
                missing.discard(frame)
                if not missing:  # the rest of the file is not needed
                    return
        if not any_picture:
            yield Square(sha256, None, None, NOTHING_SHOWN)
    except Exception as error:  # one unusual file must not stop the work on an archive
        yield Square(sha256, None, None, decoding_reason(error))


def read_image_apart(path: Path, *, min_side_px: int = 0, limits: ScanConfig = _DEFAULTS) -> Picture:
    """One image file, decoded in another process: the middle image of a file with several.

    Args:
        path: the file.
        min_side_px: as for `pellucid.cohort.readers.read_image`.
        limits: of time, memory and megapixels.

    Raises:
        UnreadableImage: with the reason; also where the decoder crashed or exceeded a limit.
        OSError: the file cannot be opened.
    """
    return _one_answer(limits, _image, path, min_side_px, limits.max_megapixels)


def _image(path: Path, min_side_px: int, max_megapixels: float) -> list[Picture]:
    return [_decoded(path, min_side_px, max_megapixels)]


def square_apart(path: Path, size_px: int, limits: ScanConfig = _DEFAULTS) -> Pixels:
    """One image file as a square of `size_px` pixels; see `read_image_apart`."""
    return _one_answer(limits, _square, path, size_px, limits.max_megapixels)


def _one_answer(limits: ScanConfig, work: Callable[P, list[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The only answer of `work`, computed in another process."""
    try:
        [answer] = run_apart(limits, work, *args, **kwargs)
    except ReaderDied as death:
        raise UnreadableImage(str(death)) from None
    return answer


def _square(path: Path, size_px: int, max_megapixels: float) -> list[Pixels]:
    return [stretch(_decoded(path, size_px, max_megapixels).pixels, size_px)]


def _decoded(path: Path, min_side_px: int, max_megapixels: float) -> Picture:
    try:
        return read_image(path.read_bytes(), min_side_px=min_side_px, max_megapixels=max_megapixels)
    except (UnreadableImage, OSError):
        raise
    except Exception as error:
        raise UnreadableImage(decoding_reason(error)) from None
