"""Every identifier of one patient, compared with a text in whatever spelling: other scripts, umlauts, glued words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

_SHORTEST_PART = 4  # a shorter identifier counts only as a whole word
_SHORTEST_NUMBER = 5  # inside an id such as MRN0012345
_SHORTEST_WORD = 2
_IDEOGRAPHS = "\u2e80"  # the first character of Chinese, Japanese and Korean writing
_MOST_WORDS = 6  # of one name that are joined in any order
_LETTERS = {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae", "œ": "oe"}
_PLAIN = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
_CYRILLIC_LATIN = "a b v g d e zh z i y k l m n o p r s t u f kh ts ch sh shch - y - e yu ya i yi ye g"
_CYRILLIC = {
    letter: latin.strip("-")
    for letter, latin in zip("абвгдежзийклмнопрстуфхцчшщъыьэюяіїєґ", _CYRILLIC_LATIN.split(), strict=True)
}
_NUMBERS = re.compile(r"[1-9]\d*")
_TRIPLE = re.compile(r"(?<!\d)(\d{1,4})[-./ ](\d{1,2})[-./ ](\d{1,4})(?!\d)")
_WORDS = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_DAY = re.compile(r"(?<!\d)(?:(\d{4})[-./ ](\d{1,2})[-./ ](\d{1,2})|(\d{1,2})[-./ ](\d{1,2})[-./ ](\d{4}))(?!\d)")
_COMPACT_DAY = re.compile(r"(?<!\d)\d{8}(?!\d)")
_WRITTEN_DAY = re.compile(r"\d{1,2}[-. ]*[^\W\d_]{3,9}[-. ]*(?:19|20)\d\d")


@dataclass(frozen=True)
class Identifiers:
    """What names one patient, prepared for comparison.

    Attributes:
        parts: found anywhere inside a text without its separators: words of four characters or more, glued names.
        words: shorter ones, which count as whole words only.
        days: digits of dates, in all orders.
    """

    parts: frozenset[str]
    words: frozenset[str]
    days: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str], days: Iterable[str] = ()) -> Identifiers:
        """Identifiers from names, ids and addresses, and from dates written `yyyymmdd` or with separators."""
        parts: set[str] = set()
        words: set[str] = set()
        for text in texts:
            for spelling in _spellings(text):
                found = _WORDS.findall(spelling)
                glued = {"".join(found)} | {"".join(pair) for pair in permutations(found[:_MOST_WORDS], 2)}
                for word in {*found, *glued}:
                    parts |= {run for run in _NUMBERS.findall(word) if len(run) >= _SHORTEST_NUMBER}
                    ideographs = any(c >= _IDEOGRAPHS for c in word)  # no blanks between words, and names of one
                    if len(word) >= _SHORTEST_PART or (ideographs and len(word) >= _SHORTEST_WORD):
                        parts.add(word)
                    elif ideographs or (len(word) >= _SHORTEST_WORD and not word.isdigit()):
                        words.add(word)
        return cls(frozenset(parts), frozenset(words), frozenset(form for day in days for form in _day_forms(day)))

    def also(self, other: Identifiers) -> Identifiers:
        """Both together."""
        return Identifiers(self.parts | other.parts, self.words | other.words, self.days | other.days)

    def in_text(self, text: str) -> bool:
        """Whether a text holds one of them, or a full date."""
        if holds_date(text):
            return True
        return self.named_in(text) or self._day_in(text)

    def _day_in(self, text: str) -> bool:
        digits = re.sub(r"\D", "", text)
        written = {"".join(group.zfill(2) for group in match) for match in _TRIPLE.findall(text)}
        return bool(written & self.days) or any(day in digits for day in self.days)

    def named_in(self, text: str) -> bool:
        """Whether a text holds a name, an id or a part of an address, in any spelling."""
        for spelling in _spellings(text):
            joined = "".join(_WORDS.findall(spelling))
            if any(part in joined for part in self.parts):
                return True
        whole = {
            word for piece in (text, _CAMEL.sub(" ", text)) for s in _spellings(piece) for word in _WORDS.findall(s)
        }
        return not whole.isdisjoint(self.words)

    @property
    def readable(self) -> frozenset[str]:
        """Words that burned-in text is compared with."""
        return self.parts | self.words


def holds_date(text: str) -> bool:
    """Whether a text holds a full date between 1880 and 2099: a date of birth may be written anywhere."""
    for match in _DAY.finditer(text):
        year, first, second = (int(v) for v in ((match[1], match[2], match[3]) if match[1] else match.groups()[:2:-1]))
        if 1880 <= year <= 2099 and 1 <= min(first, second) <= 12 and 1 <= max(first, second) <= 31:
            return True
    compact = (match[0] for match in _COMPACT_DAY.finditer(text))
    return bool(_WRITTEN_DAY.search(text)) or any(_is_day(d[4:] + d[2:4] + d[:2]) or _is_day(d) for d in compact)


def _is_day(digits: str) -> bool:
    return "1880" <= digits[:4] <= "2099" and "01" <= digits[4:6] <= "12" and "01" <= digits[6:] <= "31"


def only_latin(text: str) -> bool:
    """Whether all letters of a text are Latin: no maker writes the name of a device otherwise in a header."""
    return all(unicodedata.name(c, "").startswith("LATIN") or c in "µμ" for c in text if c.isalpha())


def _spellings(text: str) -> set[str]:
    """A text in lower case: without accents, with umlauts written out, and Cyrillic in Latin letters."""
    low = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())
    written_out = "".join(_LETTERS.get(c, c) for c in low)
    latin = "".join(_CYRILLIC.get(c, c) for c in low)
    return {_bare(form) for form in (low, written_out, latin)}


def _bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).translate(_PLAIN)


def _day_forms(day: str) -> set[str]:
    groups = re.findall(r"\d+", day)
    if len(groups) >= 3 and len(groups[2]) == 4 and max(map(len, groups[:2])) <= 2:  # 3.2.1961
        year, month, date = groups[2], groups[1].zfill(2), groups[0].zfill(2)
    else:
        padded = [group.zfill(2) for group in groups[:3]] if len(groups) >= 3 else groups
        digits = "".join(padded)[:8]
        if len(digits) != 8:
            return set()
        year, month, date = digits[:4], digits[4:6], digits[6:]
    short = {f"{int(date)}{int(month)}{year}", f"{int(month)}{int(date)}{year}", f"{year}{int(month)}{int(date)}"}
    forms = {year + month + date, date + month + year, month + date + year} | short
    return forms | {year[2:] + month + date, date + month + year[2:], month + date + year[2:]}
