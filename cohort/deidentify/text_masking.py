"""Burned-in text: where it stands in a picture, which of it must go, and what stands there afterwards."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.identifiers import ocr
from pellucid.cohort.identifiers.text_growth import whole_lines
from pellucid.cohort.images.pixels import Box

_DATE = re.compile(r"(?<!\d)(\d{1,4}[./\- ]\d{1,2}[./\- ]\d{2,4}|(19|20)\d{6})(?!\d)")
_NUMBER = re.compile(r"\d{5,}")  # five digits in a row are more than a depth, a gain or a frequency
_MIN_CONFIDENCE = 0.3  # lower than for reading: what may be text is masked even if it cannot be read
_BOTH_SIDES_PX = 2
_FEWEST_LETTERS = 3
_SURELY_READ = 0.8
_LARGEST_CHARACTER = 0.1  # of the picture's shorter side: a single one that is larger is an organ or a bone
_LARGEST_LINE = 0.25  # likewise, of several characters that are not surely read


@dataclass(frozen=True)
class TextFinder:
    """How burned-in text is found and which of it is masked.

    Attributes:
        how: `ocr` reads it; `lines` knows it by its form only (`pellucid.cohort.identifiers.text_growth.whole_lines`).
        mask: `all` text, or only what is `identifying`: it holds an identifier of the study, a date or a long number,
            or could not be read well.
        everyone: words of the ids of all patients, in the form of `plain_text`.
    """

    how: Literal["ocr", "lines"]
    mask: Literal["all", "identifying"]
    everyone: frozenset[str] = field(default=frozenset(), repr=False)

    def boxes(self, pictures: Iterable[NDArray[np.uint8]], identifiers: Iterable[str]) -> list[Box]:
        """Boxes to mask, padded, for several views of one picture (or its frames): each box holds for all of them.

        Args:
            pictures: (H, W, 3) uint8 RGB, all of one size.
            identifiers: names and ids of this patient.
        """
        found: set[Box] = set()
        words = _words(identifiers)
        for picture in pictures:
            height, width = picture.shape[:2]
            if self.how == "lines":
                lines = whole_lines(picture)
            else:
                read = _reader().read_text(picture)
                shapes = [line.box for line in read if _is_shape(line, min(height, width))]
                read = [line for line in read if line.box not in shapes]
                lines = [line.box for line in read if self.mask == "all" or self._identifying(line, words)]
                if shapes:  # the reader may have joined text with the shape around it
                    lines += [box for box in whole_lines(picture) if any(_meet(box, shape) for shape in shapes)]
            found.update(_padded(box, width, height) for box in lines)
        return sorted(found)

    def _identifying(self, line: ocr.TextBox, words: set[str]) -> bool:
        plain = plain_text(line.text)
        tokens, joined = set(plain.split()), plain.replace(" ", "")
        if line.confidence < _SURELY_READ or _DATE.search(line.text) or _NUMBER.search(joined):
            return True
        if tokens & self.everyone or joined in self.everyone:
            return True
        return any(word in joined or any(_nearly(word, token) for token in tokens) for word in words)


def _is_shape(line: ocr.TextBox, shorter_px: int) -> bool:
    """Whether the reader took a large shape for characters: a body in cross-section for an O, or for CO."""
    size = min(line.box[2:]) / shorter_px
    surely = line.confidence >= _SURELY_READ
    return size > (_LARGEST_CHARACTER if len(line.text.strip()) == 1 else np.inf if surely else _LARGEST_LINE)


def _meet(box: Box, other: Box) -> bool:
    (x, y, w, h), (left, top, width, height) = box, other
    return x < left + width and left < x + w and y < top + height and top < y + h


def _reader() -> ocr.TextReader:
    return ocr.TextReader(min_confidence=_MIN_CONFIDENCE)


def _words(identifiers: Iterable[str]) -> set[str]:
    """The parts of names and ids that are long enough to mean something."""
    parts = {part for text in identifiers for part in plain_text(text).split()}
    whole = {plain_text(text).replace(" ", "") for text in identifiers}
    return {part for part in parts | whole if len(part) >= _FEWEST_LETTERS}


def plain_text(text: str) -> str:
    """Lower case without accents; everything but letters and digits becomes a space."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(re.sub(r"[^0-9a-z]+", " ", bare.casefold()).split())


def _nearly(word: str, token: str) -> bool:
    """Whether a word was read with at most one wrong, missing or extra character (words of five or more)."""
    if len(word) < 5 or abs(len(word) - len(token)) > 1:
        return False
    start = 0
    while start < min(len(word), len(token)) and word[start] == token[start]:
        start += 1
    rest, other = word[start:], token[start:]
    return rest[1:] == other[1:] or rest[1:] == other or rest == other[1:]


def _padded(box: Box, width: int, height: int) -> Box:
    x, y, w, h = box
    pad = max(_BOTH_SIDES_PX, round(0.15 * h))
    left, top = max(0, x - pad), max(0, y - pad)
    return left, top, min(width, x + w + pad) - left, min(height, y + h + pad) - top


def fill(pixels: NDArray[Any], boxes: Iterable[Box]) -> None:
    """Fill boxes, in place, with the commonest value of what surrounds each: one constant, and a value of the picture.

    Args:
        pixels: (H, W) or (H, W, C), any dtype; palette indices too.
    """
    for x, y, w, h in boxes:
        around = pixels[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1]
        rim = np.ones(around.shape[:2], bool)
        inner_y, inner_x = y - max(0, y - 1), x - max(0, x - 1)
        rim[inner_y : inner_y + h, inner_x : inner_x + w] = False
        values = around[rim]
        if len(values):
            kinds, counts = np.unique(values, axis=0, return_counts=True)
            pixels[y : y + h, x : x + w] = kinds[counts.argmax()]
        else:  # the box is the whole picture
            pixels[y : y + h, x : x + w] = 0
