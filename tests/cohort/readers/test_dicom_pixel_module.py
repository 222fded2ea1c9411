"""Stored values by the Image Pixel Module: foreign bits, missing attributes, decimal commas, colours of a stream."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from pellucid.cohort.readers import UnreadableImage, read_image

HEIGHT, WIDTH = 64, 256


def values(bits: int = 12) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return ((x * 15 + y) & (2**bits - 1)).astype(np.uint16)


def letters() -> np.ndarray:
    image = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).text((8, 20), "ZANZIBAROVA ANNA 03.05.1960", fill=1)
    return np.asarray(image).astype(np.uint16)


def windowed(real: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, as gray."""
    return (((real - (centre - 0.5)) / (width - 1) + 0.5) * 255).round().clip(0, 255)


def dicom(
    pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, stream: bytes | None = None, **attributes: Any
) -> bytes:
    """A secondary capture; an attribute of None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = syntax
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    bits = pixels.dtype.itemsize * 8
    module = {
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if pixels.ndim == 3 else None, "BitsAllocated": bits, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }  # fmt: skip
    for name, value in {**module, **attributes}.items():
        if value is not None:
            setattr(made, name, value)
    made.PixelData = pixels.tobytes() if stream is None else encapsulate([stream])
    made["PixelData"].VR = "OW" if bits > 8 and stream is None else "OB"
    made["PixelData"].is_undefined_length = stream is not None
    if syntax == RLELossless:
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.compress(RLELossless)
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


TWELVE = {"BitsStored": 12, "HighBit": 11, "WindowCenter": "1900", "WindowWidth": "3800"}


def encoded(pixels: np.ndarray, syntax: UID) -> bytes | None:
    if syntax == JPEG2000Lossless:
        return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", reversible=True)
    if syntax == JPEGLSLossless:
        return imagecodecs.jpegls_encode(pixels)
    return imagecodecs.ljpeg_encode(pixels, bitspersample=16) if syntax == JPEGLosslessSV1 else None


@pytest.mark.parametrize("bit", [12, 13, 15])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
        JPEGLosslessSV1,
    ],
)
def test_bits_above_bits_stored_are_removed_whatever_the_codec(syntax: UID, bit: int) -> None:
    dirty = values() | letters() << bit
    picture = read_image(dicom(dirty, syntax, encoded(dirty, syntax), **TWELVE))
    assert np.array_equal(picture.pixels[:, :, 0], windowed(values().astype(float), 1900, 3800))
    assert "bits above BitsStored 12 removed" in picture.how


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless])
def test_signed_values_keep_their_sign(syntax: UID) -> None:
    signed = values().astype(np.int16) - 2048
    dirty = (signed.view(np.uint16) & 0xFFF) | letters() << 14
    settings = {**TWELVE, "WindowCenter": "0", "WindowWidth": "4000", "PixelRepresentation": 1}
    picture = read_image(dicom(dirty, syntax, encoded(dirty, syntax), **settings))
    assert np.array_equal(picture.pixels[:, :, 0], windowed(signed.astype(float), 0, 4000))


def test_eight_bits_with_letters_in_the_highest() -> None:
    dirty = (values(7) | letters() << 7).astype(np.uint8)
    picture = read_image(dicom(dirty, BitsStored=7, HighBit=6))
    assert np.array_equal(picture.pixels[:, :, 0], values(7).astype(int) * 255 // 127)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, RLELossless])
@pytest.mark.parametrize(("high", "below"), [(15, 0), (15, 1), (13, 1)])
def test_values_in_the_high_bits_are_moved(high: int, below: int, syntax: UID) -> None:
    """PS3.5 8.1.1 before 2014: HighBit is where the value ends; overlays may be below it."""
    stored = values() << (high - 11) | below * letters()
    picture = read_image(dicom(stored, syntax, encoded(stored, syntax), **TWELVE | {"HighBit": high}))
    assert np.array_equal(picture.pixels[:, :, 0], windowed(values().astype(float), 1900, 3800))
    assert f"moved by {high - 11} bits (HighBit {high})" in picture.how


def test_a_high_bit_that_contradicts_the_pixels_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="HighBit 15 with BitsStored 12, but the values are in the 12 lowest"):
        read_image(dicom(values(), **TWELVE | {"HighBit": 15}))
    with pytest.raises(UnreadableImage, match="contradicts itself: HighBit 7, BitsStored 12, BitsAllocated 16"):
        read_image(dicom(values(), **TWELVE | {"HighBit": 7}))
    with pytest.raises(UnreadableImage, match="contradicts itself: BitsStored 17, BitsAllocated 16"):
        read_image(dicom(values(), **TWELVE | {"BitsStored": 17, "HighBit": 16}))


# --- decimal commas ---


def with_commas(data: bytes, *pairs: tuple[bytes, bytes]) -> bytes:
    for point, comma in pairs:
        assert data.count(point) == 1
        data = data.replace(point, comma)
    return data


def test_slope_intercept_and_window_with_decimal_commas() -> None:
    y, x = np.mgrid[:HEIGHT, :64]
    hu = (x - 32) * 12.0 + y
    stored = np.rint((hu + 1024) / 0.5).astype(np.uint16)
    point = dicom(stored, RescaleSlope="0.5", RescaleIntercept="-1024.0", WindowCenter="40.25", WindowWidth="400.5")
    comma = with_commas(
        point,
        (b"DS\x04\x000.5 ", b"DS\x04\x000,5 "),
        (b"-1024.0", b"-1024,0"),
        (b"40.25", b"40,25"),
        (b"400.5", b"400,5"),
    )
    assert np.array_equal(read_image(comma).pixels, read_image(point).pixels)
    assert np.abs(read_image(comma).pixels[:, :, 0] - windowed(hu, 40.25, 400.5)).max() <= 1


def test_several_windows_with_decimal_commas() -> None:
    point = dicom(values(), WindowCenter=["1900.5", "40.0"], WindowWidth=["3800.5", "400.0"])
    comma = with_commas(point, (b"1900.5\\40.0", b"1900,5\\40,0"), (b"3800.5\\400.0", b"3800,5\\400,0"))
    assert np.array_equal(read_image(comma).pixels, read_image(point).pixels)
    assert read_image(comma).how == "window 1900.5/3800.5"


def test_a_slope_that_is_no_number_is_refused_by_name_and_a_window_is_ignored() -> None:
    data = dicom(values(), RescaleSlope="1.0001", RescaleIntercept="-1024.0")
    for wrong in (b"abcdef", b"1.0,01"):
        with pytest.raises(UnreadableImage, match="RescaleSlope is not a number"):
            read_image(with_commas(data, (b"1.0001", wrong)))
    with pytest.raises(UnreadableImage, match="RescaleIntercept is not a number"):
        read_image(with_commas(data, (b"-1024.0 ", b"1.024,00")))
    window = with_commas(dicom(values(), WindowCenter="1900.5", WindowWidth="3800"), (b"1900.5", b"middle"))
    assert read_image(window).how.startswith("window ignored: not a number, stretched")


def test_header_numbers_with_decimal_commas() -> None:
    data = with_commas(dicom(values(), SliceThickness="2.50", KVP="120"), (b"2.50", b"2,50"))
    assert read_image(data).header["slice_thickness"] == "2.5"


# --- missing attributes ---


@pytest.mark.parametrize("name", ["HighBit", "SamplesPerPixel", "PixelRepresentation"])
def test_what_follows_from_the_other_attributes_is_read(name: str) -> None:
    stored = values(11)  # signed and unsigned are the same without the highest bit
    assert np.array_equal(
        read_image(dicom(stored, **TWELVE | {name: None})).pixels, read_image(dicom(stored, **TWELVE)).pixels
    )


def test_bits_stored_follows_from_high_bit() -> None:
    dirty = values() | letters() << 13
    picture = read_image(dicom(dirty, **TWELVE | {"BitsStored": None}))
    assert np.array_equal(picture.pixels[:, :, 0], windowed(values().astype(float), 1900, 3800))


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation"),
        ({"BitsAllocated": None}, "BitsAllocated"),
        ({"BitsStored": None, "HighBit": None}, "BitsStored"),
        ({"Rows": None}, "Rows"),
        ({"Columns": None}, "Columns"),
    ],
)
def test_what_does_not_follow_is_refused_by_name(attributes: dict[str, Any], name: str) -> None:
    with pytest.raises(UnreadableImage, match=f"without the attribute {name}"):
        read_image(dicom(values(), **TWELVE | attributes))


def test_a_sign_that_matters_is_not_guessed() -> None:
    negative = values().astype(np.int16) - 2048
    with pytest.raises(UnreadableImage, match="without the attribute PixelRepresentation"):
        read_image(dicom(negative, PixelRepresentation=None))


def test_colour_needs_its_planar_configuration_only_without_compression() -> None:
    rgb = np.dstack([values(8), 255 - values(8), values(8) // 2]).astype(np.uint8)
    with pytest.raises(UnreadableImage, match="without the attribute PlanarConfiguration"):
        read_image(dicom(rgb, PlanarConfiguration=None))
    assert np.array_equal(read_image(dicom(rgb, SamplesPerPixel=None)).pixels, rgb)
    stream = imagecodecs.jpeg2k_encode(rgb, level=0, codecformat="J2K", reversible=True, mct=False)
    assert np.array_equal(read_image(dicom(rgb, JPEG2000Lossless, stream, PlanarConfiguration=None)).pixels, rgb)


# --- what a JPEG stream states about its colours ---


def jpeg(rgb: np.ndarray, keep_rgb: bool = False, subsampling: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=95, subsampling=subsampling, keep_rgb=keep_rgb)
    return buffer.getvalue()


def without(stream: bytes, marker: int) -> bytes:
    at = stream.index(bytes([0xFF, marker]))
    return stream[:at] + stream[at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big") :]


def adobe(stream: bytes, transform: int) -> bytes:
    return stream[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + stream[2:]


def smooth() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 0.9, 255 - y * 3, (x + y) * 0.7], -1).astype(np.uint8)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize(
    "stream",
    [
        jpeg(smooth()),  # JFIF
        without(jpeg(smooth()), 0xE0),  # a chroma table
        without(jpeg(smooth(), subsampling=2), 0xE0),  # subsampled
        adobe(without(jpeg(smooth()), 0xE0), 1),
        jpeg(smooth(), keep_rgb=True),  # component ids R, G, B
        adobe(jpeg(smooth(), keep_rgb=True), 0),
    ],
)
def test_the_colours_of_a_jpeg_stream_count_not_its_label(stream: bytes, label: str) -> None:
    picture = read_image(dicom(smooth(), JPEGBaseline8Bit, stream, PhotometricInterpretation=label))
    assert np.abs(picture.pixels.astype(int) - smooth()).mean() < 3
