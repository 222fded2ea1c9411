"""Update a stand-alone vector store atomically: after a kill it holds the old version or the new one, complete.

Each version is a separate folder under `.versions`. The link `.current` points to the valid one, and `vectors.npy` and
the other files are links through it. Replacing one link by another is atomic, so all files change at once and keep
their names.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import clear_parts, sync_path
from pellucid.embed.store.vectors import CURRENT, present

_VERSIONS, _UNFINISHED = ".versions", "making"
FILES = ("vectors.npy", "images.parquet", "spec.json", "index.faiss", "index.json", "tokens.npy")
LOCK, CHUNKS, WITHDRAWN = ".lock", ".parts", "withdrawn.json"


def is_store_or_empty(out: Path) -> bool:
    """Whether a folder contains only a store (finished or not), or nothing, or does not exist."""
    return not out.exists() or all(
        path.name in (*FILES, WITHDRAWN) or path.name.startswith(".") for path in out.iterdir()
    )


def tidy(out: Path) -> None:
    """Remove everything but the current version: chunks, unfinished and earlier versions."""
    clear_parts(out / CHUNKS)
    kept = present(out)
    for folder in (out / _VERSIONS).glob("*"):
        if folder.resolve() != kept:
            shutil.rmtree(folder)


def new_version(out: Path) -> Path:
    """Create an empty folder for the next version."""
    folder = out / _VERSIONS / _UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(out: Path, name: str) -> Path:
    """Switch the store to the version written into `new_version`, and remove the earlier one.

    Args:
        name: name of the version, different each time.

    Raises:
        UserError: the file system does not support symbolic links.
    """
    versions = out / _VERSIONS
    version = versions / name
    shutil.rmtree(version, ignore_errors=True)
    (versions / _UNFINISHED).rename(version)
    for folder in (version, versions):
        sync_path(folder)
    try:
        if not (out / CURRENT).is_symlink() and (out / "spec.json").is_file():
            link(out / CURRENT, _first_version(out).relative_to(out))
        for file in FILES:
            if not (out / file).is_symlink():
                link(out / file, Path(CURRENT) / file)  # readers still find the old content
        link(out / CURRENT, version.relative_to(out))
    except OSError as error:
        raise UserError(
            f"{out}: symbolic links cannot be created there ({error.strerror}); choose another --out"
        ) from None
    sync_path(out)
    for file in FILES:
        if not (out / file).exists():
            (out / file).unlink()
    tidy(out)
    return version


def _first_version(out: Path) -> Path:
    """A version with the files of a store that was written before versions existed."""
    plain = out / _VERSIONS / "before"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir()
    for file in FILES:
        if (out / file).is_file():
            os.link(out / file, plain / file)
    return plain


def link(path: Path, target: Path) -> None:
    """Create a symbolic link, or replace an existing one atomically."""
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
