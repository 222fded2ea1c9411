"""A picture is found again in any container and through small changes; a different picture of the same kind is not."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from pellucid.cohort.duplicates import copy_judge, near_duplicates
from pellucid.cohort.duplicates.copy_judge import THUMBNAIL_PX, Thumbnails, agreement, shown
from pellucid.cohort.duplicates.copy_limits import MIN_AGREEMENT
from pellucid.cohort.duplicates.duplicate_groups import find_duplicates
from pellucid.cohort.duplicates.near_duplicates import candidate_pairs, nearest_first
from pellucid.cohort.duplicates.shared_images import MAX_BOUND, binding, duplicate_sentences

Pixels = NDArray[np.uint8]


def phash(pixels: Pixels) -> str:
    """The classic 64-bit DCT hash (Zauner 2010); any hash that nearly the same pictures nearly share would do."""
    gray = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = dctn(gray.astype(float), norm="ortho")[:8, :8].ravel()
    return f"{int(''.join('01'[int(v > np.median(low[1:]))] for v in low), 2):016x}"


def thumbnail(pixels: Pixels) -> Pixels:
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def ultrasound(seed: int, height: int = 220, width: int = 300) -> Pixels:
    """Speckle over layers and a lesion: pictures of one scanner have the same layout and different content."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    depth = np.array([1.0, 0.75, 0.9, 0.5, 0.3])[np.clip((y * 5 + 0.15 * np.sin(9 * x + seed)).astype(int), 0, 4)]
    cy, cx, r = rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.9), rng.uniform(0.08, 0.2)
    lesion = ((y - cy) ** 2 + (x - cx) ** 2 / rng.uniform(1, 3)) < r**2
    speckle = cv2.GaussianBlur(rng.rayleigh(1, (height, width)), (0, 0), 1.8)
    coarse = cv2.GaussianBlur(rng.normal(1, 4, (height, width)), (0, 0), 9)
    gray = 95 * depth * speckle * (1 + 0.7 * coarse) * np.where(lesion, 0.25, 1)
    return np.repeat(np.clip(gray, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def cohort_of(pictures: Sequence[Pixels], patients: Sequence[str] | None = None, **columns: Sequence[str]):  # type: ignore[no-untyped-def]
    """Rows as the one pass gives them, and the thumbnails' source."""
    n = len(pictures)
    ids = [f"i{k:04d}.png" for k in range(n)]
    rows = pd.DataFrame(
        {
            "image_id": ids,
            "status": "ok",
            "sha256": [f"sha{k}" for k in range(n)],
            "perceptual_hash": [phash(p) for p in pictures],
            "patient_source_id": list(patients or ids),
        }
    ).assign(**columns)
    small = {name: thumbnail(p) for name, p in zip(ids, pictures, strict=True)}
    return rows, lambda wanted: np.stack([small[name] for name in wanted])


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG quality 80": lambda p: jpeg(p, 80),
    "JPEG quality 60": lambda p: jpeg(p, 60),
    "half the size": lambda p: np.asarray(cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "10 % brighter": lambda p: np.clip(p * 1.1, 0, 255).astype(np.uint8),
    "10 % darker": lambda p: (p * 0.9).astype(np.uint8),
    "3 % cropped": lambda p: p[3:-3, 4:-5],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_its_siblings_are_not(change: str) -> None:
    originals = [ultrasound(seed) for seed in range(15)]
    copies = [CHANGES[change](p) for p in originals]
    rows, thumbnails = cohort_of([*originals, *copies])
    found = find_duplicates(rows, thumbnails).columns
    assert (found["duplicate_group"][:15] != "").sum() >= 14
    again = found[15:]
    assert (again["duplicate_kind"][again["duplicate_of"] != ""] == "near").all()
    wrong = [of for k, of in enumerate(again["duplicate_of"]) if of not in {"", f"i{k:04d}.png"}]
    assert wrong == [], "a copy of another picture than its own"
    assert (found["duplicate_of"][:15] == "").all(), "the originals differ from one another"


def test_pictures_of_one_kind_have_few_details_in_common() -> None:
    seen = [shown(thumbnail(ultrasound(seed))) for seed in range(12)]
    assert all(seen)
    pictures = [one for one in seen if one is not None]
    between = [agreement(a, b, alike=-1) for i, a in enumerate(pictures) for b in pictures[:i]]
    assert max(between) < MIN_AGREEMENT - 0.2
    assert all(agreement(a, a) > 0.99 for a in pictures)
    assert shown(np.full((THUMBNAIL_PX, THUMBNAIL_PX), 90, np.uint8)) is None


def test_kinds_and_first_of_a_group() -> None:
    a, b = ultrasound(1), ultrasound(2)
    rows, thumbnails = cohort_of(
        [a, b, a, a, jpeg(a, 70), b],
        sha256=["x", "y", "x", "z", "w", "y"],
        pixel_hash=["pa", "pb", "pa", "pa", "", "pb"],
    )
    found = find_duplicates(rows, thumbnails).columns
    assert found["duplicate_kind"].tolist() == ["", "", "exact", "pixels", "near", "exact"]
    assert found["duplicate_of"].tolist() == ["", "", "i0000.png", "i0000.png", "i0000.png", "i0001.png"]
    assert found["duplicate_group"].tolist() == ["D0001", "D0002", "D0001", "D0001", "D0001", "D0002"]


def test_frames_of_one_file_are_no_copies_of_each_other() -> None:
    rows, thumbnails = cohort_of([ultrasound(1), ultrasound(2)], sha256=["same", "same"], frame=["0", "1"])
    assert (find_duplicates(rows, thumbnails).columns["duplicate_group"] == "").all()


def test_unreadable_files_and_absent_columns() -> None:
    rows, _ = cohort_of([ultrasound(1)] * 3, sha256=["", "", ""])
    rows = rows.drop(columns="perceptual_hash").assign(status=["unreadable", "unreadable", "ok"])
    found = find_duplicates(rows)
    assert (found.columns == "").all(axis=None)
    assert not found.near_searched
    strange, thumbnails = cohort_of([ultrasound(1)] * 2, perceptual_hash=["", "not a hash at all"])
    assert (find_duplicates(strange, thumbnails).columns == "").all(axis=None)


def test_blank_pictures_are_near_to_nothing_and_bind_nobody() -> None:
    rng = np.random.default_rng(0)
    blanks = [np.full((60, 80, 3), 2, np.uint8) + rng.integers(0, 3, (60, 80, 3), dtype=np.uint8) for _ in range(50)]
    rows, thumbnails = cohort_of(blanks, perceptual_hash=["8000000000000000"] * 50)
    assert (find_duplicates(rows, thumbnails).columns["duplicate_group"] == "").all()
    rows["pixel_hash"] = "all the same"
    found = find_duplicates(rows, thumbnails)
    assert found.blank == {"D0001"}
    manifest = in_manifest(rows, found.columns)
    assert binding(manifest, found) == []
    said = duplicate_sentences(manifest, found, None)
    assert any("50 file(s) of 50 patient(s) are blank pictures that repeat one another (first: `" in s for s in said)
    assert not any("lie across different patients" in s for s in said)


def in_manifest(rows: pd.DataFrame, columns: pd.DataFrame, split: Sequence[str] | None = None) -> pd.DataFrame:
    names = {p: f"P{k:04d}" for k, p in enumerate(rows["patient_source_id"].unique(), start=1)}
    together = pd.concat([rows, columns], axis=1)
    return together.assign(patient=rows["patient_source_id"].map(names), split=list(split or ["train"] * len(rows)))


def test_a_shared_picture_binds_patients_and_is_said_by_research_id() -> None:
    a = ultrasound(1)
    rows, thumbnails = cohort_of([a, ultrasound(2), jpeg(a, 70)], ["anna", "berta", "clara"])
    found = find_duplicates(rows, thumbnails)
    manifest = in_manifest(rows, found.columns)
    assert binding(manifest, found) == [["anna", "clara"]]
    assert duplicate_sentences(manifest, found, None) == [
        "images: 1 file(s) are nearly the same picture as another; 1 of these groups lie across different patients "
        "(P0001 and P0003), who are kept on one side of the split: please check whether an image was stored twice or "
        "two ids are one person (first: `i0000.png = i0002.png`) (`duplicate_of` in manifest.parquet)"
    ]
    torn = in_manifest(rows, found.columns, ["train", "train", "test"])
    assert (
        "split column `fold`: 1 group(s) of duplicates are on two sides (P0001 in train and P0003 in test): the "
        "column is kept as it is, so what is tested there was seen in training; correct the column, or read the "
        "results with that in mind (first: `i0000.png = i0002.png`)"
    ) in duplicate_sentences(torn, found, "fold")


def test_a_picture_of_many_patients_is_a_test_chart() -> None:
    n = MAX_BOUND + 1
    rows, thumbnails = cohort_of([ultrasound(1)] * n, [f"patient{k}" for k in range(n)])
    found = find_duplicates(rows, thumbnails)
    manifest = in_manifest(rows, found.columns)
    assert binding(manifest, found) == []
    assert any(
        "1 image(s) are shared by more than 10 patients each (up to 11)" in s
        for s in duplicate_sentences(manifest, found, None)
    )
    few = rows.iloc[:MAX_BOUND]
    assert len(binding(in_manifest(few, found.columns.iloc[:MAX_BOUND]), found)) == 1


@pytest.mark.parametrize("bits", [0, 3, 7, 10, 11])
def test_candidates_are_all_pairs_within_the_distance(bits: int) -> None:
    rng = np.random.default_rng(bits)
    centres = rng.integers(0, 2**63, 12, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 9), replace=False)) for _ in range(300)])
    hashes = np.unique(np.repeat(centres, 25) ^ flips.astype(np.uint64))
    crowded = np.zeros(len(hashes), dtype=bool)
    found = list(candidate_pairs(hashes, bits, crowded))
    wanted = np.argwhere(np.triu(np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= bits, 1))
    assert sorted(found) == [tuple(pair) for pair in wanted.tolist()]
    assert not crowded.any()
    steps = list(nearest_first(hashes, bits, crowded))
    assert sorted(steps) == sorted(found)
    tiers = [int(np.bitwise_count(hashes[i] ^ hashes[j])) // 4 for i, j in steps]
    assert tiers == sorted(tiers)


def test_a_study_of_one_view_takes_no_n_by_n_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MOST_COMPARED", 4)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 40, (61, 128, 128))
    noise[0] *= 2  # what all have in common
    gray = [cv2.GaussianBlur(noise[0] + own, (0, 0), 2) for own in noise[1:]]
    alike = [np.repeat(np.clip(128 + 4 * g, 0, 255).astype(np.uint8)[..., None], 3, axis=2) for g in gray]
    brighter = np.clip(alike[7].astype(int) + 2, 0, 255).astype(np.uint8)
    hashes = [f"{1 << (k % 60) | 1 << 62:016x}" for k in range(60)]  # within 2 bits of one another
    images, thumbnails = cohort_of([*alike, brighter], perceptual_hash=[*hashes, hashes[7]])
    compared = []

    def counted(first: copy_judge.Shown, second: copy_judge.Shown) -> float:
        compared.append(1)
        return agreement(first, second)

    monkeypatch.setattr(copy_judge, "agreement", counted)
    found = find_duplicates(images, thumbnails)
    assert len(compared) < 60 * 5 + 500, "of 1,770 pairs; up to 400 are for the limits"
    assert found.capped > 40
    assert found.columns["duplicate_of"].iloc[60] == "i0007.png", "the nearest hashes come first"


@pytest.mark.long
def test_crowded_hashes_are_capped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_MAX_BUCKET", 5)
    monkeypatch.setattr(near_duplicates, "_MAX_LEADERS", 4)
    pictures = [ultrasound(seed, 60, 80) for seed in range(20)]
    one_hash, thumbnails = cohort_of(pictures, perceptual_hash=["0123456789abcdef"] * 20)
    found = find_duplicates(one_hash, thumbnails)
    assert found.capped == 16
    assert (found.columns["duplicate_group"] == "").all()
    crowd, thumbnails = cohort_of(pictures, perceptual_hash=[f"{k:04x}456789abcdef" for k in range(20)])
    assert find_duplicates(crowd, thumbnails).capped == 20
    assert any("20 image(s) were not looked for among all" in s for s in said_of(crowd, thumbnails))


def said_of(rows: pd.DataFrame, thumbnails: Thumbnails) -> list[str]:
    found = find_duplicates(rows, thumbnails)
    return duplicate_sentences(in_manifest(rows, found.columns), found, None)


@pytest.mark.long
def test_thumbnails_are_asked_for_candidates_only() -> None:
    asked: list[str] = []
    pictures = [ultrasound(seed) for seed in range(30)]
    rows, thumbnails = cohort_of([*pictures, jpeg(pictures[7], 60)])

    def watched(wanted: Sequence[str]) -> NDArray[np.uint8]:
        asked.extend(wanted)
        return thumbnails(wanted)

    find_duplicates(rows.iloc[:30], watched)
    assert len(set(asked)) < 10, "no pair is alike, so nothing is needed for the limits either"
    assert find_duplicates(rows, watched).columns["duplicate_of"].iloc[30] == "i0007.png"
