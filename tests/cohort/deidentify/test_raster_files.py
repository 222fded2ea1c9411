"""One JPEG, PNG, WebP, GIF, BMP or TIFF: pixels and colours stay, metadata go."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from pellucid.cohort.deidentify.raster_files import clean_raster, clean_tiff
from pellucid.cohort.deidentify.streams.icc_profiles import rebuilt_profile
from pellucid.cohort.readers import UnreadableImage
from tests.cohort.deidentify.small_files import nothing, photo


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_turned_pictures_stay_turned_and_keep_their_colours(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = orientation, "Dr Meier"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    out = io.BytesIO()
    photo().save(out, kind, exif=exif, icc_profile=profile)
    for find in (nothing, lambda v, n=(): [(5, 5, 10, 6)]):
        result = clean_raster(out.getvalue(), kind.lower(), find, max_megapixels=1)
        now = Image.open(io.BytesIO(result.data))
        before = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue()))))
        shown = np.asarray(ImageOps.exif_transpose(now))
        outside = np.ones(before.shape[:2], bool)
        if result.boxes:
            outside[5:11, 5:15] = False
        np.testing.assert_array_equal(shown[outside], before[outside])
        assert b"Meier" not in result.data
        assert rebuilt_profile(profile) == now.info.get("icc_profile") != profile
        assert (result.suffix == ".png") == (kind != "JPEG" or bool(result.boxes))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_every_kind_of_pixel_survives_a_mask(mode: str) -> None:
    source = photo("L").point(lambda v: v * 257, "I").convert("I;16") if mode == "I;16" else photo(mode)
    out, kind = io.BytesIO(), "JPEG" if mode == "CMYK" else "PNG"
    source.save(out, kind)
    before = Image.open(io.BytesIO(out.getvalue()))
    result = clean_raster(out.getvalue(), kind.lower(), lambda v, n=(): [(5, 5, 10, 6)], max_megapixels=1)
    after = Image.open(io.BytesIO(result.data))
    assert after.mode == before.mode
    outside = np.ones((60, 80), bool)
    outside[5:11, 5:15] = False
    np.testing.assert_array_equal(np.asarray(after)[outside], np.asarray(before)[outside])
    assert len(np.unique(np.asarray(after)[5:11, 5:15].reshape(60, -1), axis=0)) == 1
    if mode == "P":
        np.testing.assert_array_equal(
            np.asarray(after.convert("RGB"))[outside], np.asarray(before.convert("RGB"))[outside]
        )


def test_tiff_keeps_its_pixels_and_no_tag_that_speaks() -> None:
    rng = np.random.default_rng(0)
    pages = rng.integers(0, 4000, (3, 50, 70), dtype=np.uint16)
    out = io.BytesIO()
    tifffile.imwrite(out, pages, photometric="minisblack", description="Erika Musterfrau",
                     datetime="2020:01:02 03:04:05", software="Musterfrau 1", extratags=[(315, "s", 0,
                     "Dr Musterfrau", True)])  # fmt: skip
    for find in (nothing, lambda v, n=(): [(5, 5, 10, 6)]):
        result = clean_tiff(out.getvalue(), find, max_megapixels=1)
        assert b"Musterfrau" not in result.data
        assert b"2020:01" not in result.data
        now = tifffile.imread(io.BytesIO(result.data))
        outside = np.ones((50, 70), bool)
        if result.boxes:
            outside[5:11, 5:15] = False
        np.testing.assert_array_equal(now[:, outside], pages[:, outside])


def test_slides_are_refused(shared_data: Path) -> None:
    data = (shared_data / "format_samples" / "images" / "cmu-1-small-region.svs").read_bytes()
    with pytest.raises(UnreadableImage, match="a whole slide: its label"):
        clean_tiff(data, nothing, max_megapixels=100)
