"""Slices of one region look alike in all patients: copies are found among them, and nobody is bound for the rest."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pellucid.cohort.duplicates.copy_judge import THUMBNAIL_PX, Thumbnails
from pellucid.cohort.duplicates.duplicate_groups import find_duplicates
from pellucid.cohort.duplicates.fine_structure import correlation
from pellucid.cohort.images.content_hashes import perceptual_hash
from pellucid.cohort.images.pixels import as_prepared, stretch
from pellucid.cohort.phantom.head_slices import head_slices

Pixels = NDArray[np.uint8]
PATIENTS, LEVELS = 30, 6


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def cropped(pixels: Pixels, px: int) -> Pixels:
    return np.ascontiguousarray(pixels[px:-px, px:-px])


COPIES: list[Callable[[Pixels], Pixels]] = [
    lambda p: jpeg(p, 60),
    lambda p: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    lambda p: cropped(p, 3),
    lambda p: np.clip(p * 1.1, 0, 255).astype(np.uint8),
]


def small(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(stretch(pixels, THUMBNAIL_PX), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def rows_of(pictures: Sequence[Pixels], patients: Sequence[str]) -> tuple[pd.DataFrame, Thumbnails]:
    prepared = [as_prepared(pixels, 256, 90) for pixels in pictures]
    ids = [f"i{k:04d}" for k in range(len(pictures))]
    shown = dict(zip(ids, map(small, prepared), strict=True))
    rows = pd.DataFrame({"image_id": ids, "status": "ok", "sha256": ids, "patient_source_id": list(patients)})
    rows["perceptual_hash"] = [perceptual_hash(pixels) for pixels in prepared]
    return rows, lambda wanted: np.stack([shown[name] for name in wanted])


@pytest.fixture(scope="module")
def heads() -> tuple[list[Pixels], list[str]]:
    drawn = list(head_slices(PATIENTS, LEVELS, size_px=160))
    return [one.pixels for one in drawn], [f"p{one.patient}" for one in drawn]


def test_heads_of_different_patients_are_alike(heads: tuple[list[Pixels], list[str]]) -> None:
    """Else the tests below would test nothing."""
    middle = [cv2.resize(small(pixels), (64, 64)) for pixels in heads[0][2::LEVELS]]
    alike = [correlation(a, b) for k, a in enumerate(middle) for b in middle[:k]]
    assert np.mean(np.array(alike) > 0.8) > 0.1


def test_copies_among_alike_slices_are_found_and_nothing_else(heads: tuple[list[Pixels], list[str]]) -> None:
    pictures, patients = heads
    chosen = range(0, len(pictures), 4)
    copies = [COPIES[k % len(COPIES)](pictures[i]) for k, i in enumerate(chosen)]
    others = [f"p{(int(patients[i][1:]) + 7) % PATIENTS}" for i in chosen]
    rows, thumbnails = rows_of([*pictures, *copies], [*patients, *others])
    found = find_duplicates(rows, thumbnails)
    group = found.columns["duplicate_group"].tolist()
    right = [group[i] != "" and group[i] == group[len(pictures) + k] for k, i in enumerate(chosen)]
    assert np.mean(right) >= 0.95
    source = [*range(len(pictures)), *chosen]
    of_group = pd.DataFrame({"group": group, "source": source})[lambda frame: frame["group"] != ""].groupby("group")
    assert (of_group["source"].nunique() == 1).all(), "slices of different patients are in one group"
    assert found.limits.n_null >= 50
    assert found.limits.copy > found.limits.usual


@pytest.mark.long
def test_ct_slices_of_different_patients_are_not_copies(shared_data: Path) -> None:
    """The set holds six slices twice, under one patient each."""
    from pellucid.cohort.readers import read_image

    table = pd.read_csv(shared_data / "ct_tcga_dicom" / "manifest.csv")
    pictures = [read_image((shared_data / "ct_tcga_dicom" / name).read_bytes()).pixels for name in table["image"]]
    rows, thumbnails = rows_of(pictures, table["patient_id"].astype(str).tolist())
    found = find_duplicates(rows, thumbnails)
    groups = pd.Series(range(len(pictures))).groupby(found.columns["duplicate_group"].replace("", np.nan))
    assert groups.ngroups == 6
    assert all(np.array_equal(pictures[first], pictures[second]) for first, second in groups.apply(list))
    assert (found.columns["duplicate_question"] == "").all()
