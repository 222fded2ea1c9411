"""DICOM: each file against GDCM's own decoding, each step of the display against the formula of PS3.3."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from pellucid.cohort.readers import (
    NoPicture,
    Picture,
    ReadOptions,
    UnreadableImage,
    read_image,
    read_pictures,
)

TEST_FILES = Path(pydicom.__file__).parent / "data"


def scene(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, 255 - x * 2], axis=2).clip(0, 255).astype(np.uint8)


def ramp(kind: str, start: int = 0, stop: int = 2048, step: int = 8) -> np.ndarray:
    return np.tile(np.arange(start, stop, step).astype(kind), (16, 1))


def dataset(pixels: np.ndarray, photometric: str = "MONOCHROME2", **attributes: object) -> FileDataset:
    """A secondary capture of (H, W) or (H, W, 3), or of (n, H, W) where NumberOfFrames is given."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    shape = pixels.shape[1:] if "NumberOfFrames" in attributes else pixels.shape
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = 3 if len(shape) == 3 else 1
    if len(shape) == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = photometric
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def written(made: FileDataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", **attributes: object) -> bytes:
    return written(dataset(pixels, photometric, **attributes))


def gray(data: bytes) -> np.ndarray:
    """The first row of a picture that must be gray."""
    pixels = read_image(data).pixels
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].astype(float)


def pictures(data: bytes, frames: str = "all") -> list[tuple[str, Picture | UnreadableImage]]:
    return list(read_pictures(Path("nowhere"), data, ReadOptions(frames=frames)))


# --- an independent way from file to picture: GDCM decodes, the display is written out here ---


def gdcm_frames(path: Path) -> np.ndarray:
    """(n, H, W) or (n, H, W, 3) as GDCM itself decodes the file; YBR is left as it is."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read(), path
    image = reader.GetImage()
    form = image.GetPixelFormat()
    kinds = {8: "u1", 16: "u2", 32: "u4"}
    kind = np.dtype(kinds[form.GetBitsAllocated()])
    if form.GetPixelRepresentation():
        kind = np.dtype(kind.str.replace("u", "i"))
    raw = np.frombuffer(image.GetBuffer().encode("utf-8", errors="surrogateescape"), kind)
    shape = image.GetDimensions()[::-1]  # columns, rows, frames
    samples = form.GetSamplesPerPixel()
    frames = shape[0] if len(shape) == 3 else 1
    if samples > 1 and image.GetPlanarConfiguration():
        return raw.reshape(frames, samples, *shape[-2:]).transpose(0, 2, 3, 1)
    return raw.reshape(frames, *shape[-2:], *([samples] if samples > 1 else []))


def displayed(values: np.ndarray, header: Dataset) -> np.ndarray:
    """One frame as a plain reading of PS3.3 C.11 and C.7.6.3 shows it, (H, W, 3)."""
    photometric = header.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        tables = [getattr(header, f"{c}PaletteColorLookupTableData") for c in ("Red", "Green", "Blue")]
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        luts = [np.frombuffer(t, order + "u2") >> 8 for t in tables]
        return np.stack([lut[values.astype(int).clip(0, len(lut) - 1)] for lut in luts], axis=2)
    if values.ndim == 3:
        if photometric.startswith("YBR_FULL"):
            return np.asarray(Image.fromarray(values, "YCbCr").convert("RGB"))
        return values >> (header.BitsStored - 8)
    real = values * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    if "WindowCenter" in header:
        first = [float(v[0]) if isinstance(v, list | pydicom.multival.MultiValue) else float(v)
                 for v in (header.WindowCenter, header.WindowWidth)]  # fmt: skip
        shown = ((real - (first[0] - 0.5)) / (first[1] - 1) + 0.5).clip(0, 1) * 255
    elif header.BitsStored <= 8:
        shown = real * 255 / (2**header.BitsStored - 1)
    else:
        use = real
        if "PixelPaddingValue" in header:
            use = real[values != header.PixelPaddingValue]
        low, high = np.percentile(use, (0.5, 99.5))
        shown = ((real - low) / (high - low)).clip(0, 1) * 255
        if "PixelPaddingValue" in header:
            shown = np.where(values == header.PixelPaddingValue, 0, shown)
    if photometric == "MONOCHROME1":
        shown = 255 - shown
    return np.repeat(shown[:, :, None], 3, axis=2)


def agrees_with_gdcm(path: Path, tolerance: float) -> None:
    header = pydicom.dcmread(path)
    expected = gdcm_frames(path)
    found = pictures(path.read_bytes())
    assert len(found) == len(expected)
    for number, (label, picture) in enumerate(found):
        assert label == (str(number) if len(expected) > 1 else "")
        assert isinstance(picture, Picture), f"{path.name} {label}: {picture}"
        wanted = displayed(expected[number], header)
        assert picture.pixels.shape == wanted.shape
        assert (picture.height, picture.width, picture.bits) == (header.Rows, header.Columns, header.BitsStored)
        assert np.abs(picture.pixels.astype(float) - wanted).max() <= tolerance, path.name


SAMPLES = {
    "JPEG2000_UNC.dcm": 1,
    "MR2_J2KR.dcm": 1,
    "MR2_UNCR.dcm": 1,
    "OBXXXX1A_2frame.dcm": 0,
    "OBXXXX1A_expb_2frame.dcm": 0,
    "RG1_J2KI.dcm": 1,
    "RG3_J2KR.dcm": 1,
    "US1_J2KR.dcm": 0,
    "US1_UNCR.dcm": 0,
    "emri_small.dcm": 1,
}


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLES)
def test_a_format_sample_agrees_with_gdcm(name: str, shared_data: Path) -> None:
    agrees_with_gdcm(shared_data / "format_samples" / "images" / name, SAMPLES[name])


def test_a_segmented_palette_agrees_with_gdcm(shared_data: Path) -> None:
    path = shared_data / "format_samples" / "images" / "gdcm-US-ALOKA-16.dcm"
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    table = gdcm.ImageApplyLookupTable()
    table.SetInput(reader.GetImage())
    assert table.Apply()
    raw = table.GetOutput().GetBuffer().encode("utf-8", errors="surrogateescape")
    expected = np.frombuffer(raw, "<u2").reshape(480, 640, 3) >> 8
    assert np.abs(read_image(path.read_bytes()).pixels.astype(int) - expected).max() <= 1


def test_the_window_of_each_frame_of_an_enhanced_ct(shared_data: Path) -> None:
    path = shared_data / "format_samples" / "images" / "eCT_Supplemental.dcm"
    header, expected = pydicom.dcmread(path), gdcm_frames(path)
    found = pictures(path.read_bytes())
    for groups, values, (_, picture) in zip(header.PerFrameFunctionalGroupsSequence, expected, found, strict=True):
        shared = header.SharedFunctionalGroupsSequence[0]
        voi = (groups if "FrameVOILUTSequence" in groups else shared).FrameVOILUTSequence[0]
        rescale = groups if "PixelValueTransformationSequence" in groups else shared
        rescale = rescale.PixelValueTransformationSequence[0]
        merged = Dataset()
        merged.update({e.tag: e for e in [*voi, *rescale]})
        merged.PhotometricInterpretation, merged.BitsStored = "MONOCHROME2", header.BitsStored
        assert isinstance(picture, Picture)
        assert np.abs(picture.pixels - displayed(values, merged)).max() <= 1


def test_ct_agrees_with_a_window_computed_here(shared_data: Path) -> None:
    paths = sorted((shared_data / "ct_tcga_dicom").rglob("*.dcm"))[:6]
    assert len(paths) == 6
    for path in paths:
        agrees_with_gdcm(path, 1)


# A file of pydicom's for each transfer syntax, photometric interpretation and layout; the tolerance is 0 or 1 where
# nothing is lost, and what two JPEG decoders may differ by where colours are converted.
SHIPPED = {
    "MR_small.dcm": 1,  # explicit little endian, signed
    "MR_small_implicit.dcm": 1,
    "MR_small_bigendian.dcm": 1,
    "MR_small_RLE.dcm": 1,
    "MR_small_jp2klossless.dcm": 1,
    "MR_small_jpeg_ls_lossless.dcm": 1,
    "image_dfl.dcm": 0,  # deflated
    "JPEGLSNearLossless_08.dcm": 0,
    "JPEGLSNearLossless_16.dcm": 1,
    "JPEG2000.dcm": 1,
    "SC_rgb_jpeg_gdcm.dcm": 0,  # JPEG lossless, process 14 SV1
    "SC_rgb_rle.dcm": 0,
    "SC_rgb_rle_2frame.dcm": 0,
    "SC_rgb_jls_lossy_sample.dcm": 0,
    "SC_rgb_small_odd.dcm": 0,
    "SC_rgb_small_odd_big_endian.dcm": 0,
    "ExplVR_BigEnd.dcm": 0,  # planar configuration 1
    "SC_rgb_gdcm_KY.dcm": 2,  # JPEG 2000, irreversible
    "SC_rgb_dcmtk_+eb+cr.dcm": 2,  # JPEG baseline, RGB
    "examples_jpeg2k.dcm": 0,  # YBR_RCT
    "examples_rgb_color.dcm": 0,
    "examples_palette.dcm": 0,
    "examples_overlay.dcm": 1,  # overlay and 12 of 16 bits
}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_of_pydicom_agrees_with_gdcm(name: str) -> None:
    agrees_with_gdcm(Path(get_testdata_file(name, download=False)), SHIPPED[name])


@pytest.mark.parametrize("name", ["SC_rgb_dcmtk_+eb+cy+n1.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_rgb_jpeg_dcmtk.dcm",
                                  "SC_rgb_small_odd_jpeg.dcm", "examples_ybr_color.dcm"])  # fmt: skip
def test_ybr_jpeg_agrees_with_pillow(name: str) -> None:
    path = Path(get_testdata_file(name, download=False))
    stream = next(pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))
    expected = np.asarray(Image.open(io.BytesIO(stream)).convert("RGB")).astype(int)
    _, picture = pictures(path.read_bytes())[0]
    assert isinstance(picture, Picture)
    assert np.abs(picture.pixels - expected).mean() <= 1.5  # chroma is interpolated differently
    assert picture.jpeg_quality is not None


@pytest.mark.parametrize("name", ["SC_rgb_rle_16bit.dcm", "SC_rgb_rle_32bit.dcm", "SC_rgb_rle_16bit_2frame.dcm"])
def test_deep_rle_shows_the_same_as_its_eight_bit_sibling(name: str) -> None:
    """GDCM mixes up the planes of these; pydicom ships the same picture in 8 bits."""
    plain = read_image(Path(get_testdata_file("SC_rgb_rle.dcm", download=False)).read_bytes())
    _, first = pictures(Path(get_testdata_file(name, download=False)).read_bytes())[0]
    assert isinstance(first, Picture)
    assert np.array_equal(first.pixels, plain.pixels)


def test_twelve_bit_jpeg() -> None:
    """JPEG process 4 is beyond GDCM: the lossy file stays near the lossless one of the same object."""
    path = Path(get_testdata_file("JPGExtended.dcm", download=False))
    picture = read_image(path.read_bytes())
    sibling = read_image(Path(get_testdata_file("JPEG2000.dcm", download=False)).read_bytes())
    assert picture.pixels.shape == (1024, 256, 3)
    assert np.corrcoef(picture.pixels[:, :, 0].ravel(), sibling.pixels[:, :, 0].ravel())[0, 1] > 0.95
    assert 1 <= (picture.jpeg_quality or 0) <= 100


def every_shipped_file() -> Iterator[Path]:
    for path in sorted(TEST_FILES.rglob("*")):
        if path.is_file() and path.suffix not in {".py", ".pyc"} and not path.name.startswith("IM0"):
            yield path


def test_every_file_of_pydicom_is_read_or_set_aside() -> None:
    outcome: dict[str, list[str]] = {"read": [], "no picture": [], "unreadable": []}
    for path in every_shipped_file():
        try:
            for _, picture in read_pictures(path, path.read_bytes(), ReadOptions(max_megapixels=20, frames="every 8")):
                assert isinstance(picture, Picture), f"{path.name}: {picture}"
                assert picture.pixels.dtype == np.uint8
                assert picture.pixels.shape[2] == 3
            outcome["read"].append(path.name)
        except NoPicture:
            outcome["no picture"].append(path.name)
        except UnreadableImage as reason:
            if "without its pixel data" not in str(reason):  # a header alone, of a class that has an image
                outcome["unreadable"].append(path.name)
    assert len(outcome["read"]) > 100
    assert {"rtplan.dcm", "rtstruct.dcm", "test-SR.dcm", "DICOMDIR", "waveform_ecg.dcm"} <= set(outcome["no picture"])
    # of those that hold pixels only the damaged ones are refused
    holds_pixels = {n for n in outcome["unreadable"] if n.endswith(".dcm")}
    assert holds_pixels <= {"MR_truncated.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "badVR.dcm",
                            "empty_charset_LEI.dcm", "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm",
                            "no_meta.dcm"}  # fmt: skip


# --- the display, step by step ---


def test_window_and_rescale() -> None:
    stored = ramp("i2")
    shown = gray(dicom(stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400))
    expected = ((stored[0] - 1024.0 - 39.5) / 399 + 0.5).clip(0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(shown - expected).max() <= 0.5


def test_linear_exact_and_sigmoid() -> None:
    stored = ramp("u2")
    window = {"WindowCenter": 1000, "WindowWidth": 600}
    exact = gray(dicom(stored, VOILUTFunction="LINEAR_EXACT", **window))
    assert np.abs(exact - ((stored[0] - 1000.0) / 600 + 0.5).clip(0, 1) * 255).max() <= 0.5
    sigmoid = gray(dicom(stored, VOILUTFunction="SIGMOID", **window))
    assert np.abs(sigmoid - 255 / (1 + np.exp(-4 * (stored[0] - 1000.0) / 600))).max() <= 0.5
    assert "SIGMOID" in read_image(dicom(stored, VOILUTFunction="SIGMOID", **window)).how


def test_a_window_of_width_one_is_a_threshold() -> None:
    stored = np.tile(np.arange(256, dtype=np.uint16), (4, 1))
    shown = gray(dicom(stored, WindowCenter=100, WindowWidth=1))
    assert np.array_equal(shown, np.where(stored[0] <= 99, 0, 255))  # x ≤ c - 0.5 is black


def test_first_of_several_windows() -> None:
    two = dicom(ramp("u2"), WindowCenter=[1000, 200], WindowWidth=[400, 100])
    assert np.array_equal(gray(two), gray(dicom(ramp("u2"), WindowCenter=1000, WindowWidth=400)))


def lut(descriptor: list[int], entries: np.ndarray, as_words: bool) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if descriptor[1] >= 0 else "SS", descriptor)
    if as_words:
        item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    else:
        item.add_new("LUTData", "US", entries.tolist())
    return item


@pytest.mark.parametrize("as_words", [True, False])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_voi_table(bits: int, as_words: bool) -> None:
    """A table longer than 256 entries of 8 bits as well: pydicom's own function wraps around there."""
    stored = ramp("u2")
    entries = (np.linspace(0, 1, 1024) ** 2 * (2**bits - 1)).astype(int)
    shown = gray(dicom(stored, VOILUTSequence=[lut([1024, 500, bits], entries, as_words)]))
    expected = entries[(stored[0].astype(int) - 500).clip(0, 1023)] / (2**bits - 1) * 255
    assert np.abs(shown - expected).max() <= 0.5


def test_modality_table_before_the_window() -> None:
    stored = ramp("i2", -1000, 1000)
    entries = 3000 - np.arange(2000)
    data = dicom(
        stored, ModalityLUTSequence=[lut([2000, -1000, 16], entries, True)], WindowCenter=2000, WindowWidth=2000
    )
    expected = ((entries[stored[0] + 1000] - 1999.5) / 1999 + 0.5).clip(0, 1) * 255
    assert np.abs(gray(data) - expected).max() <= 0.5


def test_monochrome1_and_inverse_are_the_same_inversion() -> None:
    stored = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    window = {"WindowCenter": 128, "WindowWidth": 256}
    plain = gray(dicom(stored, **window))
    assert np.array_equal(gray(dicom(stored, "MONOCHROME1", **window)), 255 - plain)
    assert np.array_equal(gray(dicom(stored, PresentationLUTShape="INVERSE", **window)), 255 - plain)
    both = gray(dicom(stored, "MONOCHROME1", PresentationLUTShape="INVERSE", **window))
    assert np.array_equal(both, 255 - plain), "the DX family says it twice"


def test_without_a_window_eight_bits_stay_and_more_are_stretched() -> None:
    narrow = np.tile(np.arange(100, 132, dtype=np.uint8), (16, 1))
    assert np.array_equal(gray(dicom(narrow)), narrow[0])
    stored = ramp("i2", -500, 1500)
    low, high = np.percentile(stored, (0.5, 99.5))
    assert np.abs(gray(dicom(stored)) - ((stored[0] - low) / (high - low)).clip(0, 1) * 255).max() <= 0.5


@pytest.mark.parametrize("padding", [-2000, 63536])  # as it should be, and written as unsigned
def test_padding_is_black_and_not_part_of_the_stretch(padding: int) -> None:
    stored = ramp("i2", 0, 1000, 4)
    stored[8:] = -2000
    made = dataset(stored)
    made.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    pixels = read_image(written(made)).pixels[:, :, 0]
    low, high = np.percentile(stored[:8], (0.5, 99.5))
    assert np.abs(pixels[0] - ((stored[0] - low) / (high - low)).clip(0, 1) * 255).max() <= 0.5
    assert (pixels[8:] == 0).all()


def test_bits_stored_scale_deep_colour() -> None:
    deep = scene().astype(np.uint16) << 4
    assert np.array_equal(read_image(dicom(deep, "RGB", BitsStored=12, HighBit=11)).pixels, scene())


def segmented(values: np.ndarray) -> bytes:
    """Discrete and linear segments (PS3.3 C.7.9.2)."""
    return np.array([0, 1, values[0], 1, len(values) - 1, values[-1]], "<u2").tobytes()


@pytest.mark.parametrize("way", ["16 bits", "8 bits", "8 in 16 bits", "segmented"])
def test_palette(way: str) -> None:
    index = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    tables = [np.arange(256), 255 - np.arange(256), np.arange(256) // 2]
    made = dataset(index, "PALETTE COLOR")
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        bits = 8 if way == "8 bits" else 16
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        if way == "segmented":
            setattr(made, f"Segmented{colour}PaletteColorLookupTableData", segmented(table * 257))
        else:
            entries = {"16 bits": (table * 257).astype("<u2"), "8 bits": table.astype("u1")}
            data = entries.get(way, table.astype("<u2")).tobytes()
            setattr(made, f"{colour}PaletteColorLookupTableData", data)
    pixels = read_image(written(made)).pixels
    assert np.abs(pixels[0].astype(int) - np.stack(tables, axis=1)).max() <= (1 if way == "segmented" else 0)


def test_ybr_full_and_planes() -> None:
    rgb = scene()
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    assert np.abs(read_image(dicom(ybr, "YBR_FULL")).pixels.astype(int) - rgb).max() <= 3
    planes = dataset(rgb, "RGB", PlanarConfiguration=1)
    planes.PixelData = rgb.transpose(2, 0, 1).tobytes()
    assert np.array_equal(read_image(written(planes)).pixels, rgb)


def test_unknown_colours_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="a DICOM file with colours of the kind CMYK, which is not read"):
        read_image(dicom(scene(), "CMYK"))


# --- frames ---


def stack(n_frames: int = 10) -> np.ndarray:
    return np.stack([np.full((8, 12), 10 * i, np.uint8) for i in range(n_frames)])


def test_frames_are_chosen_and_keep_their_number() -> None:
    data = dicom(stack(), NumberOfFrames=10)
    for frames, numbers in (("all", range(10)), ("middle", [5]), ("every 4", [0, 4, 8])):
        found = pictures(data, frames)
        assert [label for label, _ in found] == [str(n) for n in numbers]
        for (_, picture), number in zip(found, numbers, strict=True):
            assert isinstance(picture, Picture)
            assert (picture.pixels == 10 * number).all()
            assert picture.how.startswith(f"frame {number + 1} of 10")
    assert (read_image(data).pixels == 50).all(), "read_image gives the middle frame"


def test_a_frame_that_is_damaged_does_not_take_the_others_along() -> None:
    def jpeg(value: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 12), value, np.uint8)).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    made = dataset(stack(3), NumberOfFrames=3)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PixelData = encapsulate([jpeg(10), b"\xff\xd8not a JPEG\xff\xd9", jpeg(30)])
    made["PixelData"].VR = "OB"
    (_, first), (label, second), (_, third) = pictures(written(made))
    assert isinstance(first, Picture)
    assert isinstance(third, Picture)
    assert np.abs(third.pixels.astype(int) - 30).max() <= 2
    assert first.jpeg_quality == 90
    assert label == "1"
    assert str(second).startswith("a DICOM file, frame 1, whose pixels cannot be decoded")


def test_native_frames_that_end_early_keep_those_that_are_whole() -> None:
    made = dataset(stack(4), NumberOfFrames=4)
    made.PixelData = made.PixelData[: 2 * 96 + 10]
    found = pictures(written(made))
    assert [isinstance(picture, Picture) for _, picture in found] == [True, True, False, False]
    assert str(found[2][1]) == "frame 2 is not there: the file is cut short"
    with pytest.raises(UnreadableImage, match="the file is cut short"):
        read_image(Path(get_testdata_file("MR_truncated.dcm", download=False)).read_bytes())


# --- headers and refusals ---


def test_header_facts() -> None:
    facts = {
        "PatientID": "77\0", "Manufacturer": "ACME", "ManufacturerModelName": "Scan 3000", "StationName": "CT02",
        "DeviceSerialNumber": "SN-1", "SoftwareVersions": ["v1", "v2"], "StudyDate": "20190101",
        "AcquisitionDate": "20190304", "OperatorsName": "Roe^R", "InstitutionName": "Lille", "Modality": "CT",
        "BodyPartExamined": "CHEST", "ViewPosition": "AP", "ImageLaterality": "L", "ProtocolName": "Thorax",
        "ConvolutionKernel": "B30f", "KVP": "120", "SliceThickness": "1.25", "ExposureTime": "500",
    }  # fmt: skip
    header = read_image(dicom(scene(), "RGB", **facts)).header
    assert header == {
        "patient_id": "77", "manufacturer": "ACME", "model": "Scan 3000", "station": "CT02", "serial": "SN-1",
        "software": "v1 v2", "date": "2019-03-04", "year": "2019", "operator": "Roe^R", "institution": "Lille",
        "modality": "CT", "body_part": "CHEST", "view": "AP", "laterality": "L", "protocol": "Thorax",
        "kernel": "B30f", "kvp": "120", "slice_thickness": "1.25", "exposure_time": "0.5",
    }  # fmt: skip


def test_findings_come_from_the_profile() -> None:
    assert "dicom_name" in read_image(dicom(scene(), "RGB", PatientName="Doe^Jane")).findings
    assert "dicom_name" not in read_image(dicom(scene(), "RGB")).findings


def test_a_file_without_preamble_is_read() -> None:
    made = dataset(scene(), "RGB")
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, Dataset(made), implicit_vr=True, little_endian=True)
    assert buffer.getvalue()[:4] == b"\x08\0\x16\0"
    assert np.array_equal(read_image(buffer.getvalue()).pixels, scene())


def test_bombs_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(UnreadableImage, match="the header promises 60000 × 60000 pixels"):
        read_image(dicom(scene(), "RGB", Rows=60000, Columns=60000))
    with pytest.raises(UnreadableImage, match="the header promises 99999999 frames, more than the file can hold"):
        read_image(dicom(stack(2), NumberOfFrames=99999999))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((3000, 4000), np.uint8)).save(buffer, "JPEG")
    lying = dataset(np.zeros((8, 12), np.uint8))
    lying.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    lying.PixelData = encapsulate([buffer.getvalue()])
    lying["PixelData"].VR = "OB"
    with pytest.raises(UnreadableImage, match="the header promises 4000 × 3000 pixels"):
        read_image(written(lying), max_megapixels=10)


def test_a_deflate_bomb_is_refused() -> None:
    made = dataset(scene(), "RGB")
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = written(made)
    assert np.array_equal(read_image(data).pixels, scene())
    length = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    bomb = data[:length] + packer.compress(b"\x08\0\x16\0UI\xfe\xff" + b"\0" * 30_000_000) + packer.flush()
    with pytest.raises(UnreadableImage, match="a deflated DICOM file that unpacks to more than 16 MB"):
        read_image(bomb, max_megapixels=2)


def test_what_holds_no_picture_says_what_it_is() -> None:
    for name, sentence in (
        ("rtstruct.dcm", "a DICOM file without a picture (RT Structure Set)"),
        ("test-SR.dcm", "a DICOM file without a picture (Comprehensive SR)"),
        ("DICOMDIR", "a DICOMDIR: the directory of other files, without a picture"),
    ):
        with pytest.raises(NoPicture) as caught:
            read_image(Path(get_testdata_file(name, download=False)).read_bytes())
        assert str(caught.value) == sentence


def test_a_number_is_one_number_however_a_scanner_writes_it() -> None:
    from pellucid.cohort.readers.dicom_header import dicom_header

    for kvp, thickness in (("140", "5"), ("000140", "5.000000"), ("1.4E+02", "005.000000E+00")):
        dataset = pydicom.Dataset()
        dataset.KVP, dataset.SliceThickness, dataset.ExposureTime = kvp, thickness, "500"
        found = dicom_header(dataset)
        assert found == {"kvp": "140", "slice_thickness": "5", "exposure_time": "0.5"}
