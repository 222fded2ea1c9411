"""Who has withdrawn consent: a list of salted hashes beside a study, so that no later scan takes them in again.

The list names nobody. It holds HMAC-SHA256 of patients' own ids, of file names and of frames under a random salt of its
own. A reader of the list who guesses an id can check the guess, so keep it as confidential as the study.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import write_json

SCHEMA = "pellucid.withdrawn/1"
_KINDS = ("patients", "files", "frames", "rows", "asked")


@dataclass
class Withdrawal:
    """One forgetting: hashes only.

    Attributes:
        name: eight random hex digits, by which runs say that it went through them.
        when: ISO 8601.
        done: whether it went through everything; until then no other verb works on the study.
        images: how many went.
        patients: of their own ids.
        files: of the names of files that are theirs alone.
        frames: of the ids of single frames, where a file holds others' frames too.
        rows: of the texts by which rows of the table name their images.
        asked: of what was typed, so that a repeated command is known again.
    """

    name: str
    when: str
    done: bool = False
    images: int = 0
    patients: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    frames: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)


@dataclass
class Withdrawn:
    """All withdrawals of a study (or of a folder of vectors)."""

    path: Path
    salt: bytes
    entries: list[Withdrawal]
    stored: tuple[str, ...] = ()  # names of the entries that were in the file when it was last read or written

    @classmethod
    def load(cls, path: Path) -> Withdrawn:
        """The list at `path`; an empty one if there is no file.

        Raises:
            UserError: the file is damaged. It is never ignored: patients who withdrew would come back unnoticed.
        """
        if not path.exists():
            return cls(path, secrets.token_bytes(32), [])
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            schema = content["schema"]
            salt = bytes.fromhex(content["salt"])
            entries = [
                Withdrawal(
                    item["name"],
                    item["when"],
                    bool(item["done"]),
                    int(item["images"]),
                    *(set(item.get(kind, [])) for kind in _KINDS),
                )
                for item in content["withdrawals"]
            ]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{path}: the list of withdrawn patients cannot be read ({type(error).__name__}): put it back from a "
                "copy; without it they would be taken in again"
            ) from None
        if schema != SCHEMA:
            raise UserError(f"{path}: has schema {schema!r}; this version reads {SCHEMA}")
        return cls(path, salt, entries, tuple(entry.name for entry in entries))

    def changed(self) -> bool:
        """Whether somebody else has written the file since."""
        return Withdrawn.load(self.path).stored != self.stored

    def save(self) -> None:
        """Atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "about": "salted hashes of withdrawn patients and their files: keep this file, or they are taken in again",
            "salt": self.salt.hex(),
            "withdrawals": [
                {
                    "name": entry.name,
                    "when": entry.when,
                    "done": entry.done,
                    "images": entry.images,
                    **{kind: sorted(getattr(entry, kind)) for kind in _KINDS},
                }
                for entry in self.entries
            ],
        }
        write_json(self.path, content)
        self.stored = tuple(entry.name for entry in self.entries)

    def new(self, images: int) -> Withdrawal:
        """A withdrawal that begins now, not yet saved."""
        entry = Withdrawal(secrets.token_hex(4), datetime.now(UTC).isoformat(timespec="seconds"), images=images)
        self.entries.append(entry)
        return entry

    def hash(self, kind: str, text: str) -> str:
        """Hex HMAC-SHA256 of a text of a kind (`patients`, `files`, …); `ü` is the same however it was composed."""
        message = f"{kind}\0{unicodedata.normalize('NFC', text)}".encode("utf-8", "surrogateescape")
        return hmac.digest(self.salt, message, hashlib.sha256).hex()

    def _all(self, kind: str) -> set[str]:
        return set().union(*(getattr(entry, kind) for entry in self.entries))

    def holds_patient(self, own_id: str) -> bool:
        """By the id in the table, the path or the header."""
        return bool(self.which_patients([own_id])[0])

    def holds_image(self, image_id: str) -> bool:
        """A file, a frame of it (`scan.dcm#3`), or a frame that went alone."""
        return bool(self.which([image_id])[0])

    def which_patients(self, own_ids: Sequence[str | None]) -> NDArray[np.bool_]:
        """For each id (of the table, the path or the header; None: not known) whether she withdrew, (n,)."""
        return self._which("patients", own_ids)

    def which_rows(self, texts: Sequence[str | None]) -> NDArray[np.bool_]:
        """For each text of the table's key column whether the row is of withdrawn images, (n,)."""
        return self._which("rows", texts)

    def which_files(self, files: Sequence[str], image_ids: Sequence[str] | None = None) -> NDArray[np.bool_]:
        """For each file (or image of which the file is known) whether it was withdrawn, (n,)."""
        found = self._which("files", files)
        return found if image_ids is None else found | self._which("frames", image_ids)

    def _which(self, kind: str, texts: Sequence[str | None]) -> NDArray[np.bool_]:
        known = self._all(kind)
        if not known:
            return np.zeros(len(texts), dtype=bool)
        gone = {text: text is not None and self.hash(kind, text) in known for text in set(texts)}
        return np.array([gone[text] for text in texts], dtype=bool)

    def which(self, image_ids: Sequence[str]) -> NDArray[np.bool_]:
        """For each image, of which only the id is known, whether it was withdrawn, (n,).

        A frame's id is its file's, `#` and the frame's name; a file's name may hold a `#` of its own.
        """
        files, frames = self._all("files"), self._all("frames")
        if not files and not frames:
            return np.zeros(len(image_ids), dtype=bool)

        def gone(image_id: str) -> bool:
            if self.hash("frames", image_id) in frames:
                return True
            pieces = image_id.split("#")
            return any(self.hash("files", "#".join(pieces[:n])) in files for n in range(1, len(pieces) + 1))

        return np.array([gone(image_id) for image_id in image_ids], dtype=bool)

    def was_asked(self, typed: str) -> Withdrawal | None:
        """The withdrawal that was asked for by this very text."""
        digest = self.hash("asked", typed)
        return next((entry for entry in self.entries if digest in entry.asked), None)

    @property
    def pending(self) -> list[Withdrawal]:
        """Withdrawals that were begun and did not come to their end."""
        return [entry for entry in self.entries if not entry.done]

    def without_pending(self) -> Withdrawn:
        """The list as it was before what is pending began."""
        return Withdrawn(self.path, self.salt, [entry for entry in self.entries if entry.done])

    @property
    def frames_fingerprint(self) -> str:
        """sha256 over the frames that went out of files which stay; "" if there are none."""
        frames = sorted({digest for entry in self.entries for digest in entry.frames})
        return hashlib.sha256("".join(frames).encode()).hexdigest() if frames else ""


def refuse_pending(path: Path, study: Path) -> None:
    """Nothing is made of a study while a patient is half forgotten.

    Raises:
        UserError: a withdrawal was interrupted.
    """
    if Withdrawn.load(path).pending:
        command = f"pellucid forget {shlex.quote(str(study))}"
        raise UserError(f"{study}: a withdrawal of consent was begun and interrupted: `{command}` brings it to its end")
