"""Near duplicates: pairs of pictures whose perceptual hashes are close, verified on small gray copies of both.

`pellucid.cohort.duplicates.duplicate_groups` says what is made of them. Nothing here needs n × n comparisons or all
thumbnails at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Structure = NDArray[np.float32]
Thumbnails = Callable[[Sequence[str]], NDArray[np.uint8]]
"""Image ids → (n, 64, 64) uint8, gray, each the whole picture stretched onto the square."""

THUMBNAIL_PX = 64
MAX_DISTANCE = 10  # bits of 64 that the perceptual hashes of near duplicates may differ in …
MAX_DISTANCE_MANY = 7  # … and among more than `_MANY` different hashes, where a wider search would take hours
MIN_CORRELATION = 0.85  # of the fine structure of two pictures that count as one; docs/splits.md says why
MIN_SPREAD = 3.0  # gray levels (standard deviation): a picture with less shows nothing that could be recognised
BLOCK = 2_048  # pairs whose thumbnails are in memory together
_MANY = 200_000
_PIECES, _PIECE_BITS = 4, 16
_MAX_BUCKET = 2_000  # hashes that share a piece; more are not compared on it
_MAX_LEADERS = 32  # different images with the same hash that are kept apart
_BLOCK_HASHES = 4_000_000  # pairs of hashes compared at a time
_SHIFT_PX = 3


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How far two thumbnails (64, 64) show the same fine structure, −1 to 1; higher is more alike.

    What ultrasound images of one scanner, or slices of one region, have in common is coarse: where it is dark, where
    the field ends. So each picture is freed of its coarse structure and its local contrast (difference of a Gaussian
    blur of 1 and of 4 pixels, over the local standard deviation) before the normalised cross-correlation is taken, at
    the best shift of up to 3 pixels, so that a cropped border costs little.
    """
    return _shifted_correlation(fine_structure(first), fine_structure(second))


def fine_structure(gray: NDArray[np.uint8], fine_px: float = 1, coarse_px: float = 4, local_px: float = 6) -> Structure:
    """A grey image (h, w) without its coarse structure and its local contrast, (h, w) float32.

    Args:
        fine_px, coarse_px: standard deviations of the two Gaussian blurs whose difference is the band-pass.
        local_px: standard deviation of the Gaussian window of the local contrast.
    """
    values = gray.astype(np.float32)
    band = cv2.GaussianBlur(values, (0, 0), fine_px) - cv2.GaussianBlur(values, (0, 0), coarse_px)
    contrast = np.sqrt(cv2.GaussianBlur(band * band, (0, 0), local_px))
    return np.asarray(band / (contrast + 2.0), dtype=np.float32)  # 2 grey levels: noise in empty borders stays small


def structure_correlation(first: Structure, second: Structure, inside: NDArray[np.bool_]) -> float:
    """Pearson correlation of two structures (h, w) over a mask (h, w), −1 to 1; 0 where one of them is constant."""
    a, b = first[inside], second[inside]
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _shifted_correlation(a: Structure, b: Structure) -> float:
    """Normalised cross-correlation of two structures at the best shift of up to `_SHIFT_PX`."""
    inner = b[_SHIFT_PX:-_SHIFT_PX, _SHIFT_PX:-_SHIFT_PX]
    if a.std() == 0 or inner.std() == 0:  # OpenCV calls a flat template a perfect match
        return 0.0
    return float(cv2.matchTemplate(a, inner, cv2.TM_CCOEFF_NORMED).max())


def join_near(
    groups: Groups,
    rows: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    structures: StructureCache,
    max_distance: int | None,
    min_correlation: float,
) -> int:
    """Join what is nearly the same; returns how many images were not compared with all candidates."""
    distinct, of_hash = np.unique(hashes, return_inverse=True)
    if max_distance is None:
        max_distance = MAX_DISTANCE if len(distinct) <= _MANY else MAX_DISTANCE_MANY
    members = rows[np.argsort(of_hash, kind="stable")]
    ends = np.cumsum(np.bincount(of_hash, minlength=len(distinct)))
    starts = np.concatenate([[0], ends[:-1]])
    leaders: dict[int, list[int]] = {}
    capped = 0
    for code in np.flatnonzero(ends - starts > 1).tolist():  # one hash: each against the first of each picture
        leaders[code], left = _lead(groups, members[starts[code] : ends[code]].tolist(), structures, min_correlation)
        capped += left

    def shown_by(code: int) -> list[int]:
        return leaders[code] if code in leaders else [int(members[starts[code]])]

    crowded = np.zeros(len(distinct), dtype=bool)
    found = candidate_pairs(distinct, max_distance, crowded)
    for block in blocks(((a, b) for i, j in found for a in shown_by(i) for b in shown_by(j)), BLOCK):
        pairs = [(a, b) for a, b in block if groups.root(a) != groups.root(b)]
        shown = structures({i for pair in pairs for i in pair})
        for a, b in pairs:
            if groups.root(a) != groups.root(b) and _same(shown[a], shown[b], min_correlation):
                groups.join(a, b)
    return capped + int(crowded[of_hash].sum())


def _lead(
    groups: Groups, members: list[int], structures: StructureCache, min_correlation: float
) -> tuple[list[int], int]:
    """Among images of one hash, the first of each different picture, and how many were left uncompared."""
    leaders: dict[int, Structure] = {}
    left = 0
    for block in blocks(members, BLOCK):
        shown = structures(block)
        for i in block:
            mine = shown[i]
            if mine is None:
                continue
            like = next((leader for leader, its in leaders.items() if _same(its, mine, min_correlation)), None)
            if like is not None:
                groups.join(like, i)
            elif len(leaders) < _MAX_LEADERS:
                leaders[i] = mine
            else:
                left += 1
    return list(leaders), left


def _same(first: Structure | None, second: Structure | None, min_correlation: float) -> bool:
    return first is not None and second is not None and _shifted_correlation(first, second) >= min_correlation


def candidate_pairs(
    hashes: NDArray[np.uint64], max_distance: int, crowded: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Pairs of positions (the smaller first), each once, whose hashes differ in at most `max_distance` bits.

    Where more than `_MAX_BUCKET` hashes share one value of a piece, they are not compared by that piece, and are marked
    in `crowded`.
    """
    radius = max_distance // _PIECES
    if not 0 <= radius <= 2:
        raise ValueError(f"max_distance is {max_distance}; pairs are looked for from 0 to 11 bits")
    flips = [flip for flip in range(2**_PIECE_BITS) if flip.bit_count() <= radius]
    pieces = [_piece(hashes, k) for k in range(_PIECES)]
    for k, piece in enumerate(pieces):
        order = np.argsort(piece, kind="stable")
        value = piece[order]
        size = np.bincount(value, minlength=2**_PIECE_BITS)
        start = np.cumsum(size) - size
        crowded |= size[piece] > _MAX_BUCKET
        size = np.where(size > _MAX_BUCKET, 0, size)
        for flip in flips:
            other = value ^ flip
            here = np.flatnonzero((size[value] > 0) & (size[other] > 0) & (other >= value))  # two buckets meet once
            for part in np.split(here, _cuts(size[other[here]])):
                counts = size[other[part]]
                left = np.repeat(part, counts)
                right = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
                right += np.repeat(start[other[part]], counts)
                if flip == 0:
                    left, right = left[left < right], right[left < right]
                i, j = order[left], order[right]
                differ = hashes[i] ^ hashes[j]
                near = np.bitwise_count(differ) <= max_distance
                for earlier in range(k):  # found there already
                    near &= np.bitwise_count(_piece(differ, earlier)) > radius
                yield from zip(np.minimum(i, j)[near].tolist(), np.maximum(i, j)[near].tolist(), strict=True)


def _piece(hashes: NDArray[np.uint64], k: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(_PIECE_BITS * k)) & np.uint64(2**_PIECE_BITS - 1)).astype(np.int64)


def _cuts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut so that about `_BLOCK_HASHES` pairs fall into each part."""
    block = np.cumsum(counts) // _BLOCK_HASHES
    return np.flatnonzero(np.diff(block)) + 1


class Groups:
    """Union-find over rows; the root of a group is its first row."""

    def __init__(self, n: int) -> None:
        self.parent = np.arange(n)

    def root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = int(self.parent[i])
        return i

    def join(self, i: int, j: int) -> None:
        a, b = self.root(i), self.root(j)
        self.parent[max(a, b)] = min(a, b)

    def join_equal(self, codes: NDArray[np.int64]) -> None:
        """Join rows of one code; −1 is none."""
        first: dict[int, int] = {}
        for i in np.flatnonzero(codes >= 0).tolist():
            self.join(first.setdefault(int(codes[i]), i), i)

    def roots(self) -> NDArray[np.int64]:
        return np.array([self.root(i) for i in range(len(self.parent))], dtype=np.int64)


class StructureCache:
    """What rows show, fetched a block at a time: the fine structure, or None for a picture without content."""

    def __init__(self, ids: NDArray[np.object_], thumbnails: Thumbnails) -> None:
        self.ids, self.thumbnails = ids, thumbnails

    def __call__(self, rows: Iterable[int]) -> dict[int, Structure | None]:
        wanted = sorted(set(rows))
        if not wanted:
            return {}
        small = self.thumbnails([str(self.ids[i]) for i in wanted])
        return {
            i: fine_structure(image) if image.std() >= MIN_SPREAD else None
            for i, image in zip(wanted, small, strict=True)
        }


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    block: list[T] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
