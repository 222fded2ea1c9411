"""Are copies found among images of standardised anatomy, and are slices of different patients not bound as copies?

    python -m benchmarks.standard_anatomy [--data DATA] [--patients 110] [--levels 20] [--only phantom]

Three sets, each with copies planted under other patients' ids: phantom heads (`pellucid.cohort.phantom.head_slices`),
and, with DATA (the folder that holds ct_tcga_dicom and busbra), 100 CT slices and 600 ultrasound images. Prints for
each the recall by kind of copy, false groups, patients bound, questions, limits, pairs per second, and what a
correlation of 0.85 of the fine structure with chains (the earlier rule) made of the same candidates. Then the same for
`near`: turned, mirrored and strongly cropped copies, compared with pairs of different patients.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pellucid.cohort.duplicates.copy_judge import THUMBNAIL_PX, CopyJudge
from pellucid.cohort.duplicates.copy_limits import copy_limits
from pellucid.cohort.duplicates.duplicate_groups import find_duplicates
from pellucid.cohort.duplicates.fine_structure import correlation
from pellucid.cohort.duplicates.near_duplicates import MAX_DISTANCE, candidate_pairs
from pellucid.cohort.duplicates.shared_images import binding
from pellucid.cohort.duplicates.star_groups import Groups
from pellucid.cohort.images.content_hashes import perceptual_hash
from pellucid.cohort.images.pixels import as_prepared, stretch
from pellucid.cohort.manifest.patient_split import units_of
from pellucid.cohort.phantom.head_slices import head_slices
from pellucid.cohort.readers import read_image
from pellucid.embed.near_duplicates.picture_match import related

Pixels = NDArray[np.uint8]
SIZE_PX, QUALITY = 256, 90  # of the prepared copies


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(pixels: Pixels, factor: float) -> Pixels:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=how), dtype=np.uint8)


def cropped(pixels: Pixels, share: float) -> Pixels:
    y, x = (round(n * share / 2) for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[y : pixels.shape[0] - y, x : pixels.shape[1] - x])


def marked(pixels: Pixels) -> Pixels:
    """With a measuring cross and a line of text, as a second export of the same image may have."""
    copy = pixels.copy()
    height, width = copy.shape[:2]
    cv2.putText(copy, "D 12 mm", (width // 20, height // 12), cv2.FONT_HERSHEY_SIMPLEX, width / 500, (255, 255, 255), 1)
    cv2.drawMarker(copy, (width // 2, height // 2), (255, 255, 255), cv2.MARKER_CROSS, width // 20, 1)
    return copy


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG 80": lambda p: jpeg(p, 80),
    "JPEG 50": lambda p: jpeg(p, 50),
    "half the size": lambda p: resized(p, 0.5),
    "1.5 × the size": lambda p: resized(p, 1.5),
    "10 % brighter": lambda p: np.clip(p * 1.1, 0, 255).astype(np.uint8),
    "3 % cropped": lambda p: cropped(p, 0.03),
    "5 % cropped": lambda p: cropped(p, 0.05),
    "marked": marked,
    "half, JPEG 60, 3 % cropped": lambda p: jpeg(cropped(resized(p, 0.5), 0.03), 60),
}
FAR: dict[str, Callable[[Pixels], Pixels]] = {
    "10 % cropped": lambda p: cropped(p, 0.10),
    "30 % cropped": lambda p: cropped(p, 0.30),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "quarter turn, JPEG 70": lambda p: jpeg(np.ascontiguousarray(np.rot90(p)), 70),
}


class Cohort:
    """Rows and thumbnails of images, as a scan would have them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.small: dict[str, Pixels] = {}
        self.pixels: list[Pixels] = []

    def add(self, pixels: Pixels, patient: str, source: int | None = None, how: str = "") -> None:
        image_id = f"i{len(self.rows):06d}"
        prepared = as_prepared(pixels, SIZE_PX, QUALITY)
        square = stretch(prepared, THUMBNAIL_PX)
        self.small[image_id] = np.asarray(cv2.cvtColor(square, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        self.pixels.append(prepared)
        self.rows.append(
            {
                "image_id": image_id,
                "status": "ok",
                "sha256": f"s{len(self.rows)}",
                "perceptual_hash": perceptual_hash(prepared),
                "patient_source_id": patient,
                "source": len(self.rows) if source is None else source,
                "how": how,
            }
        )

    def plant(self, n: int, copies: dict[str, Callable[[Pixels], Pixels]], originals: Sequence[Pixels]) -> None:
        """`n` copies, the kinds in turn, each of another image and under an id of its own."""
        rng = np.random.default_rng(1)
        for k, i in enumerate(rng.permutation(len(originals))[:n].tolist()):
            how = list(copies)[k % len(copies)]
            self.add(copies[how](originals[i]), f"copy{k:03d}", i, how)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    def thumbnails(self, image_ids: Sequence[str]) -> Pixels:
        return np.stack([self.small[name] for name in image_ids])


def phantom(patients: int, levels: int) -> Iterator[tuple[Pixels, str]]:
    for drawn in head_slices(patients, levels):
        yield drawn.pixels, f"p{drawn.patient:03d}"


def ct_slices(data: Path) -> Iterator[tuple[Pixels, str]]:
    table = pd.read_csv(data / "ct_tcga_dicom" / "manifest.csv")
    for image, patient in zip(table["image"], table["patient_id"].astype(str), strict=True):
        yield read_image((data / "ct_tcga_dicom" / image).read_bytes()).pixels, patient


def ultrasound(data: Path, n: int = 600) -> Iterator[tuple[Pixels, str]]:
    table = pd.read_csv(data / "busbra" / "manifest.csv").iloc[:n]
    for image, patient in zip(table["image"], table["patient_id"].astype(str), strict=True):
        yield read_image((data / "busbra" / image).read_bytes()).pixels, patient


def report(name: str, images: Iterator[tuple[Pixels, str]], n_copies: int) -> None:
    cohort, originals = Cohort(), []
    for pixels, patient in images:
        cohort.add(pixels, patient)
        originals.append(pixels)
    n = len(originals)
    print(f"{name}: {n} images of {cohort.frame['patient_source_id'].nunique()} patients, {n_copies} copies")
    print("  without copies: ", end="")
    said(cohort)
    cohort.plant(n_copies, COPIES, originals)
    print("  with copies: ", end="")
    frame = said(cohort)
    planted = frame[frame["how"] != ""]
    found = [row.group != "" and row.group == frame["group"][row.source] for row in planted.itertuples()]
    asked = [bool(set(row.asked.split()) & set(frame["asked"][row.source].split())) for row in planted.itertuples()]
    print(
        f"  recall {np.mean(found):.3f}; of the others {np.sum(np.array(asked) & ~np.array(found))} are questions;",
        end="",
    )
    print("", ", ".join(f"{how} {np.mean(part):.2f}" for how, part in pd.Series(found).groupby(list(planted["how"]))))
    earlier(cohort)
    by_vectors(cohort, originals)


def said(cohort: Cohort) -> pd.DataFrame:
    """Print false groups, bound patients, questions and limits; the frame with `group` and `asked`."""
    frame = cohort.frame
    before = time.process_time()
    found = find_duplicates(frame, cohort.thumbnails)
    spent = time.process_time() - before
    frame["group"], frame["asked"] = found.columns["duplicate_group"], found.columns["duplicate_question"]
    grouped = frame[frame["group"] != ""].groupby("group")
    mixed = grouped.filter(lambda rows: rows["source"].nunique() > 1)
    false = mixed.groupby("group").filter(
        lambda rows: rows.drop_duplicates("source")["patient_source_id"].nunique() > 1
    )
    manifest = pd.concat([frame, found.columns], axis=1)
    units = pd.Series(units_of(frame["patient_source_id"], binding(manifest, found)))
    questions = {name for names in frame["asked"] for name in names.split()}
    print(
        f"{len(mixed)} images in groups of different images, {false['group'].nunique()} such groups across patients; "
        f"largest unit {units.value_counts().max()} patients; {len(questions)} questions; limits copy "
        f"{found.limits.copy:.3f}, question {found.limits.question:.3f} ({found.limits.n_null} pairs, median "
        f"{found.limits.usual:.2f}); {spent:.1f} s"
    )
    return frame


def earlier(cohort: Cohort) -> None:
    """What the earlier rule made of the images, and how fast pairs are judged."""
    frame = cohort.frame
    frame = frame[frame["how"] == ""]
    hashes = np.array([int(text, 16) for text in frame["perceptual_hash"]], dtype=np.uint64)
    distinct, first = np.unique(hashes, return_index=True)
    pairs = list(candidate_pairs(distinct, MAX_DISTANCE, np.zeros(len(distinct), dtype=bool)))
    chosen = [pairs[k] for k in np.random.default_rng(0).permutation(len(pairs))[:20_000]]
    half = [cv2.resize(cohort.small[i], (64, 64), interpolation=cv2.INTER_AREA) for i in frame["image_id"]]
    groups = Groups(len(frame))
    before = time.process_time()
    for a, b in chosen:
        i, j = int(first[a]), int(first[b])
        if correlation(half[i], half[j]) >= 0.85:
            groups.join(i, j)
    old = time.process_time() - before
    patients = frame["patient_source_id"].groupby(groups.roots())
    sizes, across = patients.size(), patients.nunique()
    judge = CopyJudge(frame["image_id"].to_numpy(object), cohort.thumbnails, np.arange(len(frame)))
    rows = [(int(first[a]), int(first[b])) for a, b in chosen[:2_000]]
    judge.fetch({i for pair in rows for i in pair})
    before = time.process_time()
    values = np.array([judge.agreement(i, j) for i, j in rows])
    new = time.process_time() - before
    if not chosen:
        return
    print(
        f"  earlier rule ({len(chosen)} of {len(pairs)} candidates): {int(sizes[sizes > 1].sum())} images in groups, "
        f"{int((across > 1).sum())} groups across patients, largest {across.max()} patients"
    )
    print(
        f"  pairs/s: earlier {len(chosen) / old:.0f}, now {len(rows) / new:.0f} ({(values > -1).mean():.0%} of them "
        "compared in detail)"
    )


def by_vectors(cohort: Cohort, originals: Sequence[Pixels], n: int = 24, n_null: int = 100) -> None:
    """`near`'s comparison: far copies against pairs of different patients with the most similar hashes."""
    frame = cohort.frame
    frame = frame[frame["how"] == ""]
    hashes = np.array([int(text, 16) for text in frame["perceptual_hash"]], dtype=np.uint64)
    patients = frame["patient_source_id"].to_numpy()
    rng = np.random.default_rng(2)
    null, failed, before = [], 0, time.process_time()
    for i in rng.permutation(len(frame))[:n_null].tolist():
        distance = np.bitwise_count(hashes ^ hashes[i]).astype(int) + 65 * (patients == patients[i])
        match = related(cohort.pixels[i], cohort.pixels[int(distance.argmin())])
        failed += match is None
        null += [] if match is None else [match.agreement]
    spent = time.process_time() - before
    limits = copy_limits(null, len(frame))
    shown = f"{np.median(null):.2f}, highest {max(null):.2f}" if null else "–"
    print(
        f"  near: {len(null)} of {n_null} pairs of different patients registered, median agreement {shown}; copy from "
        f"{limits.copy:.3f}, {n_null / spent:.0f} pairs/s; found",
        end=" ",
    )
    parts = []
    for how, change in FAR.items():
        values = []
        for i in rng.permutation(len(originals))[:n].tolist():
            match = related(cohort.pixels[i], as_prepared(change(originals[i]), SIZE_PX, QUALITY))
            values.append(-1.0 if match is None else match.agreement)
        parts.append(
            f"{how} {np.mean(np.array(values) >= limits.copy):.2f} (10 % quantile {np.quantile(values, 0.1):.2f})"
        )
    print(", ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--patients", type=int, default=110)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--copies", type=int, default=180)
    parser.add_argument("--only", choices=["phantom", "ct", "ultrasound"])
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    if asked.only in (None, "phantom"):
        report("phantom heads", phantom(asked.patients, asked.levels), asked.copies)
    if asked.data and asked.only in (None, "ct"):
        report("CT slices", ct_slices(asked.data), 54)
    if asked.data and asked.only in (None, "ultrasound"):
        report("ultrasound", ultrasound(asked.data), 90)


if __name__ == "__main__":
    main()
