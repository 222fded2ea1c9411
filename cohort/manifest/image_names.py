"""Which image file a name in a table means, whatever folder, ending or capitals the name has: one rule, for each row.

`init` and `scan` both use it, so that a column that is proposed is a column that joins.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pellucid.cohort.manifest.cell_values import as_ids, cleaned

_ENDING = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,5}$")  # of a file; `1.2.840` has none
_WHOLE_FLOAT = re.compile(r"(\d+)\.0+")
_TOKENS = re.compile(r"[^\W_]+")


def _parts(path: str) -> tuple[str, ...]:
    name = cleaned(path).replace("\\", "/")
    name = re.sub(r"^file:/+", "", name)
    return tuple(part.strip() for part in name.split("/") if part.strip() not in {"", "."})


def _stem(name: str) -> str:
    return _ENDING.sub("", name)


@dataclass(frozen=True)
class Found:
    """The files that a name may mean: the best ones only.

    Attributes:
        files: one, or several that fit equally well.
        looseness: 0 as written, 1 other capitals, 2 and 3 without the ending, 4 another ending, 5 `12.0` for 12.
        confirmed: the name's folders, if it has any, are those of the file.
        by_folder: at least one folder of the name is one of the file.
    """

    files: tuple[str, ...]
    looseness: int
    confirmed: bool
    by_folder: bool


class ImageNames:
    """The files of a study, to be found by any way of writing their names.

    Args:
        files: paths relative to the folder of the images.
        root: that folder; a name may begin with any of its last folders.
    """

    def __init__(self, files: Iterable[str], root: str = "") -> None:
        self._parts = {file: _parts(file) for file in files}
        self._root = _parts(root)
        self._exact: dict[tuple[str, ...], str] = {}
        self._names: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(4)]
        for file, parts in self._parts.items():
            name = parts[-1]
            self._exact[parts] = file
            keys = (name, name.casefold(), _stem(name), _stem(name).casefold())
            for known, key in zip(self._names, keys, strict=True):
                known[key].append(file)

    def find(self, name: str) -> Found | None:
        """The files that a name means; None where there is none."""
        parts = _parts(name)
        if not parts:
            return None
        inside = parts[self._in_root(parts) :]
        if parts in self._exact or inside in self._exact:
            file = self._exact[parts] if parts in self._exact else self._exact[inside]
            return Found((file,), 0, True, len(parts) > 1 and "/" in file)
        best: dict[tuple[bool, int, int], list[str]] = defaultdict(list)
        seen: set[str] = set()
        for looseness, key in enumerate(_keys(parts[-1])):
            for file in self._lookup(looseness, key):
                if file not in seen:
                    seen.add(file)
                    same, fits = self._shared(parts, self._parts[file])
                    best[not fits, looseness, -same].append(file)
        if not best:
            return None
        rank = min(best)
        folders = -rank[2] > 1
        shallow = all(len(self._parts[file]) == 1 for file in best[rank])
        confirmed = not inside[:-1] or (not rank[0] and (folders or not shallow))
        return Found(tuple(best[rank]), rank[1], confirmed, folders)

    def _lookup(self, looseness: int, key: str) -> Sequence[str]:
        if not key:
            return ()
        if looseness == 5:
            return self._names[2].get(key, ()) or self._names[0].get(key, ())
        return self._names[min(looseness, 3)].get(key, ())

    def _in_root(self, parts: Sequence[str]) -> int:
        """How many of the first parts are the last folders of the root."""
        for n in range(min(len(parts) - 1, len(self._root)), 0, -1):
            if tuple(p.casefold() for p in parts[:n]) == tuple(p.casefold() for p in self._root[-n:]):
                return n
        return 0

    @staticmethod
    def _shared(name: Sequence[str], file: Sequence[str]) -> tuple[int, bool]:
        """How many last parts are the same (the file's name counts as one), and whether one path ends the other."""
        same = 1
        while same < min(len(name), len(file)) and name[-1 - same].casefold() == file[-1 - same].casefold():
            same += 1
        return same, same == min(len(name), len(file))

    def lies_in(self, file: str, folder: str) -> bool:
        """Is `folder` (a name, or several with slashes) among the file's folders?"""
        wanted = [part.casefold() for part in _parts(folder)]
        own = [part.casefold() for part in self._parts[file][:-1]]
        if not wanted:
            return False
        if any(own[i : i + len(wanted)] == wanted for i in range(len(own) - len(wanted) + 1)):
            return True
        return bool(own) and len(wanted) == 1 and wanted[0] in _TOKENS.findall(own[0])


def _keys(name: str) -> tuple[str, ...]:
    """The keys of the six ways of naming a file, in the order of `Found.looseness`."""
    other = _stem(name).casefold() if _ENDING.search(name) else ""
    whole = _WHOLE_FLOAT.fullmatch(name)
    return name, name.casefold(), name, name.casefold(), other, whole.group(1) if whole else ""


Target = tuple[str, str]  # a file and one of its frames ("": all)


@dataclass
class Resolution:
    """What the rows of a table name.

    Attributes:
        targets: label of a row → file and frame.
        unclear: label → files that fit equally well.
        elsewhere: label → a file of that name in a folder that contradicts the row.
        absent: labels of rows that name no file.
        twice: labels of rows that name the same image, for each such image.
    """

    targets: dict[int, Target] = field(default_factory=dict)
    unclear: dict[int, tuple[str, ...]] = field(default_factory=dict)
    elsewhere: dict[int, str] = field(default_factory=dict)
    absent: list[int] = field(default_factory=list)
    twice: list[list[int]] = field(default_factory=list)


def resolve_rows(
    texts: pd.Series, known: ImageNames, frames: Mapping[str, set[str]], hints: pd.DataFrame | None = None
) -> Resolution:
    """The image of each row.

    Args:
        texts: names as text, None where a row has none.
        known: the files.
        frames: file → its frames, for files with several.
        hints: columns of the same rows whose values may be folders; the first is the patient's.
    """
    found: dict[int, tuple[Found, str]] = {}
    result = Resolution()
    for label, text in zip(texts.index.tolist(), texts.tolist(), strict=True):
        named = _with_frame(str(text), known, frames) if text is not None and text == text else None
        if named is None:
            result.absent.append(label)
        else:
            found[label] = named
    folders_count = any(hit.by_folder and hit.confirmed for hit, _ in found.values())
    for label, (hit, frame) in found.items():
        if not hit.confirmed and folders_count:
            result.elsewhere[label] = hit.files[0]
        elif len(hit.files) > 1:
            result.unclear[label] = hit.files
        else:
            result.targets[label] = (hit.files[0], frame)
    if result.unclear and hints is not None:
        _by_hints(result, found, known, hints)
    _without_rivals(result, {label: hit.looseness for label, (hit, _) in found.items()})
    return result


def _with_frame(text: str, known: ImageNames, frames: Mapping[str, set[str]]) -> tuple[Found, str] | None:
    """A name of a file, or of one of its frames (`scan.dcm#3`)."""
    head, sign, frame = text.rpartition("#")
    if sign and frames:
        hit = known.find(head)
        if hit is not None and any(frame in frames.get(file, ()) for file in hit.files):
            return hit, frame
    hit = known.find(text)
    return None if hit is None else (hit, "")


def _by_hints(
    result: Resolution, found: Mapping[int, tuple[Found, str]], known: ImageNames, hints: pd.DataFrame
) -> None:
    """Decide among files of one name by the patient's folder, and then by other columns that name folders."""
    labels = list(result.unclear)
    left = {label: list(files) for label, files in result.unclear.items()}
    for place, name in enumerate(hints.columns):
        values = as_ids(hints[name].loc[labels])
        nearer = {
            label: [file for file in left[label] if values[label] is not None and known.lies_in(file, values[label])]
            for label in labels
            if len(left[label]) > 1
        }
        if place == 0:
            left |= {label: files for label, files in nearer.items() if files}
            decided = [label for label in labels if len(left[label]) == 1]
            if 2 * len(decided) > len(labels):
                _refuse_foreign_folders(result, known, as_ids(hints[name]))
        elif nearer and all(nearer.values()):  # a column that names a folder in every row
            tried = left | nearer
            alone = [tuple(files) for files in tried.values() if len(files) == 1]
            if len(set(alone)) == len(alone):
                left = tried
    for label, files in left.items():
        if len(files) == 1:
            result.targets[label] = (files[0], found[label][1])
            del result.unclear[label]


def _refuse_foreign_folders(result: Resolution, known: ImageNames, patients: pd.Series) -> None:
    """Where folders are patients, a row whose file lies in the folder of another patient does not name that file."""
    for label, (file, _) in list(result.targets.items()):
        if "/" in file and not (patients[label] is not None and known.lies_in(file, patients[label])):
            result.elsewhere[label] = file
            del result.targets[label]


def _without_rivals(result: Resolution, looseness: Mapping[int, int]) -> None:
    """Of two rows for one image the one that names it more exactly; equally exact ones are named twice."""
    rows: dict[Target, list[int]] = defaultdict(list)
    for label, target in result.targets.items():
        rows[target].append(label)
    for target, labels in rows.items():
        if len(labels) == 1:
            continue
        best = min(looseness[label] for label in labels)
        exact = [label for label in labels if looseness[label] == best]
        if len(exact) > 1:
            result.twice.append(exact)
        for label in labels:
            if label not in exact:
                del result.targets[label]
                result.elsewhere[label] = target[0]


def names_found(texts: pd.Series, known: ImageNames, hints: pd.DataFrame | None = None) -> tuple[int, int]:
    """How many rows name a file that is theirs alone, and how many name one of several (for `init`)."""
    result = resolve_rows(texts, known, {}, hints)
    files = Counter(file for file, _ in result.targets.values())
    return sum(1 for n in files.values() if n == 1), len(result.unclear)
