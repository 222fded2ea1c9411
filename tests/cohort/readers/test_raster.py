"""JPEG, PNG, WebP, BMP and GIF: known arrays come back, colour profiles are honoured, headers are read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from pellucid.cohort.readers import Picture, ReadOptions, UnreadableImage, read_image, read_pictures
from pellucid.cohort.readers.colour import to_srgb
from pellucid.cohort.readers.compressed_stream import ijg_table, jpeg_quality, luminance_table, stream_size


def scene(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, 255 - x * 2], axis=2).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- pixels ---


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_kinds_come_out_exactly(kind: str) -> None:
    picture = read_image(saved(Image.fromarray(scene()), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(picture.pixels, scene())
    assert (picture.width, picture.height, picture.format, picture.how) == (80, 60, kind.lower(), "")
    assert picture.jpeg_quality is None


def test_jpeg_agrees_with_pillow() -> None:
    data = saved(Image.fromarray(scene()), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(read_image(data).pixels.astype(int) - expected).max() <= 3  # two decoders round differently


def test_scaled_decoding_keeps_the_side_and_says_so() -> None:
    data = saved(Image.fromarray(scene(600, 800)), "JPEG", quality=90)
    picture = read_image(data, min_side_px=128)
    assert picture.pixels.shape == (150, 200, 3)
    assert (picture.width, picture.height) == (800, 600)
    assert picture.how == "DCT scale 1/4"
    assert read_image(data).how == ""


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


def test_gray_palette_and_one_bit() -> None:
    gray = Image.fromarray(scene()[:, :, 0])
    assert np.array_equal(read_image(saved(gray, "PNG")).pixels, np.repeat(scene()[:, :, :1], 3, axis=2))
    indexed = Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(read_image(saved(indexed, "PNG")).pixels, np.asarray(indexed.convert("RGB")))
    line = Image.fromarray(scene()[:, :, 0] > 100)
    picture = read_image(saved(line, "PNG"))
    assert np.array_equal(picture.pixels[:, :, 1], np.where(scene()[:, :, 0] > 100, 255, 0))
    assert picture.bits == 1


def test_what_is_transparent_is_black_not_the_hidden_colour() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read_image(saved(clear, "PNG")).pixels.max() == 0
    half = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    assert np.abs(read_image(saved(half, "PNG")).pixels.astype(int) - [100, 50, 25]).max() <= 1
    key = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8))
    assert read_image(saved(key, "PNG", transparency=3)).pixels[:, :, 0].tolist() == [[0, 1], [2, 0]]


def test_sixteen_bits_are_scaled_by_the_bits_in_use() -> None:
    twelve = (np.arange(4096, dtype=np.uint16)).reshape(64, 64)
    picture = read_image(saved(Image.fromarray(twelve), "PNG"))
    assert np.array_equal(picture.pixels[:, :, 0], (twelve >> 4).astype(np.uint8))
    assert (picture.bits, picture.how) == (16, "12 of 16 bits in use")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_of_every_kind(channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    deep[0, 0] = 65535
    data = imagecodecs.png_encode(deep[:, :, 0] if channels == 1 else deep)
    picture = read_image(data)
    expected = (deep >> 8).astype(float)
    colour = expected[:, :, : 3 if channels > 2 else 1]
    if channels in {2, 4}:
        colour = colour * expected[:, :, -1:] / 255
    assert np.abs(picture.pixels - np.broadcast_to(colour, (20, 30, 3))).max() <= 0.5
    assert picture.bits == 16


def cmyk() -> Image.Image:
    return Image.fromarray(scene()).convert("CMYK")


def test_cmyk_jpeg_with_and_without_adobe_inversion() -> None:
    """Pillow writes inverted ink, as Adobe does; with the Adobe segment blanked out the same bytes mean the
    opposite."""
    data = saved(cmyk(), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(read_image(data).pixels.astype(int) - scene()).mean() < 2
    plain = data.replace(b"Adobe", b"Other")
    opposite = np.asarray(Image.open(io.BytesIO(plain)).convert("RGB"))
    assert np.array_equal(read_image(plain).pixels, opposite)


# --- ICC profiles ---


def profile_of(primaries: dict[str, tuple[float, float]], gamma: float = 2.2) -> bytes:
    """A matrix profile (ICC.1:2001, 6.3.1) with sRGB's primaries given to other channels, D50 adapted."""

    def s15(values: tuple[float, ...]) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    xyz = {"r": (0.4361, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"wtpt": b"XYZ \0\0\0\0" + s15((0.9642, 1.0, 0.8249)),
        **{f"{c}XYZ".encode(): b"XYZ \0\0\0\0" + s15(xyz[primaries[c]]) for c in "rgb"},
        **{f"{c}TRC".encode(): curve for c in "rgb"},
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", offset + len(body), len(value))
        body += value
    size = offset + len(body)
    header = struct.pack(">I", size) + b"\0\0\0\0" + b"\x02\x10\0\0" + b"mntrRGB XYZ " + b"\0" * 12 + b"acsp"
    header += b"\0" * (68 - len(header)) + s15((0.9642, 1.0, 0.8249))
    return header + b"\0" * (128 - len(header)) + struct.pack(">I", len(tags)) + table + body


SWAPPED = profile_of({"r": "g", "g": "b", "b": "r"})  # its first channel is green, its second blue, its third red


def unswapped(device: np.ndarray) -> np.ndarray:
    """What SWAPPED means, without any colour engine: channels swapped, gamma 2.2 to the curve of IEC 61966-2-1."""
    linear = (device[:, :, [2, 0, 1]] / 255) ** 2.2
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_swapped_primaries_come_out_as_srgb(kind: str) -> None:
    options = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    picture = read_image(saved(Image.fromarray(scene()), kind, icc_profile=SWAPPED, **options))
    assert np.abs(picture.pixels - unswapped(scene())).max() <= (6 if kind == "JPEG" else 2)
    assert picture.how == "ICC profile to sRGB"


def test_profile_agrees_with_lcms_through_imagecodecs() -> None:
    device = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    wide = profile_of({"r": "r", "g": "g", "b": "b"}, gamma=1.8)
    expected = imagecodecs.cms_transform(
        device, wide, imagecodecs.cms_profile("srgb"), colorspace="rgb", outcolorspace="rgb"
    )
    pixels = read_image(saved(Image.fromarray(device), "PNG", icc_profile=wide)).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 2
    assert np.abs(pixels.astype(int) - device).max() > 10, "the profile does something"


def test_srgb_profiles_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_image(saved(Image.fromarray(scene()), "PNG", icc_profile=srgb))
    assert np.array_equal(picture.pixels, scene())
    assert picture.how == ""
    gray = read_image(saved(Image.fromarray(scene()[:, :, 0]), "JPEG", icc_profile=srgb))  # common, and not an error
    assert gray.how == ""


def test_a_broken_profile_is_no_reason_to_lose_the_picture() -> None:
    picture = read_image(saved(Image.fromarray(scene()), "PNG", icc_profile=b"not a profile at all" * 20))
    assert np.array_equal(picture.pixels, scene())
    assert picture.how == "broken ICC profile ignored"


def test_transparency_and_palette_go_through_the_profile() -> None:
    opaque = np.dstack([scene(), np.full((60, 80), 255, np.uint8)])
    picture = read_image(saved(Image.fromarray(opaque), "PNG", icc_profile=SWAPPED))
    assert np.abs(picture.pixels - unswapped(scene())).max() <= 2
    indexed = Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE)
    through, _ = to_srgb(np.asarray(indexed.convert("RGB")), SWAPPED)
    assert np.array_equal(read_image(saved(indexed, "PNG", icc_profile=SWAPPED)).pixels, through)


# --- frames ---


def test_frames_of_a_gif() -> None:
    frames = [Image.new("L", (20, 10), 40 * i) for i in range(5)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = list(read_pictures(Path("nowhere"), data, ReadOptions(frames="every 2")))
    assert [label for label, _ in found] == ["0", "2", "4"]
    for (label, picture), value in zip(found, (0, 80, 160), strict=True):
        assert isinstance(picture, Picture)
        assert (picture.pixels == value).all()
        assert picture.how == f"frame {int(label) + 1} of 5"
    assert (read_image(data).pixels == 80).all()
    single = list(read_pictures(Path("nowhere"), saved(frames[1], "GIF"), ReadOptions()))
    assert [label for label, _ in single] == [""]


def test_of_an_animated_png_the_first_frame_is_read() -> None:
    frames = [Image.new("L", (20, 10), 40 * i) for i in range(3)]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    picture = read_image(data)
    assert (picture.pixels == 0).all()
    assert picture.how == "first of 3 frames"


# --- compression ---


@pytest.mark.parametrize("quality", [1, 5, 25, 49, 50, 51, 75, 90, 95, 100])
def test_quality_of_the_ijg_library_is_found(quality: int) -> None:
    data = saved(Image.fromarray(scene()), "JPEG", quality=quality)
    assert luminance_table(data) == tuple(ijg_table(quality))
    assert read_image(data).jpeg_quality == quality
    assert stream_size(data) == (80, 60)


def test_quality_of_a_foreign_table_is_the_nearest() -> None:
    table = [int(v) for v in np.clip(ijg_table(70) + np.random.default_rng(0).integers(-1, 2, 64), 1, 255)]
    data = saved(Image.fromarray(scene()), "JPEG", qtables=[table, table])
    assert abs((jpeg_quality(data) or 0) - 70) <= 2
    assert jpeg_quality(b"\xff\xd8\xff\xd9") is None
    assert jpeg_quality(b"no JPEG at all") is None


# --- headers ---


def with_exif(**options: object) -> Picture:
    exif = Image.Exif()
    camera = exif.get_ifd(0x8769)
    for tag, value in options.pop("base", {}).items():  # type: ignore[attr-defined]
        exif[tag] = value
    for tag, value in options.pop("camera", {}).items():  # type: ignore[attr-defined]
        camera[tag] = value
    return read_image(saved(Image.fromarray(scene()), "JPEG", exif=exif, **options))


def test_header_facts_are_clean() -> None:
    base = {0x010F: "ACME\0\0", 0x0110: "Scope\x02 9 ", 0x0131: "fw 1.2"}
    camera = {
        0x9003: "2021:03:04 05:06:07", 0x829A: 0.02, 0x829D: 2.8, 0x8827: 400, 0x920A: 50.0, 0x9209: 25,
        0xA434: "50mm f/1.8", 0xA431: "SN 77", 0xA430: "Dr Roe",
    }  # fmt: skip
    assert with_exif(base=base, camera=camera).header == {
        "manufacturer": "ACME", "model": "Scope 9", "software": "fw 1.2", "date": "2021-03-04", "year": "2021",
        "exposure_time": "0.02", "f_number": "2.8", "iso": "400", "focal_length": "50", "flash": "yes",
        "lens": "50mm f/1.8", "serial": "SN 77",
    }  # fmt: skip


def test_a_date_is_of_acquisition_or_not_given() -> None:
    changed = {0x0132: "2022:01:02 03:04:05"}
    assert "date" not in with_exif(base=changed).header, "when a program saved it is not when it was taken"
    assert with_exif(base={**changed, 0x010F: "ACME"}).header["date"] == "2022-01-02"
    assert "date" not in with_exif(camera={0x9003: "0000:00:00 00:00:00"}).header


def test_findings_by_kind() -> None:
    assert with_exif().findings == ()
    assert with_exif(base={0x013B: "A. Photographer"}).findings == ("exif_owner",)
    assert with_exif(camera={0xA430: "Dr Roe"}).findings == ("exif_owner",)
    assert with_exif(camera={0xA435: "LENS-1"}).findings == ("exif_serial",)
    assert with_exif(base={0x010E: "Jane Doe"}).findings == ("exif_comment",)
    assert with_exif(camera={0x9286: b"ASCII\0\0\0Jane Doe"}).findings == ("exif_comment",)
    assert with_exif(camera={0x9286: b"ASCII\0\0\0" + b"\0" * 20}).findings == (), "an empty field says nothing"
    assert with_exif(comment=b"Jane Doe").findings == ("exif_comment",)
    assert with_exif(xmp=b"<x:xmpmeta/>").findings == ("exif_comment",)
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    assert read_image(saved(Image.fromarray(scene()), "JPEG", exif=exif)).findings == ("exif_gps",)


def test_png_text_is_a_comment_and_a_program_is_not() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "Viewer 3")
    assert read_image(saved(Image.fromarray(scene()), "PNG", pnginfo=text)).findings == ()
    text.add_text("Title", "Jane Doe")
    assert read_image(saved(Image.fromarray(scene()), "PNG", pnginfo=text)).findings == ("exif_comment",)


def test_a_broken_exif_block_does_not_lose_the_picture() -> None:
    data = saved(Image.fromarray(scene()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_image(data).pixels.shape == (60, 80, 3)


def test_a_lying_jpeg_size_is_refused() -> None:
    data = bytearray(saved(Image.fromarray(scene()), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(UnreadableImage, match="the header promises 65500 × 65500 pixels"):
        read_image(bytes(data))


# --- other kinds ---


@pytest.mark.parametrize("header", [56, 108, 124])
def test_a_bitmap_with_empty_alpha_is_opaque(header: int) -> None:
    pixels = np.dstack([scene()[:, :, ::-1], np.zeros(scene().shape[:2], np.uint8)])
    body = pixels[::-1].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", header, 80, 60, 1, 32, 3, len(body), 2835, 2835, 0, 0) + masks
    info += (b"BGRs" + bytes(64))[: header - len(info)]
    start = 14 + len(info)
    picture = read_image(b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + body)
    assert np.array_equal(picture.pixels, scene())
    assert picture.how == "empty alpha ignored"


def test_a_transparent_png_stays_black_and_says_so() -> None:
    pixels = np.dstack([scene(), np.zeros(scene().shape[:2], np.uint8)])
    picture = read_image(saved(Image.fromarray(pixels), "PNG"))
    assert not picture.pixels.any()
    assert picture.how == "wholly transparent"


def test_avif_is_read_by_pillow() -> None:
    data = saved(Image.fromarray(scene()), "AVIF", quality=100, subsampling="4:4:4")
    picture = read_image(data)
    assert np.abs(picture.pixels.astype(int) - scene()).max() <= 4
    assert picture.format == "avif"


def test_heic_is_read_where_pillow_heif_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: HEIC images are only counted")
    heif.register_heif_opener()
    picture = read_image(saved(Image.fromarray(scene()), "HEIF", quality=100))
    assert picture.format == "heic"
    assert np.abs(picture.pixels.astype(int) - scene()).mean() <= 4


def test_a_heic_of_a_turned_phone_is_turned_once() -> None:
    """Phones write the rotation twice: as a property, which the decoder applies, and as EXIF, which must be ignored."""
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: HEIC images are only counted")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :32] = [255, 0, 0]  # a red left third: on top after a quarter turn clockwise
    phone = heif.from_pillow(Image.fromarray(pixels))
    exif = Image.Exif()
    exif[0x0112] = 6
    phone.info["exif"] = exif.tobytes()
    stream = io.BytesIO()
    phone.save(stream, quality=95)
    assert b"irot" in stream.getvalue()
    picture = read_image(stream.getvalue())
    assert picture.pixels.shape == (96, 64, 3)
    assert picture.pixels[:24, :, 0].min() > 200
    assert picture.pixels[40:, :, 0].max() < 60


def test_an_unusual_jpeg_is_refused_by_its_sort() -> None:
    lossless = imagecodecs.ljpeg_encode(scene()[:, :, 0].astype(np.uint16), bitspersample=16)
    with pytest.raises(UnreadableImage, match="a lossless JPEG, which is not read"):
        read_image(lossless)
