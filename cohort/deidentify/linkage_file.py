"""The linkage file: the secret key, and who is who; the only way back from a research id to a patient."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.staff_names import keyed_names
from pellucid.cohort.study import Study

SCHEMA = "pellucid.linkage/1"
_ID_CHARACTERS = 10  # of base32: 50 bits, so that of 100,000 patients two meet with a chance of 4 in a million
_LARGEST_SHIFT_DAYS = 365


@dataclass
class Linkage:
    """What the linkage file holds.

    Attributes:
        path: the file.
        study, images: which study it belongs to: its `study.yaml` and its image root.
        key: 32 random bytes. Ids, date shifts and UIDs are HMAC-SHA256 under it: without the key they tell nothing.
        patients: own id of each patient → research id.
        files: image_id of each original → path of the new file below `raw/`, without its ending.
        reviews: who looked through which review sheet, and when.
    """

    path: Path
    study: str
    images: str
    key: bytes
    patients: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    reviews: list[dict[str, str]] = field(default_factory=list)

    def digest(self, what: str, value: str) -> bytes:
        """HMAC-SHA256 of a value for one purpose."""
        return hmac.new(self.key, f"{what}\0{value}".encode(), hashlib.sha256).digest()

    def name(self, what: str, value: str, prefix: str) -> str:
        """A research id: the prefix and ten characters of base32."""
        return prefix + base64.b32encode(self.digest(what, value)).decode()[:_ID_CHARACTERS]

    def staff(self, names: Iterable[str], word: str) -> dict[str, str]:
        """Keyed names of staff, `operator-3f9a12bc`; see `pellucid.cohort.manifest.staff_names`."""
        return keyed_names(names, word, lambda name: self.digest("staff", name))

    def uid(self, original: str) -> str:
        """The UID that stands for another: 2.25 and 128 bits as a number (PS3.5 B.2)."""
        return f"2.25.{int.from_bytes(self.digest('uid', original)[:16], 'big')}"

    def shift_days(self, patient: str) -> int:
        """By how many days all dates of a patient are moved: −365 to −1."""
        return -1 - int.from_bytes(self.digest("dates", patient)[:8], "big") % _LARGEST_SHIFT_DAYS

    def enrol(self, patient_of: Mapping[str, str]) -> bool:
        """Give every patient an id and every image a new name; those there already keep theirs.

        Args:
            patient_of: the patient of each image_id, in the order in which images are to be numbered.

        Returns:
            Whether anything was new.
        """
        before = len(self.patients), len(self.files)
        taken = {research_id: patient for patient, research_id in self.patients.items()}
        last: dict[str, int] = {}
        for stem in self.files.values():
            owner, _, number = stem.rpartition("-")
            owner = owner.rpartition("/")[2]
            last[owner] = max(last.get(owner, 0), int(number))
        for image_id, patient in patient_of.items():
            research_id = self.patients.get(patient) or self.name("patient", patient, "P")
            if taken.setdefault(research_id, patient) != patient:
                raise UserError(f"{self.path}: two patients have drawn the same research id: start a new linkage file")
            self.patients[patient] = research_id
            if self.files.get(image_id, "").partition("/")[0] != research_id:  # new, or it has changed its patient
                last[research_id] = last.get(research_id, 0) + 1
                self.files[image_id] = f"{research_id}/{research_id}-{last[research_id]:04d}"
        return before != (len(self.patients), len(self.files))

    def save(self, *, new: bool) -> None:
        """Write the file, mode 0600, whole or not at all; a new one never replaces another."""
        content = {
            "schema": SCHEMA,
            "note": "Anybody with this file can identify the patients: keep it apart from the de-identified study.",
            "study": self.study,
            "images": self.images,
            "key": self.key.hex(),
            "patients": {
                patient: {"research_id": research_id, "shift_days": self.shift_days(patient)}
                for patient, research_id in self.patients.items()
            },
            "files": self.files,
            "reviews": self.reviews,
        }
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                json.dump(content, handle, indent=1, ensure_ascii=False)
                handle.flush()
                os.fsync(handle.fileno())
            if new:
                os.link(temporary, self.path)  # unlike a rename it fails where a file is
            else:
                temporary.replace(self.path)
        except FileExistsError:
            raise UserError(f"{self.path}: has just been made by another process: repeat the command") from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


def open_linkage(path: Path, study: Study, out: Path) -> Linkage:
    """The linkage file of a study, or a new one with a fresh key.

    Raises:
        UserError: it lies where the study or its output would be handed on with it, others can read it, it belongs to
            another study, or it is no linkage file.
    """
    real = path.resolve()
    _refuse_place(
        path,
        real,
        [
            ("the study's folder", study.path.parent),
            ("the folder of the study's data", study.data),
            ("the folder of the images", study.image_root),
            ("the analysis folder", study.analysis),
            ("the output", out),
        ],
    )
    if not real.parent.is_dir():
        raise UserError(f"{path}: the folder for the linkage file is not there: make it, readable by you alone")
    mine = {"study": str(study.path.resolve()), "images": str(study.image_root)}
    try:
        status = real.stat()
    except FileNotFoundError:
        linkage = Linkage(real, mine["study"], mine["images"], secrets.token_bytes(32))
        linkage.save(new=True)
        return linkage
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a file: name the linkage file itself")
    if status.st_mode & 0o077 or status.st_uid != os.getuid():
        raise UserError(
            f"{path}: others can read or change this linkage file (mode {stat.S_IMODE(status.st_mode):04o}); anybody "
            f"who reads it can identify the patients. If nobody has: chmod 600 {path}"
        )
    return _read(path, real, mine)


def _refuse_place(path: Path, real: Path, folders: Iterable[tuple[str, Path]]) -> None:
    for what, folder in folders:
        if real.is_relative_to(folder.resolve()):
            raise UserError(
                f"{path}: the linkage file may not lie in {what} ({folder}): anybody who receives that folder could "
                "identify the patients. Put it where only you can read, for example in your home folder"
            )


def _read(path: Path, real: Path, mine: Mapping[str, str]) -> Linkage:
    try:
        content = json.loads(real.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise UserError(f"{path}: is a linkage file of another version ({content['schema']})")
        patients = {patient: entry["research_id"] for patient, entry in content["patients"].items()}
        linkage = Linkage(
            real,
            content["study"],
            content["images"],
            bytes.fromhex(content["key"]),
            patients,
            dict(content["files"]),
            list(content.get("reviews", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: is not a linkage file of Pellucid: name another place") from None
    if len(linkage.key) != 32:
        raise UserError(f"{path}: its key is damaged: restore the file from its copy")
    if mine["study"] != linkage.study and mine["images"] != linkage.images:
        raise UserError(
            f"{path}: belongs to another study ({linkage.study}): a study has one linkage file of its own. If that "
            "study was moved here, correct `study` in the file"
        )
    return linkage
