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

from pellucid.cohort.duplicates.near_duplicates import (
    BLOCK,
    MIN_CORRELATION,
    THUMBNAIL_PX,
    Groups,
    StructureCache,
    Thumbnails,
    blocks,
    join_near,
)

__all__ = ["THUMBNAIL_PX", "Duplicates", "Thumbnails", "binding", "duplicate_sentences", "find_duplicates"]

MAX_BOUND = 10  # patients; a picture of more is not a patient's
_WORDS = {
    "exact": "byte-identical copies of",
    "pixels": "in their pixels identical to",
    "near": "nearly the same picture as",
}


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        columns: `duplicate_of`, `duplicate_kind` and `duplicate_group` for each row given, all "" where there is none.
            `duplicate_of` is the first image, in the order given, with the same bytes (`exact`), the same pixels
            (`pixels`), or of the same group (`near`); the first image of a group has a group and no kind.
        blank: groups of pictures without content (black, white): marked, but they say nothing of a patient.
        capped: images that were not compared with all candidates, because too many different pictures share their hash.
        near_searched: whether near duplicates were looked for at all.
    """

    columns: pd.DataFrame
    blank: frozenset[str]
    capped: int
    near_searched: bool


def find_duplicates(
    images: pd.DataFrame,
    thumbnails: Thumbnails | None = None,
    *,
    max_distance: int | None = None,
    min_correlation: float = MIN_CORRELATION,
) -> Duplicates:
    """Group the readable images that show the same picture.

    Args:
        images: rows of the one pass: `image_id`, `sha256`, `status` and, where there are, `frame`, `pixel_hash` (text)
            and `perceptual_hash` (16 hexadecimal digits); "" is not known.
        thumbnails: gives small gray copies; without it near duplicates are not looked for.
        max_distance: in bits, at most 11: pictures whose hashes differ by more are never compared. None: 10, and 7
            among more than 200,000 different hashes.
        min_correlation: see `correlation`.

    A pair is near when its hashes differ in at most `max_distance` bits *and* the fine structure of the thumbnails
    agrees. Pairs are found by multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012): of two hashes that differ in
    at most 4 r + 3 bits, one of their four 16-bit pieces differs in at most r. A chain of neighbours is one group.
    """
    usable = images[images["status"] == "ok"]
    ids = usable["image_id"].to_numpy(dtype=object)
    exact = _codes(usable["sha256"], usable.get("frame"))  # all frames of a file have its sha256
    pixels = _codes(usable["pixel_hash"]) if "pixel_hash" in usable else np.full(len(usable), -1)
    groups = Groups(len(usable))
    for codes in (exact, pixels):
        groups.join_equal(codes)
    blank_roots: set[int] = set()
    capped = 0
    searched = thumbnails is not None and "perceptual_hash" in usable
    if searched:
        assert thumbnails is not None
        structures = StructureCache(ids, thumbnails)
        repeated = [root for root, n in zip(*np.unique(groups.roots(), return_counts=True), strict=True) if n > 1]
        for block in blocks(repeated, BLOCK):
            shown = structures(block)
            blank_roots |= {root for root in block if shown[root] is None}
        first = np.unique(groups.roots())  # one image of each picture is enough
        texts = usable["perceptual_hash"].tolist()
        hashed = [i for i in first.tolist() if _is_hash(texts[i])]
        hashes = np.array([int(texts[i], 16) for i in hashed], dtype=np.uint64)
        capped = join_near(groups, np.array(hashed, dtype=np.int64), hashes, structures, max_distance, min_correlation)
    columns, blank = _columns(ids, groups.roots(), exact, pixels, blank_roots)
    columns.index = usable.index
    return Duplicates(columns.reindex(images.index, fill_value=""), blank, capped, searched)


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


def shared_pictures(manifest: pd.DataFrame) -> dict[str, list[str]]:
    """Duplicate group → the patients (column `patient_source_id`) who share its picture; only groups of several."""
    usable = manifest[(manifest["status"] == "ok") & (manifest["duplicate_group"] != "")]
    of_group = usable.groupby("duplicate_group")["patient_source_id"].unique()
    return {str(g): sorted(map(str, patients)) for g, patients in of_group.items() if len(patients) > 1}


def binding(manifest: pd.DataFrame, found: Duplicates) -> list[list[str]]:
    """Groups of patients (`patient_source_id`) whom a shared picture binds to one side of the split.

    A blank picture binds nobody, and neither does one that more than ten patients share: that is a test chart or
    a logo, and binding hundreds of patients by it would leave no split. `duplicate_sentences` says so.
    """
    shared = shared_pictures(manifest)
    return [who for group, who in shared.items() if group not in found.blank and len(who) <= MAX_BOUND]


def duplicate_sentences(manifest: pd.DataFrame, found: Duplicates, split_column: str | None) -> list[str]:
    """What must be looked at, in sentences; patients by research id, files only as an example in parentheses.

    Args:
        manifest: with `patient`, `split` and the columns of `found`.
        found: as `find_duplicates` gave it.
        split_column: name of the table's own split column, where one decided.
    """
    usable = manifest[manifest["status"] == "ok"]
    copies = usable[usable["duplicate_of"] != ""]
    said = []
    shared = shared_pictures(manifest)
    if len(copies):
        counts = copies["duplicate_kind"].value_counts()
        parts = [f"{counts[kind]} file(s) are {words} another" for kind, words in _WORDS.items() if kind in counts]
        sentence = "images: " + ", ".join(parts)
        telling = [group for group in shared if group not in found.blank]
        if telling:
            sentence += (
                f"; {len(telling)} of these groups lie across different patients{_patients(usable, telling)}: look at "
                f"them, one of them has the wrong patient, or two ids are one person{_example(usable, telling[0])}"
            )
        said.append(sentence + " (`duplicate_of` in manifest.parquet)")
    blank = usable[usable["duplicate_group"].isin(found.blank)]
    if len(blank):
        said.append(
            f"images: {len(blank)} file(s) of {blank['patient'].nunique()} patient(s) are blank pictures that repeat "
            f"one another{_example(usable, str(blank['duplicate_group'].iloc[0]))}: they say nothing of a patient; "
            "remove them"
        )
    wide = [group for group, who in shared.items() if group not in found.blank and len(who) > MAX_BOUND]
    if wide and not split_column:
        said.append(
            f"images: {len(wide)} image(s) are shared by more than {MAX_BOUND} patients each (up to "
            f"{max(len(shared[group]) for group in wide)}){_example(usable, wide[0])}: test charts or logos, it seems, "
            "so these patients are not kept on one side of the split for their sake; remove such pictures"
        )
    sides = usable[usable["duplicate_group"] != ""].groupby("duplicate_group")["split"].nunique()
    torn = [str(group) for group in sides.index[sides > 1] if group not in found.blank and group not in wide]
    if torn:
        said.append(
            f"split column `{split_column}`: {len(torn)} group(s) of duplicates are on two sides"
            f"{_patients(usable, torn, sides=True)}: the column is kept as it is, so what is tested there was seen in "
            f"training; correct the column, or read the results with that in mind{_example(usable, torn[0])}"
        )
    if found.capped:
        said.append(
            f"images: near duplicates of {found.capped} image(s) were not looked for among all others, because too "
            "many different pictures share their perceptual hash"
        )
    return said


def _patients(usable: pd.DataFrame, groups: list[str], sides: bool = False) -> str:
    """` (P0001 and P0007; P0003 and P0004; …)`, by research id."""
    shown = []
    for group in groups[:3]:
        rows = usable[usable["duplicate_group"] == group].drop_duplicates("patient").head(3)
        names = [f"{p} in {s}" if sides else str(p) for p, s in zip(rows["patient"], rows["split"], strict=True)]
        shown.append(" and ".join(names))
    return f" ({'; '.join(shown)}{'; …' if len(groups) > 3 else ''})"


def _example(usable: pd.DataFrame, group: str) -> str:
    """For the terminal only: the form that `pellucid.explore.study_findings` takes out."""
    rows = usable[usable["duplicate_group"] == group].drop_duplicates("patient")["image_id"].head(2)
    return f" (first: `{' = '.join(rows)}`)"
