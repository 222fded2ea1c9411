"""Messages for logs: a file whose path may name a patient is not named in them."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "<name hidden>"
_QUOTED = re.compile(r"`([^`\n]+)`")
_MARKED = re.compile(r"(['\"])([^'\"\n`]*/[^'\"\n`]*)\1")  # as in messages of the system
_KEPT = re.compile(r"(`[^`\n]*`|'[^'\"\n`]*/[^'\"\n`]*')")
_BARE = re.compile(
    r"(?<![\w`/])[^\s`'\"(),;:<>]*/[^\s`'\"(),;:<>]+|[^\s`'\"(),;:<>/]+\.[A-Za-z][A-Za-z0-9]{1,4}(?:#\d+)?"
)
_PATH = re.compile(r"/|\.[A-Za-z][A-Za-z0-9]{1,4}(#\d+)?$")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}(#\d+)?$")
_TWO_NAMES = re.compile(r"(?<![A-Za-z])[A-Z][A-Za-z'’]+[\s_,.^-]+[A-Z][A-Za-z'’]+(?![A-Za-z])")
_DATE = re.compile(r"(?<!\d)(\d{4}[-_.]\d{1,2}[-_.]\d{1,2}|\d{1,2}[-_.]\d{1,2}[-_.]\d{4})(?!\d)")
_WORDS = re.compile(r"[^\W_]+")
_SHORTEST_ID = 4  # a shorter one counts only as the whole name of a file or folder
_LONG_NUMBER = re.compile(r"\d{6,}")
_RUN = re.compile(r"-[0-9a-f]{8}$")  # the name of a run


def without_names(text: str, ids: Iterable[str] = ()) -> str:
    """A message without those parts of paths that may name somebody.

    Hidden are the names of files and folders with an id of a patient, a full date, a number of six or more digits, two
    words with capitals side by side, or letters beyond the English alphabet. The ending of a file is kept.

    Args:
        text: of one or several lines; paths are in backticks or quotes, or have no blanks.
        ids: own ids of the patients, where they are known.
    """
    known = {" ".join(_WORDS.findall(str(i).casefold())) for i in ids} - {""}
    quoted = _QUOTED.sub(lambda m: f"`{_hidden(m[1], known)}`" if _PATH.search(m[1]) else m[0], text)
    quoted = _MARKED.sub(lambda m: f"{m[1]}{_hidden(m[2], known)}{m[1]}", quoted)
    pieces = _KEPT.split(quoted)
    return "".join(p if _KEPT.fullmatch(p) else _BARE.sub(lambda m: _hidden(m[0], known), p) for p in pieces)


def _hidden(path: str, ids: set[str]) -> str:
    return "/".join(_part(part, ids) for part in path.split("/"))


def _part(part: str, ids: set[str]) -> str:
    ending = match[0] if (match := _ENDING.search(part)) else ""
    name = part.removesuffix(ending)
    if _RUN.search(name) or not name:
        return part
    words = " ".join(_WORDS.findall(name.casefold()))
    telling = (
        not name.isascii()
        or _TWO_NAMES.search(name)
        or _LONG_NUMBER.search(name)
        or _DATE.search(name)
        or words in ids
        or any(len(i) >= _SHORTEST_ID and f" {i} " in f" {words} " for i in ids)
    )
    return HIDDEN + ending if telling else part
