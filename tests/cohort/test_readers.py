"""Reading: the right picture from every good file, a reason from every bad one, and never a crash."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageOps
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cohort.readers import UnreadableImage, read_image, sniff


def scene(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, 255 - x * 2], axis=2).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_kinds_come_out_exactly(kind: str) -> None:
    picture = read_image(saved(Image.fromarray(scene()), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(picture.pixels, scene())
    assert (picture.width, picture.height, picture.format) == (80, 60, kind.lower())


def test_jpeg_agrees_with_pillow() -> None:
    data = saved(Image.fromarray(scene()), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(read_image(data).pixels.astype(int) - expected).max() <= 3  # two decoders round differently


def test_scaled_decoding_keeps_the_side_and_reports_the_original() -> None:
    data = saved(Image.fromarray(scene(600, 800)), "JPEG", quality=90)
    picture = read_image(data, min_side_px=128)
    assert 128 <= min(picture.pixels.shape[:2]) < 300
    assert (picture.width, picture.height) == (800, 600)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_undone(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene()), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    picture = read_image(data)
    assert picture.pixels.shape == expected.shape
    assert np.abs(picture.pixels.astype(int) - expected).mean() < 2
    assert (picture.height, picture.width) == expected.shape[:2]


def test_modes_become_rgb() -> None:
    gray = Image.fromarray(scene()[:, :, 0])
    assert np.array_equal(read_image(saved(gray, "PNG")).pixels, np.repeat(scene()[:, :, :1], 3, axis=2))
    assert read_image(saved(Image.fromarray(scene()).convert("CMYK"), "JPEG")).pixels.shape == (60, 80, 3)
    assert read_image(saved(Image.fromarray(scene()).convert("P"), "PNG")).pixels.shape == (60, 80, 3)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read_image(saved(clear, "PNG")).pixels.max() == 0, "transparent is black, not the hidden colour"


def test_sixteen_bits_are_scaled_by_the_bits_in_use() -> None:
    twelve = (np.arange(4096, dtype=np.uint16)).reshape(64, 64)
    pixels = read_image(saved(Image.fromarray(twelve), "PNG")).pixels
    assert pixels.max() == 255
    assert np.array_equal(pixels[:, :, 0], (twelve >> 4).astype(np.uint8))


def test_exif_findings() -> None:
    exif = Image.Exif()
    exif[0x013B] = "A. Photographer"
    exif.get_ifd(0x8825)[1] = "N"
    picture = read_image(saved(Image.fromarray(scene()), "JPEG", exif=exif))
    assert set(picture.findings) == {"exif_gps", "exif_identity"}
    assert read_image(saved(Image.fromarray(scene()), "JPEG")).findings == ()


def png_that_promises(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * 1_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", "the file is empty"),
    "text named .png": (b"this is not a picture\n" * 20, "the content is not an image of a kind that can be read"),
    "truncated JPEG": (saved(Image.fromarray(scene()), "JPEG")[:-200], "a damaged JPEG: the file is cut short"),
    "truncated PNG": (saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)), "PNG")[:3000], "a damaged PNG: "),
    "JPEG header only": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "a damaged JPEG: the header cannot be read"),
    "zip bomb": (png_that_promises(60_000, 60_000), "taken for a decompression bomb"),
    "large but not absurd": (png_that_promises(16_000, 16_000), "the header promises 16000 × 16000 pixels, more than the 200 megapixels allowed"),
    "TIFF": (saved(Image.fromarray(scene()), "TIFF"), "a TIFF file: this version reads JPEG, PNG, WebP, BMP and single-frame DICOM"),
    "DICOM without a picture": (b"\0" * 128 + b"DICM" + b"\0" * 64, "a DICOM file without a picture, or with a damaged header"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gives_its_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(UnreadableImage) as caught:
        read_image(data)
    assert reason in str(caught.value)


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", **attributes: object) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_window_and_rescale() -> None:
    stored = np.tile(np.arange(0, 2048, 8, dtype=np.int16), (16, 1))
    data = dicom(stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    shown = read_image(data).pixels[0, :, 0].astype(float)
    hounsfield = stored[0] - 1024.0
    expected = ((hounsfield - 39.5) / 399 + 0.5).clip(0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(shown - expected).max() <= 1


def test_dicom_first_of_several_windows() -> None:
    stored = np.tile(np.arange(0, 2048, 8, dtype=np.uint16), (16, 1))
    two = dicom(stored, WindowCenter=[1000, 200], WindowWidth=[400, 100])
    one = dicom(stored, WindowCenter=1000, WindowWidth=400)
    assert np.array_equal(read_image(two).pixels, read_image(one).pixels)


def test_dicom_monochrome1_is_inverted() -> None:
    stored = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    window = {"WindowCenter": 128, "WindowWidth": 256}
    plain = read_image(dicom(stored, **window)).pixels.astype(int)
    inverted = read_image(dicom(stored, "MONOCHROME1", **window)).pixels.astype(int)
    assert np.array_equal(inverted, 255 - plain)


def test_dicom_colour_and_identity() -> None:
    picture = read_image(dicom(scene(), "RGB", PatientName="Doe^Jane", PatientID="77", Manufacturer="ACME"))
    assert np.array_equal(picture.pixels, scene())
    assert picture.findings == ("dicom_identity",)
    assert picture.header["manufacturer"] == "ACME"
    assert picture.header["patient_id"] == "77"


def test_multi_frame_is_set_aside() -> None:
    frames = np.zeros((32, 16), np.uint8)
    data = dicom(frames, NumberOfFrames=2)
    with pytest.raises(UnreadableImage, match="a DICOM file of 2 frames: this version reads single frames"):
        read_image(data)


def test_name_plays_no_part() -> None:
    assert sniff(saved(Image.fromarray(scene()), "JPEG")) == "jpeg"
    assert sniff(b"hello") is None


def test_every_file_of_pydicom_is_read_or_set_aside() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted(folder.rglob("*.dcm"))
    assert len(files) > 50
    read = 0
    for path in files:
        try:
            pixels = read_image(path.read_bytes(), max_megapixels=20).pixels
        except UnreadableImage:
            continue
        read += 1
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
    assert read > 30


def test_format_samples(shared_data: Path) -> None:
    folder = shared_data / "format_samples" / "images"
    outcome = {}
    for path in sorted(folder.iterdir()):
        try:
            outcome[path.name] = read_image(path.read_bytes()).pixels.shape
        except UnreadableImage as reason:
            outcome[path.name] = str(reason)
    assert outcome["US1_UNCR.dcm"] == (480, 640, 3)
    assert outcome["RG1_J2KI.dcm"] == (1955, 1841, 3)
    assert isinstance(outcome["broken.svs"], str)
    assert isinstance(outcome["unreadable.svs"], str)
