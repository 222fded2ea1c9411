"""Pictures that occur more than once: the same bytes, the same pixels in another container, or nearly the same picture.

Works on the rows of the one pass (hashes) and, for near duplicates, on small gray copies of the candidates only.
Nothing is dropped: the manifest says of each image what it repeats, and patients who share a picture are bound
together by the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.duplicates.copy_judge import THUMBNAIL_PX, CopyJudge, Thumbnails, null_pairs
from pellucid.cohort.duplicates.copy_limits import CopyLimits
from pellucid.cohort.duplicates.near_duplicates import BLOCK, blocks, join_near
from pellucid.cohort.duplicates.star_groups import Groups

__all__ = ["THUMBNAIL_PX", "Duplicates", "Thumbnails", "find_duplicates"]

_NO_LIMITS = CopyLimits(float("nan"), float("nan"), 0, float("nan"))


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        columns: `duplicate_of`, `duplicate_kind`, `duplicate_group` and `duplicate_question` for each row given, all ""
            where there is none. `duplicate_of` is the first image, in the order given, with the same bytes (`exact`),
            the same pixels (`pixels`), or of the same group (`near`); the first image of a group has a group and no
            kind. `duplicate_question` names the pairs of two patients that may or may not be copies, Q0001 and so on,
            the most alike first; of several the names are separated by blanks.
        blank: groups of pictures without content (black, white): marked, but they say nothing of a patient.
        capped: images that were not compared with all candidates, because too many different pictures share their hash.
        near_searched: whether near duplicates were looked for at all.
        limits: from which agreement on a pair is a copy or a question.
    """

    columns: pd.DataFrame
    blank: frozenset[str]
    capped: int
    near_searched: bool
    limits: CopyLimits = _NO_LIMITS


def find_duplicates(
    images: pd.DataFrame, thumbnails: Thumbnails | None = None, *, max_distance: int | None = None
) -> Duplicates:
    """Group the readable images that show the same picture.

    Args:
        images: rows of the one pass: `image_id`, `sha256`, `status` and, where there are, `frame`, `pixel_hash` (text),
            `perceptual_hash` (16 hexadecimal digits) and `patient_source_id` (without it each image is a patient); ""
            is not known.
        thumbnails: gives small gray copies; without it near duplicates are not looked for.
        max_distance: in bits, at most 11: pictures whose hashes differ by more are never compared. None: 10, and 7
            among more than 200,000 different hashes.

    A pair is near when its hashes differ in at most `max_distance` bits *and* the details of the thumbnails agree more
    than those of different patients do (`pellucid.cohort.duplicates.copy_limits`). Pairs are found by multi-index
    hashing (Norouzi, Punjani and Fleet, CVPR 2012): of two hashes that differ in at most 4 r + 3 bits, one of their
    four 16-bit pieces differs in at most r. Each image of a group is equal to, or near, the first image of the group.
    """
    usable = images[images["status"] == "ok"]
    ids = usable["image_id"].to_numpy(dtype=object)
    exact = _codes(usable["sha256"], usable.get("frame"))  # all frames of a file have its sha256
    pixels = _codes(usable["pixel_hash"]) if "pixel_hash" in usable else np.full(len(usable), -1)
    groups = Groups(len(usable))
    for codes in (exact, pixels):
        groups.join_equal(codes)
    blank_roots: set[int] = set()
    capped, limits = 0, _NO_LIMITS
    questions: list[tuple[int, int, float]] = []
    searched = thumbnails is not None and "perceptual_hash" in usable
    if searched:
        assert thumbnails is not None
        first = np.unique(groups.roots())  # one image of each picture is enough
        texts = usable["perceptual_hash"].tolist()
        rows = np.array([i for i in first.tolist() if _is_hash(texts[i])], dtype=np.int64)
        hashes = np.array([int(texts[i], 16) for i in rows], dtype=np.uint64)
        patients = _patients(usable)
        judge = CopyJudge(ids, thumbnails, patients, lambda: null_pairs(hashes, rows, patients[rows]), len(rows))
        repeated = [root for root, n in zip(*np.unique(groups.roots(), return_counts=True), strict=True) if n > 1]
        for block in blocks(repeated, BLOCK):
            shown = judge.fetch(block)
            blank_roots |= {root for root in block if shown[root] is None}
        capped = join_near(groups, rows, hashes, judge, max_distance)
        questions = [pair for pair in judge.questions() if groups.root(pair[0]) != groups.root(pair[1])]
        limits = judge.limits if judge.judged else _NO_LIMITS
    columns, blank = _columns(ids, groups.roots(), exact, pixels, blank_roots)
    columns["duplicate_question"] = _question_names(len(ids), questions)
    columns.index = usable.index
    return Duplicates(columns.reindex(images.index, fill_value=""), blank, capped, searched, limits)


def _patients(usable: pd.DataFrame) -> NDArray[np.int64]:
    """Code of the patient of each row; an image whose patient is not known is a patient."""
    own = pd.Series([f"#{i}" for i in range(len(usable))], index=usable.index)
    known = usable.get("patient_source_id", own)
    return pd.factorize(known.where(known.notna(), own).astype(str))[0].astype(np.int64)


def _question_names(n: int, questions: list[tuple[int, int, float]]) -> list[str]:
    names: list[list[str]] = [[] for _ in range(n)]
    for number, (i, j, _) in enumerate(questions, start=1):
        for row in (i, j):
            names[row].append(f"Q{number:04d}")
    return [" ".join(own) for own in names]


def _codes(values: pd.Series[Any], *more: pd.Series[Any] | None) -> NDArray[np.int64]:
    """Equal texts as equal numbers; −1 where the first text is empty."""
    text = values.fillna("").astype(str)
    key = text
    for other in more:
        if other is not None:
            key = key + "#" + other.fillna("").astype(str)
    codes = pd.factorize(key)[0].astype(np.int64)
    return np.where((text == "").to_numpy(), -1, codes)


def _is_hash(text: object) -> bool:
    if not isinstance(text, str) or len(text) != 16:
        return False
    try:
        int(text, 16)
    except ValueError:
        return False
    return True


def _columns(
    ids: NDArray[np.object_],
    roots: NDArray[np.int64],
    exact: NDArray[np.int64],
    pixels: NDArray[np.int64],
    blank_roots: set[int],
) -> tuple[pd.DataFrame, frozenset[str]]:
    of, kind, group = (np.full(len(ids), "", dtype=object) for _ in range(3))
    firsts, counts = np.unique(roots, return_counts=True)
    repeated = firsts[counts > 1].tolist()
    width = max(4, len(str(len(repeated))))
    name_of = {root: f"D{number:0{width}d}" for number, root in enumerate(repeated, start=1)}
    seen: dict[tuple[str, int], int] = {}
    for i in np.flatnonzero(np.isin(roots, repeated)).tolist():
        group[i] = name_of[int(roots[i])]
        earlier = [
            (what, seen[(what, int(codes[i]))])
            for what, codes in (("exact", exact), ("pixels", pixels))
            if codes[i] >= 0 and (what, int(codes[i])) in seen
        ]
        if i != roots[i]:
            kind[i], first = earlier[0] if earlier else ("near", int(roots[i]))
            of[i] = ids[first]
        for what, codes in (("exact", exact), ("pixels", pixels)):
            if codes[i] >= 0:
                seen.setdefault((what, int(codes[i])), i)
    frame = pd.DataFrame({"duplicate_of": of, "duplicate_kind": kind, "duplicate_group": group})
    return frame, frozenset(name_of[root] for root in repeated if root in blank_roots)
