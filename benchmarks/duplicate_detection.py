"""Are copies found, and are different images of one kind not paired? Real images, with copies made from them.

    python -m benchmarks.duplicate_detection DATA/busbra [--images 1875] [--copies 40]

DATA/busbra is an image folder with a `manifest.csv` (columns image, patient_id). Every image is read as in a scan
(`pellucid.cohort.intake.file_record.read_file`). Prints the groups found among the unchanged images, the similarity of
candidate pairs of different patients, and the share of the copies that is found, by kind.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from pellucid.cohort.duplicates.copy_judge import agreement, shown
from pellucid.cohort.duplicates.duplicate_groups import THUMBNAIL_PX, find_duplicates
from pellucid.cohort.duplicates.near_duplicates import MAX_DISTANCE
from pellucid.cohort.images.pixels import stretch
from pellucid.cohort.intake.file_record import read_file
from pellucid.cohort.readers import read_image
from pellucid.cohort.study import ScanConfig

Pixels = NDArray[np.uint8]


def encoded(pixels: Pixels, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def dicom(pixels: Pixels) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = *pixels.shape[:2], 3, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def cropped(pixels: Pixels, share: float) -> Pixels:
    y, x = (round(n * share / 2) for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[y : pixels.shape[0] - y, x : pixels.shape[1] - x])


COPIES: dict[str, Callable[[bytes, Pixels], bytes]] = {
    "the same bytes": lambda data, pixels: data,
    "PNG": lambda data, pixels: encoded(pixels, "PNG"),
    "DICOM": lambda data, pixels: dicom(pixels),
    "JPEG quality 80": lambda data, pixels: encoded(pixels, "JPEG", quality=80),
    "JPEG quality 60": lambda data, pixels: encoded(pixels, "JPEG", quality=60),
    "half the size": lambda data, pixels: encoded(
        np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)), "PNG"
    ),
    "10 % brighter": lambda data, pixels: encoded(np.clip(pixels * 1.1, 0, 255).astype(np.uint8), "PNG"),
    "10 % darker": lambda data, pixels: encoded((pixels * 0.9).astype(np.uint8), "PNG"),
    "3 % cropped": lambda data, pixels: encoded(cropped(pixels, 0.03), "PNG"),
    "6 % cropped": lambda data, pixels: encoded(cropped(pixels, 0.06), "PNG"),
}


class Pass:
    """Rows and thumbnails of files, as the scan would have them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.small: dict[str, Pixels] = {}

    def read(self, root: Path, file: str, image_id: str, patient: str) -> None:
        for row, prepared in read_file(root, file, ScanConfig()):
            row |= {"image_id": image_id, "patient": patient}
            self.rows.append(row)
            if prepared:
                square = stretch(simplejpeg.decode_jpeg(prepared, "RGB"), THUMBNAIL_PX)
                self.small[image_id] = np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), dtype=np.uint8)

    def thumbnails(self, image_ids: Sequence[str]) -> Pixels:
        return np.stack([self.small[name] for name in image_ids])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=10**9)
    parser.add_argument("--copies", type=int, default=40)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    table = pd.read_csv(asked.data / "manifest.csv").iloc[: asked.images]
    scanned = Pass()
    for image, patient in zip(table["image"], table["patient_id"].astype(str), strict=True):
        scanned.read(asked.data, image, image, patient)
    frame = pd.DataFrame(scanned.rows)
    frame = frame[frame["status"] == "ok"].reset_index(drop=True)
    before = time.process_time()
    found = find_duplicates(frame, scanned.thumbnails).columns
    spent = time.process_time() - before
    across = frame.groupby(found["duplicate_group"])["patient"].nunique()
    across = across[across.index != ""]
    kinds = found["duplicate_kind"][found["duplicate_kind"] != ""].value_counts().to_dict()
    print(f"{len(frame)} images of {frame['patient'].nunique()} patients: {spent:.1f} s of one core")
    print(f"  as they are: {len(across)} groups {kinds}, {int((across > 1).sum())} across patients")
    agreements = unlike(frame, scanned)
    if len(agreements):
        print(f"  {len(agreements)} pairs of different patients have hashes within {MAX_DISTANCE} bits;", end=" ")
        print(f"details agree by {agreements.max():.2f} at most")
    rng = np.random.default_rng(0)
    chosen = sorted(rng.choice(len(frame), min(asked.copies, len(frame)), replace=False).tolist())
    with tempfile.TemporaryDirectory() as folder:
        for what, make in COPIES.items():
            copies = Pass()
            copies.small = dict(scanned.small)
            for i in chosen:
                data = (asked.data / str(frame["file"][i])).read_bytes()
                (Path(folder) / "copy").write_bytes(make(data, read_image(data).pixels))
                copies.read(Path(folder), "copy", f"copy of {frame['image_id'][i]}", "another")
            both = pd.concat([frame, pd.DataFrame(copies.rows)], ignore_index=True)
            said = find_duplicates(both, copies.thumbnails).columns
            group = said["duplicate_group"].to_numpy()
            right = [group[len(frame) + k] != "" and group[len(frame) + k] == group[i] for k, i in enumerate(chosen)]
            kinds = said["duplicate_kind"][len(frame) :].value_counts().to_dict()
            print(f"  {what:16s} found {np.mean(right):.2f} { ({k: n for k, n in kinds.items() if k}) }")


def unlike(frame: pd.DataFrame, scanned: Pass) -> NDArray[np.float64]:
    """Agreement of the details of all pairs of different patients whose hashes make them candidates."""
    hashes = np.array([int(text, 16) for text in frame["perceptual_hash"]], dtype=np.uint64)
    patients = frame["patient"].to_numpy()
    pairs = []
    for i in range(len(hashes) - 1):
        near = np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= MAX_DISTANCE) + i + 1
        pairs += [(i, j) for j in near if patients[i] != patients[j]]
    ids = frame["image_id"].to_numpy()
    seen = [(shown(scanned.small[ids[i]]), shown(scanned.small[ids[j]])) for i, j in pairs]
    return np.array([agreement(first, second) for first, second in seen if first is not None and second is not None])


if __name__ == "__main__":
    main()
