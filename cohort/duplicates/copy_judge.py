"""Whether two images of a study are copies: their small gray copies are fetched, compared, and judged by the study's
own null distribution."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.duplicates.copy_limits import MIN_QUESTION, CopyLimits, Verdict, copy_limits
from pellucid.cohort.duplicates.fine_structure import Structure, fine_structure, shifted_correlation
from pellucid.cohort.duplicates.local_agreement import registered_agreement

Thumbnails = Callable[[Sequence[str]], NDArray[np.uint8]]
"""Image ids → (n, 128, 128) uint8, gray, each the whole image stretched onto the square."""

THUMBNAIL_PX = 128
MIN_SPREAD = 3.0  # gray levels (standard deviation): an image with less shows nothing that could be recognised
ALIKE = 0.6  # correlation of the fine structure from which a pair is compared in detail; 5 % cropped: 0.64
MOST_QUESTIONS = 1_000  # kept, the most alike first
_NULL_IMAGES, _NULL_RANKS = 200, (1, 2)  # their second and third most similar patients
_NULL_NEAREST = 1_000  # images among which these are looked for
_COARSE_PX = 64


@dataclass(frozen=True)
class Shown:
    """What a thumbnail shows: the thumbnail (128, 128), and its fine structure at half the size."""

    gray: NDArray[np.uint8]
    structure: Structure


def shown(thumbnail: NDArray[np.uint8]) -> Shown | None:
    """None for an image without content."""
    if thumbnail.std() < MIN_SPREAD:
        return None
    coarse = cv2.resize(thumbnail, (_COARSE_PX, _COARSE_PX), interpolation=cv2.INTER_AREA)
    return Shown(thumbnail, fine_structure(np.asarray(coarse, dtype=np.uint8)))


def agreement(first: Shown, second: Shown, alike: float = ALIKE) -> float:
    """How far two images agree in their details after registration, −1 to 1; −1 where they are not even alike.

    Most candidates are not alike, and the cheap comparison settles those.

    Args:
        alike: least correlation of the fine structures.
    """
    coarse, (x, y) = shifted_correlation(first.structure, second.structure)
    if coarse < alike:
        return -1.0
    scale = THUMBNAIL_PX / _COARSE_PX
    move = np.array([[1, 0, x * scale], [0, 1, y * scale]], dtype=np.float32)
    return registered_agreement(first.gray, second.gray, move)


class CopyJudge:
    """Judges pairs of rows, fetching thumbnails a block at a time."""

    def __init__(
        self,
        ids: NDArray[np.object_],
        thumbnails: Thumbnails,
        patients: NDArray[np.int64],
        null_pairs: Callable[[], Sequence[tuple[int, int]]] = tuple,
        n_images: int = 1,
    ) -> None:
        """
        Args:
            ids: image id of each row.
            thumbnails: gives small gray copies.
            patients: code of the patient of each row.
            null_pairs: gives rows of different patients at the same place, from which the limits are computed.
            n_images: images compared.

        `judged` is whether any pair was alike enough for the limits to be needed, `detailed` the number of pairs that
        were alike enough to be compared in detail.
        """
        self.ids, self.thumbnails, self.patients = ids, thumbnails, patients
        self.null_pairs, self.n_images = null_pairs, n_images
        self.judged, self.detailed = False, 0
        self._held: dict[int, Shown | None] = {}
        self._questions: list[tuple[float, int, int]] = []  # a heap, the least alike first

    def fetch(self, rows: Iterable[int]) -> dict[int, Shown | None]:
        """What rows show, None for an image without content; held until the next block is fetched."""
        wanted = sorted(set(rows))
        self._held = {i: self._held[i] for i in wanted if i in self._held}
        self._add([i for i in wanted if i not in self._held])
        return self._held

    def _add(self, rows: Sequence[int]) -> None:
        if rows:
            small = self.thumbnails([str(self.ids[i]) for i in rows])
            self._held |= {i: shown(image) for i, image in zip(rows, small, strict=True)}

    def agreement(self, i: int, j: int) -> float:
        """Agreement of two rows, the earlier as the first; thumbnails that are not held are added."""
        self._add([row for row in (i, j) if row not in self._held])
        first, second = self._held[min(i, j)], self._held[max(i, j)]
        return -1.0 if first is None or second is None else agreement(first, second)

    @cached_property
    def limits(self) -> CopyLimits:
        """Limits of this study; computed when the first pair needs them."""
        held = self._held
        null = []
        pairs = self.null_pairs()
        for start in range(0, len(pairs), _NULL_IMAGES):
            part = pairs[start : start + _NULL_IMAGES]
            self.fetch({row for pair in part for row in pair})
            null += [self.agreement(i, j) for i, j in part]
        self._held = held
        return copy_limits([value for value in null if value > -1], self.n_images)

    def judge(self, i: int, j: int) -> Verdict:
        """What the pair is; a question is kept."""
        value = self.agreement(i, j)
        self.detailed += value > -1
        if value < MIN_QUESTION:
            return "different"
        self.judged = True
        verdict = self.limits.verdict(value)
        if verdict == "question":
            self.ask(i, j, value)
        return verdict

    def is_copy(self, i: int, j: int) -> bool:
        return self.judge(i, j) == "copy"

    def ask(self, i: int, j: int, value: float | None = None) -> None:
        """Keep a pair as a question, if it is of two patients; `value`: its agreement, if already known."""
        if self.patients[i] == self.patients[j]:
            return
        item = (self.agreement(i, j) if value is None else value, -min(i, j), -max(i, j))
        if len(self._questions) < MOST_QUESTIONS:
            heapq.heappush(self._questions, item)
        else:
            heapq.heappushpop(self._questions, item)

    def questions(self) -> list[tuple[int, int, float]]:
        """(row, other row, agreement), the most alike first."""
        return [(-i, -j, value) for value, i, j in sorted(set(self._questions), reverse=True)]


def null_pairs(
    hashes: NDArray[np.uint64], rows: NDArray[np.int64], patients: NDArray[np.int64], seed: int = 0
) -> list[tuple[int, int]]:
    """Pairs of rows of different patients at the same place, as far as hashes tell it.

    200 images at random, each with the most similar image (by the hash) of the patients ranked second and third. The
    most similar patient is left out: if there is a copy, it is there.

    Args:
        hashes, rows, patients: perceptual hash, row and code of the patient of each image, (n,).
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    pairs: dict[tuple[int, int], None] = {}
    nearest = min(_NULL_NEAREST, len(hashes) - 1)
    for k in rng.permutation(len(hashes))[:_NULL_IMAGES].tolist():
        distance = np.bitwise_count(hashes ^ hashes[k])
        distance[patients == patients[k]] = 65
        close = np.argpartition(distance, nearest)[: nearest + 1]
        close = close[np.lexsort((close, distance[close]))]
        close = close[distance[close] <= 64]
        _, first = np.unique(patients[close], return_index=True)
        for other in close[np.sort(first)][list(_NULL_RANKS) if len(first) > max(_NULL_RANKS) else []].tolist():
            i, j = sorted((int(rows[k]), int(rows[other])))
            pairs[i, j] = None
    return list(pairs)
