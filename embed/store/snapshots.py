"""A vector store outside a study is brought up to date in one step: a kill leaves the old one or the new one, whole.

Each version of the store is a folder of its own under `.versions`; the link `.current` names the one that counts, and
`vectors.npy` and its neighbours are links through it. Renaming one link over another is atomic, so all files change at
once, under names that stay.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import clear_parts, sync_path
from pellucid.embed.store.vectors import CURRENT, present

_VERSIONS, _MAKING = ".versions", "making"
FILES = ("vectors.npy", "images.parquet", "spec.json", "index.faiss", "index.json", "tokens.npy")
LOCK, PARTS, WITHDRAWN = ".lock", ".parts", "withdrawn.json"


def is_ours(out: Path) -> bool:
    """Whether a folder holds nothing but a store, whole or begun, or nothing at all."""
    return not out.exists() or all(
        path.name in (*FILES, WITHDRAWN) or path.name.startswith(".") for path in out.iterdir()
    )


def tidy(out: Path) -> None:
    """Remove everything that is not the store's present content: parts, versions begun, versions before."""
    clear_parts(out / PARTS)
    kept = present(out)
    for folder in (out / _VERSIONS).glob("*"):
        if folder.resolve() != kept:
            shutil.rmtree(folder)


def making(out: Path) -> Path:
    """An empty folder for the next version."""
    folder = out / _VERSIONS / _MAKING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish(out: Path, name: str) -> Path:
    """Make what lies in `making` the store's content, and remove the version before.

    Args:
        name: of the version, new each time.

    Raises:
        UserError: the file system knows no symbolic links.
    """
    versions = out / _VERSIONS
    made = versions / name
    shutil.rmtree(made, ignore_errors=True)
    (versions / _MAKING).rename(made)
    for folder in (made, versions):
        sync_path(folder)
    try:
        if not (out / CURRENT).is_symlink() and (out / "spec.json").is_file():
            _link(out / CURRENT, _kept(out).relative_to(out))
        for file in FILES:
            if not (out / file).is_symlink():
                _link(out / file, Path(CURRENT) / file)  # whoever reads meanwhile finds the same content as before
        _link(out / CURRENT, made.relative_to(out))
    except OSError as error:
        raise UserError(f"{out}: links cannot be made there ({error.strerror}); choose another --out") from None
    sync_path(out)
    for file in FILES:
        if not (out / file).exists():
            (out / file).unlink()
    tidy(out)
    return made


def _kept(out: Path) -> Path:
    """A version made of the files of a store from before there were versions."""
    plain = out / _VERSIONS / "before"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir()
    for file in FILES:
        if (out / file).is_file():
            os.link(out / file, plain / file)
    return plain


def _link(path: Path, target: Path) -> None:
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)
