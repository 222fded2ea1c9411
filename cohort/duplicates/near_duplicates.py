"""Near duplicates: pairs of pictures whose perceptual hashes are close, judged on small gray copies of both.

`pellucid.cohort.duplicates.duplicate_groups` says what is made of them. Nothing here needs n × n comparisons or all
thumbnails at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.duplicates.copy_judge import CopyJudge
from pellucid.cohort.duplicates.star_groups import Groups, StarGroups

T = TypeVar("T")

MAX_DISTANCE = 10  # bits of 64 that the perceptual hashes of near duplicates may differ in …
MAX_DISTANCE_MANY = 7  # … and among more than `_MANY` different hashes, where a wider search would take hours
BLOCK = 1_024  # pairs whose thumbnails are in memory together
_MANY = 200_000
_PIECES, _PIECE_BITS = 4, 16
_MAX_BUCKET = 2_000  # hashes that share a piece; more are not compared on it
_MAX_LEADERS = 32  # different images with the same hash that are kept apart
MOST_COMPARED = 300  # detailed comparisons (1.5 ms each) of an image, after which it is left to those with fewer
_CHEAP = 0.1  # what a comparison counts that ends with the coarse structure
_BLOCK_HASHES = 4_000_000  # pairs of hashes compared at a time


def join_near(
    groups: Groups, rows: NDArray[np.int64], hashes: NDArray[np.uint64], judge: CopyJudge, max_distance: int | None
) -> int:
    """Join copies; returns how many images were not compared with all candidates.

    A group is a star: every image in it is a copy of its first image. Copies whose groups do not fit are questions.
    The nearest hashes are compared first. Two images that have both been compared `MOST_COMPARED` times are not: in a
    study of one view, all images would be candidates of all others.
    """
    distinct, of_hash = np.unique(hashes, return_inverse=True)
    if max_distance is None:
        max_distance = MAX_DISTANCE if len(distinct) <= _MANY else MAX_DISTANCE_MANY
    members = rows[np.argsort(of_hash, kind="stable")]
    ends = np.cumsum(np.bincount(of_hash, minlength=len(distinct)))
    starts = np.concatenate([[0], ends[:-1]])
    stars = StarGroups(judge.is_copy)
    leaders: dict[int, list[int]] = {}
    capped = 0
    for code in np.flatnonzero(ends - starts > 1).tolist():  # one hash: each against the first of each picture
        leaders[code], left = _lead(stars, members[starts[code] : ends[code]].tolist(), judge)
        capped += left

    def shown_by(code: int) -> list[int]:
        return leaders[code] if code in leaders else [int(members[starts[code]])]

    crowded = np.zeros(len(distinct), dtype=bool)
    spent = np.zeros(len(judge.ids))
    left_out: set[int] = set()

    def worth(a: int, b: int) -> bool:
        if stars.settled(a, b):
            return False
        if min(spent[a], spent[b]) < MOST_COMPARED:
            return True
        left_out.update((a, b))
        return False

    found = nearest_first(distinct, max_distance, crowded)
    for block in blocks(((a, b) for i, j in found for a in shown_by(i) for b in shown_by(j)), BLOCK):
        pairs = [(a, b) for a, b in block if worth(a, b)]
        judge.fetch({i for pair in pairs for i in pair})
        for a, b in pairs:
            if not worth(a, b):
                continue
            before = judge.detailed
            copy = judge.is_copy(a, b)
            spent[[a, b]] += 1.0 if judge.detailed > before else _CHEAP
            if copy and not stars.join(a, b):
                judge.ask(a, b)
    for first, group in stars.stars().items():
        for member in group:
            groups.join(first, member)
    return capped + len({*left_out, *rows[crowded[of_hash]].tolist()})


def _lead(stars: StarGroups, members: list[int], judge: CopyJudge) -> tuple[list[int], int]:
    """Among images of one hash, the first of each different picture, and how many were left uncompared."""
    leaders: list[int] = []
    left = 0
    for block in blocks(members, BLOCK):
        shown = judge.fetch([*leaders, *block])
        for i in block:
            if shown[i] is None:
                continue
            like = next((leader for leader in leaders if judge.is_copy(leader, i)), None)
            if like is not None:
                stars.join(like, i)
            elif len(leaders) < _MAX_LEADERS:
                leaders.append(i)
            else:
                left += 1
    return leaders, left


def nearest_first(
    hashes: NDArray[np.uint64], max_distance: int, crowded: NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """The pairs of `candidate_pairs`, in steps of distance: 0 to 3, 4 to 7, 8 to 11 bits."""
    steps = [*range(_PIECES - 1, max_distance, _PIECES), max_distance]
    for before, until in zip([-1, *steps], steps, strict=False):
        yield from candidate_pairs(hashes, until, crowded, before)


def candidate_pairs(
    hashes: NDArray[np.uint64], max_distance: int, crowded: NDArray[np.bool_], beyond: int = -1
) -> Iterator[tuple[int, int]]:
    """Pairs of positions (the smaller first), each once, whose hashes differ in at most `max_distance` bits, and more
    than `beyond`.

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
                distance = np.bitwise_count(differ)
                near = (distance <= max_distance) & (distance.astype(np.int64) > beyond)
                for earlier in range(k):  # found there already
                    near &= np.bitwise_count(_piece(differ, earlier)) > radius
                yield from zip(np.minimum(i, j)[near].tolist(), np.maximum(i, j)[near].tolist(), strict=True)


def _piece(hashes: NDArray[np.uint64], k: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(_PIECE_BITS * k)) & np.uint64(2**_PIECE_BITS - 1)).astype(np.int64)


def _cuts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut so that about `_BLOCK_HASHES` pairs fall into each part."""
    block = np.cumsum(counts) // _BLOCK_HASHES
    return np.flatnonzero(np.diff(block)) + 1


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    block: list[T] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
