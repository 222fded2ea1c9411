"""Compressed DICOM files that were cut: what is whole is read, what is not is damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pellucid.cohort.readers import NoPicture, Picture, ReadOptions, UnreadableImage, read_image, read_pictures


def scene(number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64), dtype=np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def j2k(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True)


ENCODERS = [(JPEGBaseline8Bit, jpeg), (JPEG2000Lossless, j2k), (JPEGLSLossless, imagecodecs.jpegls_encode)]
Encoder = Callable[[np.ndarray], bytes]


def dicom(syntax: UID, frames: list[bytes], table: bool = True, extended: bool = False, fragments: int = 1) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Rows = made.Columns = 64
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    if len(frames) > 1:
        made.NumberOfFrames = len(frames)
    if extended:
        made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        made.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=table)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def rle(frames: list[np.ndarray]) -> bytes:
    made = dcmread(io.BytesIO(dicom(RLELossless, [bytes(100)] * len(frames))))
    del made["PixelData"]
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.PixelData = np.stack(frames).tobytes()
    made["PixelData"].VR = "OB"
    made.compress(RLELossless)
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()


def frames_of(data: bytes) -> list[tuple[str, Picture | UnreadableImage]]:
    return list(read_pictures(Path("nowhere"), data, ReadOptions()))


@pytest.mark.parametrize(("syntax", "encode"), ENCODERS)
@pytest.mark.parametrize("missing", [1, 2, 4, 7, 8])
def test_a_file_that_only_lacks_its_delimiter_is_read(syntax: UID, encode: Encoder, missing: int) -> None:
    whole = dicom(syntax, [encode(scene())])
    assert np.array_equal(read_image(whole[:-missing]).pixels, read_image(whole).pixels)


@pytest.mark.parametrize(("syntax", "encode"), ENCODERS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.95])
def test_a_file_that_was_cut_in_its_stream_is_damaged(syntax: UID, encode: Encoder, share: float) -> None:
    whole = dicom(syntax, [encode(scene())])
    with pytest.raises(UnreadableImage, match="the file is cut short") as raised:
        read_image(whole[: int(len(whole) * share)])
    assert not isinstance(raised.value, NoPicture)


def test_a_file_that_was_cut_in_its_header_is_damaged() -> None:
    whole = dicom(JPEGBaseline8Bit, [jpeg(scene())])
    for at in (
        whole.index(b"\xe0\x7f\x10\x00"),
        whole.index(b"\x28\x00\x10\x00"),
        whole.index(b"\x28\x00\x10\x00") + 5,
    ):
        with pytest.raises(UnreadableImage, match=r"\(CT Image\) without its pixel data: it was cut short") as raised:
            read_image(whole[:at])
        assert not isinstance(raised.value, NoPicture)


def test_a_cut_rle_file_is_damaged_and_one_without_delimiter_is_read() -> None:
    whole = rle([scene()])
    assert np.array_equal(read_image(whole[:-8]).pixels[:, :, 0], scene())
    with pytest.raises(UnreadableImage, match="the file is cut short"):
        read_image(whole[:-20])


@pytest.mark.parametrize("kind", ["table", "no table", "extended", "fragments"])
def test_the_whole_frames_of_a_cut_file_are_kept(kind: str) -> None:
    made = [jpeg(scene(n)) for n in range(4)]
    whole = dicom(
        JPEGBaseline8Bit,
        made,
        table=kind in {"table", "fragments"},
        extended=kind == "extended",
        fragments=3 if kind == "fragments" else 1,
    )
    expected = [picture for _, picture in frames_of(whole)]
    found = frames_of(whole[: len(whole) - len(made[3]) // 2])
    assert [label for label, _ in found] == ["0", "1", "2", "3"]
    for (_, picture), right in zip(found[:3], expected, strict=False):
        assert isinstance(picture, Picture)
        assert isinstance(right, Picture)
        assert np.array_equal(picture.pixels, right.pixels)
    assert str(found[3][1]) == "frame 3 is not there: the file is cut short"


def test_a_cut_stream_in_a_whole_file_is_damaged() -> None:
    """The stream was cut before it was put into the file, or the file was filled with zeros."""
    stream = jpeg(scene())
    for cut in (stream[: len(stream) // 2], stream[: len(stream) // 2] + bytes(len(stream) // 2)):
        with pytest.raises(UnreadableImage, match="ends early: the file is cut short"):
            read_image(dicom(JPEGBaseline8Bit, [cut]))


def test_a_cut_deflated_file_is_damaged() -> None:
    made = dcmread(io.BytesIO(rle([scene()])))
    made.decompress()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    made.save_as(buffer)
    assert np.array_equal(read_image(buffer.getvalue()).pixels[:, :, 0], scene())
    with pytest.raises(UnreadableImage, match="the file is cut short"):
        read_image(buffer.getvalue()[:-500])
