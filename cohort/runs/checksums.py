"""SHA256SUMS: write and verify."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pellucid.cohort.runs.atomic_files import atomic_path

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS and not p.name.startswith("."))
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    with atomic_path(folder / SUMS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def verify(folder: Path) -> list[str]:
    """What is wrong with a finished run's files: one sentence each, none when all are as written."""
    wrong = []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: is gone")
        elif sha256_file(path) != digest:
            wrong.append(f"{path}: is not what was written")
    return wrong


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
