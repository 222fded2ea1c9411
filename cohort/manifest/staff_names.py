"""Keyed names (`operator-3f9a12bc`) for staff, institutions and serial numbers, which all later stages use.

The same original gets the same keyed name wherever it occurs in a study, and two originals never share one, so that an
operator remains a factor like any other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.column_words import names_staff
from pellucid.cohort.study import Study, is_header_fact

Digest = Callable[[str], bytes]

# Header facts that name a person, an institution or one single machine.
NAMED_FACTS = {f"header_{word}": word for word in ("operator", "institution", "station", "serial")}

_KEYED = re.compile(r"[a-z]+-[0-9a-f]{8}(?:[0-9a-f]{56})?")
_SHORT, _LONG = 8, 64  # hexadecimal digits


def named_columns(study: Study) -> dict[str, str]:
    """Declared columns that name staff, institutions or machines, each with the word that its keyed names begin with.

    Raises:
        UserError: one of them declares the level of an event, which no image has under its own name.
    """
    found = {}
    for variable in study.variables:
        word = staff_word(variable.name, variable.role, variable.kind)
        if word:
            if variable.positive is not None:
                raise UserError(
                    f"{study.path}: `{variable.name}` names staff, and its levels get keyed names: remove `positive`"
                )
            found[variable.name] = word
    for name in study.config.external:
        word = staff_word(name, "acquisition", "categorical")
        if word and name not in {variable.name for variable in study.variables}:
            found[name] = word
    return found


def staff_word(name: str, role: str, kind: str) -> str:
    """The word for the persons whose names a column holds; empty where it holds none.

    Args:
        name: of the column, or of a header fact.
        role: clinical, acquisition or outcome. Among clinical variables and outcomes a column must name nothing else.
        kind: numbers (`ordinal`, `continuous`) name nobody.
    """
    if kind in {"ordinal", "continuous", "time_to_event"}:
        return ""
    return NAMED_FACTS.get(name, "") if is_header_fact(name) else names_staff(name, strict=role != "acquisition")


def secret_digest(secret: bytes) -> Digest:
    """HMAC-SHA256 under a secret."""
    return lambda text: hmac.new(secret, b"staff\0" + text.encode(), hashlib.sha256).digest()


def study_secret(images: pd.DataFrame) -> bytes:
    """A secret that only those who have the originals know: derived from their lowest checksum.

    Checksums of originals never leave a study, so that somebody who knows the staff of a hospital cannot find out who
    is who by trying all names. Adding images changes the secret only if one of them has a lower checksum.
    """
    column = images["sha256"] if "sha256" in images else images["image_id"]
    known = sorted(str(value) for value in column.dropna() if str(value))
    return hashlib.sha256(f"pellucid staff {known[0] if known else ''}".encode()).digest()


def keyed_names(names: Iterable[str], word: str, digest: Digest) -> dict[str, str]:
    """The keyed name of each name; one that is keyed already stays.

    Args:
        names: as written in the table or the header.
        word: that keyed names begin with.
        digest: keyed with a secret.
    """
    distinct = sorted(set(names))
    new = [name for name in distinct if not _KEYED.fullmatch(name)]
    short = {digest(name).hex()[:_SHORT] for name in new}
    length = _SHORT if len(short) == len(new) else _LONG
    return {name: name if _KEYED.fullmatch(name) else f"{word}-{digest(name).hex()[:length]}" for name in distinct}


def keyed_column(column: pd.Series[Any], word: str, digest: Digest) -> pd.Series[Any]:
    """A column of text with keyed names; empty cells stay empty."""
    text = column.astype(object)
    known = text.notna() & (text != "")
    names = keyed_names(text[known].astype(str), word, digest)
    return text.where(~known, text.astype(str).map(names))


def with_keyed_names(manifest: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """The manifest with keyed names in the declared columns that name staff, and in all header facts that name anybody.

    Args:
        manifest: of all images.
        columns: of `named_columns`.
    """
    digest = secret_digest(study_secret(manifest))
    words = columns | NAMED_FACTS
    present = {name: word for name, word in words.items() if name in manifest}
    return manifest.assign(**{name: keyed_column(manifest[name], word, digest) for name, word in present.items()})
