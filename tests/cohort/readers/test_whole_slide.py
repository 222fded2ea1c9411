"""Whole slides: the right tiles, at the right resolution, with the right pixels; label and macro never."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

from pellucid.cohort.readers import (
    NoPicture,
    Picture,
    ReadOptions,
    UnreadableImage,
    read_image,
    read_pictures,
)
from pellucid.cohort.readers.tissue_mask import tissue_mask
from pellucid.cohort.readers.whole_slide import is_slide_tiff

GLASS, STAIN, PEN = (243, 242, 244), (190, 120, 170), (60, 150, 80)


def drawn(width: int = 2048, height: int = 1536) -> np.ndarray:
    """Glass with a block of tissue at x 512–1280, y 256–1024, a green pen mark beside it, and a little noise."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = GLASS
    picture[256:1024, 512:1280] = STAIN
    picture[256:1024, 1536:1792] = PEN
    noise = np.random.default_rng(0).integers(-4, 5, (height // 8, width // 8, 1))
    noise = np.repeat(np.repeat(noise, 8, axis=0), 8, axis=1)
    return (picture.astype(int) + noise).clip(0, 255).astype(np.uint8)


def slide(path: Path, um_per_px: float | None = 0.5, levels: int = 3) -> np.ndarray:
    """A pyramid as a TIFF of no vendor; returns its full resolution."""
    full = drawn()
    resolution = {} if um_per_px is None else {"resolution": (1e4 / um_per_px,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for number in range(levels):
            level = (
                full
                if number == 0
                else cv2.resize(full, None, fx=0.5**number, fy=0.5**number, interpolation=cv2.INTER_AREA)
            )
            writer.write(
                level, photometric="rgb", tile=(256, 256), compression="deflate", subfiletype=int(number > 0),
                metadata=None, **(resolution if number == 0 else {}),
            )  # fmt: skip
    return full


def tiles(path: Path, **options: object) -> dict[str, Picture]:
    found = dict(read_pictures(path, path.read_bytes(), ReadOptions(**options)))
    assert all(isinstance(picture, Picture) for picture in found.values())
    return found  # type: ignore[return-value]


def test_tiles_of_tissue_come_in_raster_order_pixel_for_pixel(tmp_path: Path) -> None:
    full = slide(tmp_path / "a.tif")
    found = tiles(tmp_path / "a.tif")
    corners = [(x, y) for y in (256, 512, 768) for x in (512, 768, 1024)]
    assert list(found) == [f"x{x}-y{y}" for x, y in corners], "glass and pen are left out"
    for (x, y), picture in zip(corners, found.values(), strict=True):
        assert np.array_equal(picture.pixels, full[y : y + 256, x : x + 256])
        assert (picture.width, picture.height, picture.format) == (256, 256, "slide")
        assert picture.how == "tile at 0.5 µm/px from level 0"
        assert picture.header["um_per_px"] == "0.5"


def test_a_coarser_resolution_comes_from_the_nearest_level_above(tmp_path: Path) -> None:
    full = slide(tmp_path / "a.tif")
    half = tiles(tmp_path / "a.tif", tile_um_per_px=1.0, tile_px=128)
    assert all(picture.how == "tile at 1 µm/px from level 1" for picture in half.values())
    expected = cv2.resize(full[256:512, 512:768], (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(half["x512-y256"].pixels.astype(int) - expected).max() <= 1
    between = tiles(tmp_path / "a.tif", tile_um_per_px=1.5, tile_px=128)  # 384 pixels of level 0 to 128
    assert all(picture.how == "tile at 1.5 µm/px from level 1" for picture in between.values())
    left, top = (int(part[1:]) for part in next(iter(between)).split("-"))
    assert left % 384 == top % 384 == 0
    expected = cv2.resize(full[top : top + 384, left : left + 384], (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(between[f"x{left}-y{top}"].pixels.astype(int) - expected).mean() <= 2


def test_min_tissue_decides(tmp_path: Path) -> None:
    slide(tmp_path / "a.tif")
    shifted = {"tile_px": 512}  # tiles of 512 hold 1, 1/2 or 1/4 of tissue
    assert list(tiles(tmp_path / "a.tif", min_tissue=0.9, **shifted)) == ["x512-y512"]
    assert len(tiles(tmp_path / "a.tif", min_tissue=0.45, **shifted)) == 3
    assert len(tiles(tmp_path / "a.tif", min_tissue=0.2, **shifted)) == 4


@pytest.mark.long
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    slide(path)

    def reason(**options: object) -> str:
        with pytest.raises(UnreadableImage) as caught:
            list(read_pictures(path, path.read_bytes(), ReadOptions(**options)))
        return str(caught.value)

    assert reason(tile_um_per_px=0.25) == (
        "a whole slide scanned at 0.5 µm per pixel, coarser than the 0.25 asked for (scan.tile_um_per_px)"
    )
    assert reason(tile_px=2000) == "a whole slide of 2048 × 1536 pixels, smaller than one tile of 2000 × 2000"
    assert reason(tile_px=1024, min_tissue=1.0).startswith("a whole slide without tissue: no tile of 1024 pixels")
    assert "taken for a decompression bomb" in reason(tile_px=1500, max_megapixels=2)


def test_a_vendors_slide_without_openslide_says_what_to_install(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared_data / "format_samples" / "images" / "cmu-1-small-region.svs"
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(UnreadableImage, match=r"a whole slide: install pellucid\[slides\] to read it"):
        list(read_pictures(path, path.read_bytes(), ReadOptions()))


def test_one_image_cannot_be_asked_of_a_slide(shared_data: Path) -> None:
    data = (shared_data / "format_samples" / "images" / "cmu-1-small-region.svs").read_bytes()
    with pytest.raises(UnreadableImage, match="a whole slide: it is read tile by tile by `scan`, not as one image"):
        read_image(data)


def test_a_small_pyramid_without_a_microscopes_resolution_is_a_picture(tmp_path: Path) -> None:
    full = slide(tmp_path / "a.tif", um_per_px=None)
    ((label, picture),) = read_pictures(tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes(), ReadOptions())
    assert label == ""
    assert isinstance(picture, Picture)
    assert np.array_equal(picture.pixels, full)


def test_tiles_of_a_real_slide_agree_with_tifffile(shared_data: Path) -> None:
    path = shared_data / "format_samples" / "images" / "cmu-1-small-region.svs"
    full = tifffile.imread(path, key=0)
    found = tiles(path)
    assert 15 <= len(found) <= 50
    for label, picture in found.items():
        left, top = (int(part[1:]) for part in label.split("-"))
        assert left % 256 == top % 256 == 0, "0.499 is near enough to 0.5: no pixel is resampled"
        expected = full[top : top + 256, left : left + 256]
        assert np.abs(picture.pixels.astype(int) - expected).mean() < 1
        assert (expected.mean(axis=2) < 225).mean() > 0.2, "tissue is darker than glass"
        assert picture.jpeg_quality is not None
    header = next(iter(found.values())).header
    assert header == {
        "manufacturer": "aperio", "serial": "CPAPERIOCS", "magnification": "20", "um_per_px": "0.499",
        "date": "2009-12-29", "year": "2009",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "tile_px"), [("broken.svs", 256), ("unreadable.svs", 256), ("unreadable.svs", 16)])
def test_broken_slides_are_refused(name: str, tile_px: int, shared_data: Path) -> None:
    path = shared_data / "format_samples" / "images" / name
    with pytest.raises(UnreadableImage, match=r"a damaged slide|smaller than one tile|not an image of a kind"):
        list(read_pictures(path, path.read_bytes(), ReadOptions(tile_px=tile_px)))


# --- tissue ---


def test_tissue_is_stain_not_glass_pen_or_shadow() -> None:
    thumbnail = np.full((60, 100, 3), GLASS, np.uint8)
    patches = {
        "haematoxylin and eosin": (STAIN, True),
        "haematoxylin": ((110, 90, 160), True),
        "eosin": ((230, 160, 190), True),
        "DAB": ((140, 95, 60), True),
        "green pen": (PEN, False),
        "blue pen": ((40, 60, 190), False),
        "black": ((15, 15, 18), False),
        "gray dust": ((170, 170, 172), False),
    }
    for number, (colour, _) in enumerate(patches.values()):
        thumbnail[10:50, 2 + 12 * number : 12 + 12 * number] = colour
    mask = tissue_mask(thumbnail)
    for number, (name, (_, tissue)) in enumerate(patches.items()):
        inside = mask[14:46, 5 + 12 * number : 9 + 12 * number]
        assert inside.mean() == float(tissue), name
    assert not mask[:6].any()


def test_bare_glass_holds_no_tissue() -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (80, 80, 3))
    assert tissue_mask((np.array(GLASS) + noise).clip(0, 255).astype(np.uint8)).mean() < 0.01


# --- slides as DICOM ---


def dicom_slide(path: Path, um_per_px: float, flavor: str = "VOLUME", derivation: str = "NONE") -> np.ndarray:
    """One level of a VL Whole Slide Microscopy image, TILED_FULL, uncompressed."""
    full, side = drawn(), 256
    rows, columns = full.shape[0] // side, full.shape[1] // side
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    made.Modality, made.ImageType = "SM", ["ORIGINAL", "PRIMARY", flavor, derivation]
    made.Manufacturer, made.DeviceSerialNumber, made.AcquisitionDateTime = "ACME", "S-1", "20200102030405"
    made.PatientName, made.PatientID = "Doe^Jane", "77"
    made.Rows = made.Columns = side
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.NumberOfFrames = rows * columns
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = full.shape[:2]
    made.TotalPixelMatrixFocalPlanes = made.NumberOfOpticalPaths = 1
    made.DimensionOrganizationType, made.BurnedInAnnotation = "TILED_FULL", "NO"
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [um_per_px / 1000, um_per_px / 1000], 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    optics = Dataset()
    optics.OpticalPathIdentifier, optics.ObjectiveLensPower = "1", 20
    made.OpticalPathSequence = [optics]
    blocks = full.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    made.PixelData = np.ascontiguousarray(blocks).tobytes()
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return full


@pytest.mark.long
def test_a_slide_stored_as_dicom(tmp_path: Path) -> None:
    full = dicom_slide(tmp_path / "a.dcm", 0.5)
    found = tiles(tmp_path / "a.dcm")
    assert list(found) == [f"x{x}-y{y}" for y in (256, 512, 768) for x in (512, 768, 1024)]
    picture = found["x768-y512"]
    assert np.array_equal(picture.pixels, full[512:768, 768:1024])
    wanted = {"manufacturer": "ACME", "serial": "S-1", "magnification": "20", "date": "2020-01-02", "patient_id": "77"}
    assert wanted.items() <= picture.header.items()
    assert "dicom_name" in picture.findings


@pytest.mark.long
@pytest.mark.parametrize(("flavor", "derivation"), [("VOLUME", "RESAMPLED"), ("LABEL", "NONE"), ("OVERVIEW", "NONE")])
def test_of_a_dicom_series_only_the_full_resolution_is_read(tmp_path: Path, flavor: str, derivation: str) -> None:
    dicom_slide(tmp_path / "a.dcm", 0.5, flavor, derivation)
    with pytest.raises(NoPicture):
        list(read_pictures(tmp_path / "a.dcm", (tmp_path / "a.dcm").read_bytes(), ReadOptions()))


def test_one_rule_decides_what_a_whole_slide_is(tmp_path: Path) -> None:
    slide(tmp_path / "slide.tif")
    slide(tmp_path / "plain.tif", um_per_px=None, levels=1)
    slide(tmp_path / "pyramid.tif", um_per_px=None)
    found = {}
    for path in sorted(tmp_path.glob("*.tif")):
        with tifffile.TiffFile(path) as tiff:
            found[path.stem] = (is_slide_tiff(tiff, path), is_slide_tiff(tiff), is_slide_tiff(tiff, cautious=True))
    assert found["slide"] == (True, False, True)
    assert found["plain"] == (False, False, False)
    assert found["pyramid"] == (False, False, True), "de-identification refuses what may have a label"
