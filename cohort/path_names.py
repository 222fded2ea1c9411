"""Messages for logs: a file whose path may name a patient is not named in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

HIDDEN = "<name hidden>"
_QUOTED = re.compile(r"`([^`\n]+)`")
# as in messages of the system; a text with an apostrophe is in double quotes
_MARKED = re.compile(r"\"([^\"\n`]*)\"|(?<![^\Wb])'([^'\"\n`]*)'(?!\w)")
_KEPT = re.compile(rf"(`[^`\n]*`|{_MARKED.pattern.replace('([', '(?:[')})")
# Each of these begins where a word begins, and none can match one text in two ways: the time is linear in the text.
_BEGIN, _IN, _IN_PART = r"(?<![^\s`'\"(),;:<>])", r"[^\s`'\"(),;:<>]", r"[^\s`'\"(),;:<>/]"
_BARE = re.compile(rf"{_BEGIN}(?:{_IN_PART}*/{_IN}*(?:[ ]+{_IN_PART}*/{_IN}*)*|{_IN_PART}+(?![^\s`'\"(),;:<>]))")
_PATH = re.compile(r"/|\.[A-Za-z][A-Za-z0-9]{1,4}(#\d+)?$")
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}(#\d+)?$")
_TWO_NAMES = re.compile(
    r"(?<![A-Za-z])[A-Z][A-Za-z'’]{1,40}[\s_,.^-]{1,4}(?:[a-z]{1,4}[\s_]){0,2}[A-Z][A-Za-z'’]{1,40}(?![A-Za-z])"
)
_DATE = re.compile(r"(?<!\d)(\d{4}[-_.\s]\d{1,2}[-_.\s]\d{1,2}|\d{1,2}[-_.\s]\d{1,2}[-_.\s](?:\d{4}|\d{2}))(?!\d)")
_WORDS = re.compile(r"[^\W_]+")
_SHORTEST_ID = 4  # a shorter one counts only as the whole name of a file or folder
_LONG_NUMBER = re.compile(r"\d{6,}")
_RUN = re.compile(r"-[0-9a-f]{8}$")  # the name of a run
# Numbered files in a run's folder: a damaged one must be named.
_OF_A_RUN = re.compile(r"shard-\d{9}\.arrow|rows-\d{5}\.parquet|part-\d{6}\.npz|step-\d{8}\.pt|last-good-\d{8}")


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
    pieces = []
    for piece in _KEPT.split(quoted):
        inner = piece[1:-1]
        if not _KEPT.fullmatch(piece):
            pieces.append(_BARE.sub(lambda m: _hidden(m[0], known) if _PATH.search(m[0]) else m[0], piece))
        elif piece[0] != "`" and _PATH.search(inner):
            pieces.append(f"{piece[0]}{_hidden(inner, known)}{piece[0]}")
        else:
            pieces.append(piece)
    return "".join(pieces)


def argument_without_names(argument: str) -> str:
    """One argument of a command, which may be a path with blanks and without quotes."""
    return without_names(f"`{argument}`")[1:-1] if "`" not in argument else without_names(argument)


def _hidden(path: str, ids: set[str]) -> str:
    return "/".join(_part(part, ids) for part in path.split("/"))


def _part(part: str, ids: set[str]) -> str:
    ending = match[0] if (match := _ENDING.search(part)) else ""
    name = unquote(part.removesuffix(ending))
    if _RUN.search(name) or _OF_A_RUN.fullmatch(part) or not name:
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
