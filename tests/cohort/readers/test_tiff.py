"""TIFF: arrays of every kind written here come back, pages are frames, and Pillow agrees where it reads them too."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from skimage.color import lab2xyz, xyz2rgb

from pellucid.cohort.readers import Picture, ReadOptions, UnreadableImage, read_image, read_pictures


def scene(height: int = 70, width: int = 90) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 3, 255 - x * 2], axis=2).clip(0, 255).astype(np.uint8)


GRAY = scene()[:, :, 0]


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def by_pillow(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


def pictures(data: bytes, frames: str = "all") -> list[tuple[str, Picture | UnreadableImage]]:
    return list(read_pictures(Path("nowhere"), data, ReadOptions(frames=frames)))


def of(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


RGB = {
    "plain": {},
    "LZW with predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "deflate"},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "LZMA": {"compression": "lzma"},
    "JPEG 2000": {"compression": "jpeg2000"},
    "tiled": {"tile": (32, 16), "compression": "lzw"},
    "strips": {"rowsperstrip": 7},
    "BigTIFF": {"bigtiff": True, "tile": (32, 32)},
    "big endian": {"byteorder": ">"},
}


@pytest.mark.parametrize("name", RGB)
def test_rgb_of_every_layout_comes_back(name: str) -> None:
    picture = read_image(tiff(scene(), photometric="rgb", **RGB[name]))
    assert np.array_equal(picture.pixels, scene())
    assert (picture.width, picture.height, picture.bits, picture.format) == (90, 70, 8, "tiff")


def test_planes_come_back_as_pixels() -> None:
    data = tiff(scene().transpose(2, 0, 1), planarconfig="separate", photometric="rgb")
    assert np.array_equal(read_image(data).pixels, scene())
    deep = scene().astype(np.uint16).transpose(2, 0, 1) * 257
    assert np.array_equal(
        read_image(tiff(deep, planarconfig="separate", photometric="rgb", tile=(32, 32))).pixels, scene()
    )


@pytest.mark.parametrize("compression", ["lzw", "deflate", None])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bits(compression: str | None, byteorder: str) -> None:
    deep = scene().astype(np.uint16) * 257
    predictor = {"predictor": True} if compression else {}
    data = tiff(deep, photometric="rgb", compression=compression, byteorder=byteorder, **predictor)
    picture = read_image(data)
    assert np.array_equal(picture.pixels, scene())
    assert picture.bits == 16


def test_twelve_bits_stored_in_sixteen_are_scaled_by_the_whole_file() -> None:
    dark, bright = GRAY.astype(np.uint16), GRAY.astype(np.uint16) * 23
    (_, first), (_, second) = pictures(tiff(np.stack([dark, bright]), photometric="minisblack"))
    assert isinstance(first, Picture)
    assert isinstance(second, Picture)
    assert np.array_equal(first.pixels, of(dark >> 4)), "in the dark page too the 12 bits of the bright one count"
    assert np.array_equal(second.pixels, of(bright >> 4))
    assert first.how == "page 1 of 2, 12 of 16 bits in use"


def test_packed_twelve_bits() -> None:
    assert np.array_equal(read_image(tiff(GRAY.astype(np.uint16) << 4, bitspersample=12)).pixels, of(GRAY))


def test_one_bit_and_white_is_zero() -> None:
    line = GRAY > 100
    assert np.array_equal(read_image(tiff(line, photometric="minisblack")).pixels, of(np.where(line, 255, 0)))
    assert np.array_equal(read_image(tiff(GRAY, photometric="miniswhite")).pixels, of(255 - GRAY))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str) -> None:
    image = Image.fromarray(GRAY > 100)
    assert np.array_equal(read_image(by_pillow(image, compression=compression)).pixels, of(np.asarray(image) * 255))


def test_float_from_zero_to_one_and_beyond() -> None:
    unit = GRAY.astype(np.float32) / 255
    assert np.array_equal(read_image(tiff(unit, compression="deflate", predictor=True)).pixels, of(GRAY))
    wide = GRAY.astype(np.float32) * 100 - 4000
    wide[0, 0] = np.nan
    picture = read_image(tiff(wide))
    low, high = np.nanpercentile(wide, (0.5, 99.5))
    expected = np.nan_to_num((wide - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(picture.pixels[:, :, 0] - expected)[1:].max() <= 1
    assert picture.how.startswith("stretched from")


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.float64])
def test_values_without_a_display_range_are_stretched(kind: type) -> None:
    values = (GRAY.astype(np.int64) * 50 + (0 if kind is np.uint32 else -3000)).astype(kind)
    low, high = np.percentile(values, (0.5, 99.5))
    expected = ((values - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(read_image(tiff(values)).pixels[:, :, 0] - expected).max() <= 1


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "RGBA", "LA"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_colours_agree_with_pillow(mode: str, compression: str) -> None:
    image = Image.fromarray(scene()).convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray(GRAY))
    expected = np.asarray(image.convert("RGB")).astype(float)
    if mode in {"RGBA", "LA"}:
        expected = expected * GRAY[:, :, None] / 255  # over black
    found = read_image(by_pillow(image, compression=compression)).pixels
    assert np.abs(found - expected).max() <= 1


def test_cielab() -> None:
    """Against CIE 15 (L*a*b* to XYZ under D50), the Bradford matrix to D65, and IEC 61966-2-1."""
    stored = np.array([[[128, 40, 236], [200, 246, 30], [64, 0, 0]]], np.uint8)  # a* and b* as signed bytes
    lab = np.stack([stored[0, :, 0] / 2.55, *(stored[0, :, i].astype(np.int8).astype(float) for i in (1, 2))], axis=1)
    xyz = lab2xyz(lab[None], illuminant="D50")[0]
    bradford = [
        [0.9555766, -0.0230393, 0.0631636],
        [-0.0282895, 1.0099416, 0.0210077],
        [0.0122982, -0.0204830, 1.3299098],
    ]
    expected = xyz2rgb((xyz @ np.array(bradford).T)[None])[0] * 255
    tiled = np.tile(stored, (16, 16, 1))
    signed = read_image(tiff(tiled, photometric="cielab", metadata=None)).pixels[0, :3]
    offset = read_image(tiff(tiled ^ np.array([0, 128, 128], np.uint8), photometric="icclab", metadata=None)).pixels[
        0, :3
    ]
    assert np.abs(signed - expected).max() <= 2
    assert np.array_equal(signed, offset)


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_in_tiff_agrees_with_pillow(photometric: str) -> None:
    data = tiff(
        scene(), compression="jpeg", compressionargs={"level": 90}, photometric=photometric, tile=(32, 32)
    )  # fmt: skip
    picture = read_image(data)
    assert np.abs(picture.pixels.astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).mean() < 2
    if photometric == "rgb":  # tifffile takes values written as ycbcr for what they say
        assert np.abs(picture.pixels.astype(int) - scene()).mean() < 4
    assert picture.jpeg_quality == 90


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    data = tiff(scene(), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG", exif=exif)
    picture, same = read_image(data), read_image(buffer.getvalue())
    assert np.array_equal(picture.pixels, same.pixels)
    assert (picture.width, picture.height) == (same.width, same.height)


def test_profile() -> None:
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_image(by_pillow(Image.fromarray(scene()), icc_profile=wide)).pixels, scene())
    picture = read_image(by_pillow(Image.fromarray(scene()), icc_profile=b"no profile" * 30))
    assert picture.how == "broken ICC profile ignored"


# --- pages ---


def stack(n: int = 7) -> np.ndarray:
    return np.stack([np.full((40, 50), 30 * i, np.uint8) for i in range(n)])


@pytest.mark.parametrize("kind", ["plain", "imagej", "ome", "compressed"])
def test_pages_are_frames(kind: str) -> None:
    options = {
        "plain": {"photometric": "minisblack"},
        "imagej": {"imagej": True},
        "ome": {"ome": True, "photometric": "minisblack"},
        "compressed": {"compression": "deflate", "photometric": "minisblack"},
    }[kind]
    data = tiff(stack(), **options)
    for frames, numbers in (("all", range(7)), ("middle", [3]), ("every 3", [0, 3, 6])):
        found = pictures(data, frames)
        assert [label for label, _ in found] == [str(n) for n in numbers]
        for (_, picture), number in zip(found, numbers, strict=True):
            assert isinstance(picture, Picture)
            assert (picture.pixels == 30 * number).all()
            assert picture.how.startswith(f"page {number + 1} of 7")
    assert (read_image(data).pixels == 90).all()


def test_imagej_planes_behind_a_single_page() -> None:
    """Above 4 GB ImageJ writes one page and lets the planes follow it."""
    planes = ((stack(4).astype(np.uint16) << 8) + 255).astype(">u2")
    assert planes.max() == 0x5AFF  # 15 bits
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, planes[0], byteorder=">", photometric="minisblack", metadata=None,
        description="ImageJ=1.53t\nimages=4\nslices=4\n",
    )  # fmt: skip
    data = buffer.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start = file.pages[0].dataoffsets[0]
    found = pictures(data[: start + planes[0].nbytes] + planes[1:].tobytes())
    assert [int(picture.pixels.max()) for _, picture in found if isinstance(picture, Picture)] == [
        255 >> 7,
        *(((30 * i << 8) + 255) >> 7 for i in (1, 2, 3)),
    ]


def test_pages_of_different_size_and_kind() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(scene(), photometric="rgb")
        writer.write(GRAY[:20, :33], photometric="minisblack")
    (_, first), (_, second) = pictures(buffer.getvalue())
    assert isinstance(first, Picture)
    assert isinstance(second, Picture)
    assert np.array_equal(first.pixels, scene())
    assert np.array_equal(second.pixels, of(GRAY[:20, :33]))


@pytest.mark.parametrize("said", [True, False])
def test_levels_of_a_pyramid_are_not_frames(said: bool) -> None:
    large = np.repeat(np.repeat(scene(), 4, axis=0), 4, axis=1)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for step in (1, 2, 4):
            level = np.ascontiguousarray(large[::step, ::step])
            writer.write(level, photometric="rgb", tile=(32, 32), subfiletype=1 if said and step > 1 else 0)
    found = pictures(buffer.getvalue())
    assert [label for label, _ in found] == [""]
    assert np.array_equal(read_image(buffer.getvalue()).pixels, large)


def test_sub_resolutions_and_masks_are_not_frames() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(scene(), photometric="rgb", subifds=1)
        writer.write(np.ascontiguousarray(scene()[::2, ::2]), photometric="rgb", subfiletype=1)
        writer.write(GRAY > 100, photometric="minisblack", subfiletype=4)
    assert [label for label, _ in pictures(buffer.getvalue())] == [""]


def test_a_damaged_page_does_not_take_the_others_along() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 40, 50), dtype=np.uint8)
    data = bytearray(tiff(noise, compression="deflate", photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        start = file.pages[1].dataoffsets[0]
    data[start : start + 40] = b"\xff" * 40
    (_, first), (label, second), (_, third) = pictures(bytes(data))
    assert isinstance(first, Picture)
    assert isinstance(third, Picture)
    assert np.array_equal(third.pixels, of(noise[2]))
    assert label == "1"
    assert str(second).startswith("a damaged TIFF: page 1 cannot be decoded")


# --- headers and refusals ---


def test_header_facts_and_findings() -> None:
    tags = [
        (271, "s", 0, "ACME", True),
        (272, "s", 0, "Scope 9", True),
        (306, "s", 0, "2021:03:04 05:06:07", True),
        (315, "s", 0, "Dr Roe", True),
    ]
    picture = read_image(tiff(scene(), photometric="rgb", software="Viewer", extratags=tags, metadata=None))
    assert picture.header == {
        "manufacturer": "ACME", "model": "Scope 9", "software": "Viewer", "date": "2021-03-04", "year": "2021",
    }  # fmt: skip
    assert picture.findings == ("exif_owner",)
    assert read_image(tiff(scene(), photometric="rgb")).findings == (), "what tifffile says of the shape names nobody"
    assert read_image(tiff(scene(), description="Jane Doe", metadata=None)).findings == ("exif_comment",)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2020:05:06 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    picture = read_image(by_pillow(Image.fromarray(scene()), exif=exif.tobytes()))
    assert picture.header["date"] == "2020-05-06"
    assert picture.findings == ("exif_gps",)


def test_an_imagej_info_block_is_a_comment() -> None:
    data = tiff(stack(2), imagej=True, metadata={"Info": "0010,0010  Patient's Name: DOE^JANE"})
    _, picture = pictures(data)[0]
    assert isinstance(picture, Picture)
    assert picture.findings == ("exif_comment",)


def altered(data: bytes, code: int, value: int) -> bytes:
    """The same file with another number in a tag of its first page."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages[0].tags[code]
        offset, width = tag.valueoffset, {3: 2, 4: 4}[tag.dtype]
    return data[:offset] + value.to_bytes(width, "little") + data[offset + width :]


def test_bombs_are_refused_before_they_are_decoded() -> None:
    data = tiff(scene(), photometric="rgb", tile=(32, 32), compression="deflate")
    huge = altered(altered(data, 256, 60000), 257, 60000)
    with pytest.raises(UnreadableImage, match="the header promises 60000 × 60000 pixels"):
        read_image(huge)
    tile = altered(altered(data, 322, 60000), 323, 60000)
    with pytest.raises(UnreadableImage, match="the header promises 60000 × 60000 pixels"):
        read_image(tile)


def test_what_is_cut_short_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="a damaged TIFF: the file is cut short"):
        read_image(tiff(scene(), photometric="rgb")[:-500])


def test_what_is_no_picture_is_refused() -> None:
    data = altered(tiff(GRAY, photometric="minisblack"), 262, 32803)
    with pytest.raises(UnreadableImage, match="a TIFF with colours of the kind CFA, which is not read"):
        read_image(data)
    cube = np.zeros((20, 30, 12), np.uint8)
    with pytest.raises(UnreadableImage, match="a TIFF of 12 channels and depth 1, which is not read as a picture"):
        read_image(tiff(cube, photometric="minisblack", planarconfig="contig"))


def test_a_pyramid_of_no_vendor_is_a_plain_picture(shared_data: Path) -> None:
    path = shared_data / "format_samples" / "images" / "boxes.tiff"
    found = list(read_pictures(path, path.read_bytes(), ReadOptions()))
    assert [label for label, _ in found] == [""]
    _, picture = found[0]
    assert isinstance(picture, Picture)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 2


# --- samples as channels ---


def channels(n: int, kind: str = "u1") -> np.ndarray:
    ramp = np.mgrid[:24, :32][1] * 8
    return np.stack([np.roll(ramp, 5 * k, 1) // (k + 1) for k in range(n)]).astype(kind)


@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_samples_of_a_gray_page_are_channels(tmp_path: Path, n: int, planar: str) -> None:
    stack = channels(n)
    values = stack if planar == "separate" else np.moveaxis(stack, 0, -1)
    path = tmp_path / "channels.tif"
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=planar)
    found = list(read_pictures(path, path.read_bytes(), ReadOptions()))
    assert [label for label, _ in found] == [str(k) for k in range(n)]
    for k, (_, picture) in enumerate(found):
        assert isinstance(picture, Picture)
        assert np.array_equal(picture.pixels[:, :, 0], stack[k])
        assert picture.how == f"channel {k + 1} of {n}"


def test_gray_with_opacity_and_rgb_with_more_samples_are_one_image(tmp_path: Path) -> None:
    gray = np.moveaxis(channels(2), 0, -1)
    rgb = np.moveaxis(channels(5), 0, -1)
    for values, photometric, extra in ((gray, "minisblack", (2,)), (rgb, "rgb", (0, 0))):
        path = tmp_path / "one.tif"
        tifffile.imwrite(path, values, photometric=photometric, extrasamples=extra, planarconfig="contig")
        assert [label for label, _ in read_pictures(path, path.read_bytes(), ReadOptions())] == [""]


def test_a_raw_file_of_a_camera_is_not_its_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "a.dng"
    tifffile.imwrite(path, channels(1)[0], extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
    with pytest.raises(UnreadableImage, match="a raw file of a camera"):
        list(read_pictures(path, path.read_bytes(), ReadOptions()))
