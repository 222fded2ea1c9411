"""`export`: write one format atomically; never overwrite other files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path
from pellucid.cohort.runs.private_files import writes_privately
from pellucid.embed.export.h5ad import write_h5ad
from pellucid.embed.export.parquet import Search, write_atlas, write_parquet
from pellucid.embed.export.projector import write_projector
from pellucid.embed.export.selection import Chosen

Format = Literal["parquet", "h5ad", "projector", "atlas"]
FORMATS: tuple[str, ...] = get_args(Format)
_SUFFIX = {"parquet": ".parquet", "h5ad": ".h5ad", "atlas": ".parquet"}
_PROJECTOR = {"vectors.bytes", "metadata.tsv", "sprite.png", "projector_config.pbtxt"}


@writes_privately("out")
def export_vectors(chosen: Chosen, to: str, out: Path, *, overwrite: bool = False, pictures: bool = True) -> list[str]:
    """Write an export.

    Args:
        chosen: vectors and columns to export.
        to: one of `FORMATS`.
        out: the file, or for `projector` the folder.
        overwrite: replace an earlier export.
        pictures: for `projector`: include small pictures.

    Returns:
        Sentences: how to open the export, and remarks on its content.

    Raises:
        UserError: an unknown format, or `out` exists, is inside a run, or has the wrong suffix.
    """
    if to not in FORMATS:
        raise UserError(f"--to {to}{did_you_mean(to, FORMATS)}: choose one of {', '.join(FORMATS)}")
    _refuse(out, to, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    sentences = []
    if to == "projector":
        with _atomic_folder(out) as folder:
            sentences += write_projector(chosen, folder, pictures=pictures)
        sentences.append(f"open it with: tensorboard --logdir {out} (then choose PROJECTOR)")
    else:
        with atomic_path(out) as temporary:
            if to == "parquet":
                write_parquet(chosen, temporary)
            elif to == "h5ad":
                write_h5ad(chosen, temporary)
                sentences.append(f'open it with: anndata.read_h5ad("{out}")')
            else:
                command = write_atlas(chosen, temporary, _search(chosen))
                command = command.replace(str(temporary), str(out))
                sentences.append(f"open it with: {command} (pip install embedding-atlas)")
                if chosen.xy is None:
                    sentences.append(
                        "these vectors have no map yet (`pellucid cluster` computes one): Embedding Atlas computes "
                        "its own"
                    )
    if chosen.named:
        sentences.append("images are named by their paths: check that these contain no names of people before sharing")
    sentences.append(
        "you are responsible for exported data: a vector can reveal its image, and `pellucid forget` does not change "
        "exports"
    )
    return sentences


def _refuse(out: Path, to: str, overwrite: bool) -> None:
    suffix = _SUFFIX.get(to)
    if suffix is not None and out.suffix != suffix:
        raise UserError(f"{out}: --to {to} writes a file ending in {suffix}")
    if any((folder / "SHA256SUMS").is_file() for folder in out.resolve().parents):
        raise UserError(f"{out}: is inside a finished run, which is never changed: choose another --out")
    if out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out, or replace it with --overwrite")
    if suffix is not None and out.is_dir():
        raise UserError(f"{out}: is a folder; --to {to} writes a file")
    if suffix is None and out.exists() and (not out.is_dir() or {p.name for p in out.iterdir()} - _PROJECTOR):
        raise UserError(f"{out}: contains files that are not an export of Pellucid: choose another --out")


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` if the block succeeds."""
    making = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    before = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        yield making
        if out.exists():
            out.rename(before)
        making.rename(out)
    finally:
        shutil.rmtree(making, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def _search(chosen: Chosen) -> Search:
    """Nearest neighbours from the index of the store."""
    from pellucid.embed.index import open_index

    index = open_index(chosen.vectors.folder, chosen.vectors)

    def search(queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return index.search(queries, k)

    return search
