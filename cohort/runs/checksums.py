"""SHA256SUMS: write, read and verify; the sha256 of one file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import atomic_path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class DamagedRun(UserError):
    """A file of a finished run is not what was written."""


def write_sums(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS and not p.name.startswith("."))
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    with atomic_path(folder / SUMS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """{file: hex sha256} of a finished run.

    Raises:
        DamagedRun: the list itself is damaged or gone.
    """
    path = folder / SUMS
    if not path.is_file():
        raise DamagedRun(f"{path}: is gone")
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    for number, match in enumerate(matches, start=1):
        if match is None:
            raise DamagedRun(f"{path}: is damaged: line {number} is not a checksum and a file name")
    return {match[2]: match[1] for match in matches if match is not None}


def verify(folder: Path) -> list[str]:
    """Read every file that SHA256SUMS lists: a sentence on each that is not as it was written."""
    try:
        sums = read_sums(folder)
    except DamagedRun as damage:
        return [str(damage)]
    wrong = []
    for name, digest in sums.items():
        path = folder / name
        try:
            if not path.is_file():
                wrong.append(f"{path}: is gone; {SUMS} lists it")
            elif (now := sha256_file(path)) != digest:
                wrong.append(is_damaged(path, digest, now))
        except OSError as error:
            wrong.append(cannot_be_read(path, error))
    return wrong


def is_damaged(path: Path, recorded: str, now: str) -> str:
    """The sentence on a file with another checksum than was recorded, both as hex sha256."""
    return f"{path}: is damaged: {SUMS} records the sha256 {recorded[:16]}…, but it is {now[:16]}…"


def cannot_be_read(path: Path, error: OSError) -> str:
    """The sentence on a file that cannot be opened or read."""
    return f"{path}: cannot be read ({error.strerror or error})"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
