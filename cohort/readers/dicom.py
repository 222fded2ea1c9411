"""DICOM: every transfer syntax that the decoders handle, frame by frame, to the pictures a radiologist would see."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    MediaStorageDirectoryStorage,
)

from pellucid.cohort.readers.compressed_stream import (
    colour_space,
    is_whole,
    jpeg_quality,
    stream_precision,
    stream_size,
)
from pellucid.cohort.readers.cut_pixel_data import reparsed
from pellucid.cohort.readers.dicom_display import Display
from pellucid.cohort.readers.dicom_header import dicom_header, header_findings
from pellucid.cohort.readers.dicom_pixel_module import complete_pixel_module, stored_values
from pellucid.cohort.readers.picture import (
    NoPicture,
    Picture,
    Source,
    UnreadableImage,
    chosen_frames,
    refuse_bomb,
    together,
)
from pellucid.cohort.readers.whole_slide import WHOLE_SLIDE_SOP_CLASS

_DAMAGED = "a DICOM file without a picture, or with a damaged header"
_CUT_SHORT = "a DICOM file whose pixels end early: the file is cut short"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # the manifest says what was wrong with a file


def read_dicom(source: Source) -> Iterator[tuple[str, Picture | UnreadableImage]]:
    """The frames of a DICOM file; see `pellucid.cohort.readers.read_pictures`."""
    with warnings.catch_warnings():
        # pydicom warns of every value that breaks the standard; the archive is full of them
        warnings.simplefilter("ignore")
        try:
            dataset, n_whole = _parsed(source.data, source.options.max_megapixels)
            is_slide = dataset.get("SOPClassUID") == WHOLE_SLIDE_SOP_CLASS
            file = None if is_slide else _File(dataset, n_whole, source.options.max_megapixels)
        except (MemoryError, UnreadableImage):
            raise
        except Exception:
            raise UnreadableImage(_DAMAGED) from None
    if file is None:
        from pellucid.cohort.readers.dicom_slide import read_dicom_slide

        yield from read_dicom_slide(source, dataset)
        return
    for number in chosen_frames(file.n_frames, source.options.frames):
        label = str(number) if file.n_frames > 1 else ""
        try:
            yield label, file.frame(number)
        except UnreadableImage as reason:
            if file.n_frames == 1:
                raise
            yield label, reason


def _parsed(data: bytes, max_megapixels: float) -> tuple[Any, int | None]:
    """The dataset, with a transfer syntax and pixels, and how many frames are whole if the file was cut.

    Raises:
        NoPicture: it is a sound file of another kind.
        UnreadableImage: it is not; pydicom's own exceptions pass through.
    """
    _refuse_deflate_bomb(data, max_megapixels)
    dataset, n_whole = pydicom.dcmread(io.BytesIO(data), force=True), None
    if not any(name in dataset for name in _PIXELS):
        dataset, frames = reparsed(data)
        if not frames:
            raise _without_pixels(dataset, cut=frames is not None)
        n_whole = len(frames)
    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset, n_whole


def _without_pixels(dataset: Any, cut: bool) -> UnreadableImage:
    """Why a dataset has no pixels."""
    kind = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    if cut:
        return UnreadableImage(_CUT_SHORT)
    if kind == MediaStorageDirectoryStorage:
        return NoPicture("a DICOMDIR: the directory of other files, without a picture")
    name = getattr(kind, "name", str(kind or "")).removesuffix(" Storage")
    has_size = "Rows" in dataset and "Columns" in dataset and "SpectroscopyData" not in dataset
    if has_size or "Image" in name or name == "Segmentation":
        return UnreadableImage(
            f"a DICOM file ({name or 'without SOP class'}) without its pixel data: it was cut short, or they were "
            "removed"
        )
    return NoPicture(f"a DICOM file without a picture ({name})") if kind else UnreadableImage(_DAMAGED)


def _refuse_deflate_bomb(data: bytes, max_megapixels: float) -> None:
    """A deflated dataset is unpacked by pydicom as a whole: refuse what is larger than any allowed picture's bytes."""
    if DeflatedExplicitVRLittleEndian.encode() not in data[:4096] or data[128:132] != b"DICM":
        return
    stream = io.BytesIO(data)
    stream.seek(132)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: bool(tag.group != 2))
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, stream.read()
    while rest and not inflate.eof:
        size += len(inflate.decompress(rest, 2**20))
        rest = inflate.unconsumed_tail
        if size > max_megapixels * 8e6:
            raise UnreadableImage(
                f"a deflated DICOM file that unpacks to more than {max_megapixels * 8:g} MB "
                "(scan.max_megapixels × 8 bytes): taken for a decompression bomb"
            )
    if not inflate.eof:
        raise UnreadableImage("a deflated DICOM file that ends early: the file is cut short")


class _File:
    """A parsed dataset with what is the same for all its frames."""

    def __init__(self, dataset: Any, n_whole: int | None, max_megapixels: float) -> None:
        self.dataset, self.max_megapixels = dataset, max_megapixels
        self.syntax = dataset.file_meta.TransferSyntaxUID
        self.compressed = self.syntax.is_encapsulated
        self.n_frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        self.n_there = min(n_whole or self.n_frames, self.n_frames)
        if self.n_there < self.n_frames:
            dataset.NumberOfFrames = self.n_there
        self._decodable()
        self.sign_unknown = complete_pixel_module(dataset, self._stream(0) if self.compressed else None)
        self.columns, self.rows = int(dataset.Columns), int(dataset.Rows)
        self.bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
        self.samples = int(dataset.SamplesPerPixel)
        refuse_bomb(self.columns, self.rows, max_megapixels)
        if self.samples not in {1, 3}:
            raise UnreadableImage(f"a DICOM file with {self.samples} samples per pixel: only 1 or 3 are defined")
        self._whole_frames()
        self.display = Display(dataset)
        self.header = dicom_header(dataset)
        self.findings = header_findings(dataset)

    def frame(self, number: int) -> Picture:
        """One frame, decoded and shown.

        Raises:
            UnreadableImage: of this frame.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                stream = self._stream(number) if self.compressed and number < self.n_there else None
                quality = self._stream_facts(stream)
                values, moved = self._values(number, stream)
                pixels, shown = self.display.show(values, number)
            except (MemoryError, UnreadableImage):
                raise
            except Exception as error:
                where = f", frame {number}," if self.n_frames > 1 else ""
                raise UnreadableImage(
                    f"a DICOM file{where} whose pixels cannot be decoded ({type(error).__name__})"
                ) from None
        which = f"frame {number + 1} of {self.n_frames}" if self.n_frames > 1 else ""
        return Picture(
            pixels,
            self.columns,
            self.rows,
            "dicom",
            self.bits,
            self.header,
            self.findings,
            quality,
            together(which, moved, shown),
        )

    def _decodable(self) -> None:
        try:
            decoder = get_decoder(self.syntax)
        except NotImplementedError:
            name = getattr(self.syntax, "name", self.syntax)
            raise UnreadableImage(f"a DICOM file in {name}: there is no decoder for it") from None
        if not decoder.is_available:
            raise UnreadableImage(f"a DICOM file in {self.syntax.name}: its decoder is not installed")

    def _whole_frames(self) -> None:
        """Native pixels that end early keep the frames that are whole; a promise that no file could hold is refused."""
        if self.compressed:
            fragments = len(self.dataset.PixelData) // 8  # an item has a header of 8 bytes
            if self.n_there > fragments:
                raise UnreadableImage(f"the header promises {self.n_frames} frames, more than the file can hold")
            return
        name = next(n for n in _PIXELS if n in self.dataset)
        allocated = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(name) or int(self.dataset.BitsAllocated)
        halved = self.dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
        bits = self.rows * self.columns * (2 if halved else self.samples) * allocated
        data = getattr(self.dataset, name)
        self.n_there = min(self.n_frames, len(data) * 8 // bits)
        if self.n_there == 0:
            raise UnreadableImage(_CUT_SHORT)
        if self.n_frames > 100 * self.n_there + 100:
            raise UnreadableImage(f"the header promises {self.n_frames} frames, more than the file can hold")
        if self.n_there < self.n_frames:
            length = (self.n_there * bits + 7) // 8
            setattr(self.dataset, name, data[: length + length % 2])
            self.dataset.NumberOfFrames = self.n_there

    def _stream_facts(self, stream: bytes | None) -> float | None:
        """The JPEG quality of a compressed frame, once its stream is seen to be whole and as small as the header."""
        if stream is None:
            return None
        size = stream_size(stream)
        if size is not None:
            refuse_bomb(*size, self.max_megapixels)
        if size is not None and not is_whole(stream):
            raise UnreadableImage("a DICOM file whose compressed stream ends early: the file is cut short")
        return jpeg_quality(stream) if self.syntax in {JPEGBaseline8Bit, JPEGExtended12Bit} else None

    def _stream(self, number: int) -> bytes:
        return get_frame(self.dataset.PixelData, number, number_of_frames=self.n_there)

    def _values(self, number: int, stream: bytes | None) -> tuple[NDArray[Any], str]:
        """A frame's stored values, YBR as RGB, and what was done to their bits."""
        if number >= self.n_there:
            raise UnreadableImage(f"frame {number} is not there: the file is cut short")
        precision = None if stream is None else stream_precision(stream)
        if self.syntax == JPEGExtended12Bit and self.bits > 8 and stream is not None:
            values = self._twelve_bits(stream)
        else:
            space = colour_space(stream) if stream is not None and self.samples == 3 else None
            if space is not None:  # the stream knows better than the label
                self.dataset.PhotometricInterpretation = "RGB" if space == "RGB" else "YBR_FULL"
            options: dict[str, Any] = {"correct_unused_bits": False}
            if precision is not None and self.bits < precision <= self.dataset.BitsAllocated:
                options["bits_stored"] = precision  # GDCM clears the other bits, which may hold the value
            values = np.asarray(pixel_array(self.dataset, index=number, **options))
        return stored_values(values, self.dataset, precision, self.sign_unknown)

    def _twelve_bits(self, stream: bytes) -> NDArray[Any]:
        """JPEG process 4, which neither GDCM nor Pillow decodes."""
        import imagecodecs

        values = np.asarray(imagecodecs.jpeg8_decode(stream))
        if values.shape != (self.rows, self.columns):
            raise ValueError(f"the stream holds {values.shape}")
        return values
