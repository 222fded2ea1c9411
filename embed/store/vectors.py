"""The vector store: `vectors.npy`, `images.parquet` in the same order, and `spec.json`, which describes them.

Schema `pellucid.vectors/2`. A folder MUST contain `vectors.npy` (n, dim) float32, `images.parquet` (n rows, at least
image_id, patient and split) and `spec.json` (`backbone`, `n`, `dim`, and the keys of
`pellucid.embed.backbones.embedding_space.SPACE_KEYS` with their hash `space`). It MAY contain `tokens.npy` (n, patches,
width) float16, described by `spec["tokens"]`. Folders of `pellucid.vectors/1`, which recorded neither space nor layers
nor views, are read with the values that were fixed then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import SUMS, atomic_path, read_verified, require_intact_if_finished, write_json
from pellucid.embed.backbones.embedding_space import completed

SCHEMA = "pellucid.vectors/2"
READ_TOO = ("pellucid.vectors/1",)
TOKENS = "tokens.npy"
CURRENT = ".current"  # link to the valid version, see `pellucid.embed.store.snapshots`
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Vectors:
    """Frozen vectors and the images they belong to.

    Attributes:
        values: (n, dim) float32, memory-mapped.
        images: n rows with image_id, patient and split, in the same order. Patient vectors have one row per patient,
            whose image_id is the patient's most typical image (`embed.patients`).
        spec: backbone, weights, pooling, preprocessing.
        folder: the folder they were read from.
        tokens: (n, patches, width) float16, memory-mapped, row by row of `spec["tokens"]["grid"]`; None if not stored.
    """

    values: NDArray[np.float32]
    images: pd.DataFrame
    spec: dict[str, Any]
    folder: Path
    tokens: NDArray[np.float16] | None = None

    @property
    def name(self) -> str:
        """Name of the backbone."""
        return str(self.spec["backbone"])

    @property
    def space(self) -> str:
        """Hex sha256 over everything that makes vectors comparable (`pellucid.embed.backbones.embedding_space`)."""
        return str(self.spec["space"])


def write_vectors(folder: Path, values: NDArray[np.float32], images: pd.DataFrame, spec: dict[str, Any]) -> None:
    """Write the three files, `spec.json` last.

    Args:
        values: (n, dim) float32; a memory map is copied in blocks.
        images: n rows.
        spec: entries of `spec.json`, such as those of `Backbone.spec()`.
    """
    with atomic_path(folder / "vectors.npy") as temporary, temporary.open("wb") as handle:
        np.save(handle, np.ascontiguousarray(values, dtype=np.float32))
    with atomic_path(folder / "images.parquet") as temporary:
        images.to_parquet(temporary, index=False)
    write_spec(folder, spec, len(images), int(values.shape[1]))


def write_spec(folder: Path, spec: dict[str, Any], n: int, dim: int) -> None:
    """Write `spec.json` for `n` vectors of length `dim`; it must be the last file of a store."""
    write_json(folder / "spec.json", {"schema": SCHEMA, **completed(spec), "n": n, "dim": dim})


def to_float16(tokens: NDArray[np.float32]) -> NDArray[np.float16]:
    """Patch tokens as stored in `tokens.npy`: float32 → float16, clipped to its range; NaN stays NaN."""
    return np.clip(tokens, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)


def read_spec(folder: Path) -> dict[str, Any]:
    """The content of a run's `spec.json`, without opening its vectors.

    Raises:
        UserError: it is not what was written, or not JSON.
    """
    content = read_verified(folder, "spec.json") if (folder / SUMS).is_file() else (folder / "spec.json").read_bytes()
    try:
        return dict(json.loads(content))
    except ValueError as error:
        raise UserError(f"{folder / 'spec.json'}: is damaged ({error}); run `pellucid embed` again") from None


def load_vectors(folder: Path) -> Vectors:
    """Open the vectors of a folder, memory-mapped. The files of a run are compared with their checksums first.

    Raises:
        UserError: not a vector store, another schema, or files that do not belong together.
        DamagedRun: a file of the run is not what was written.
    """
    require_intact_if_finished(folder)
    try:
        return _loaded(present(folder))
    except (UserError, FileNotFoundError):
        if present(folder) == folder:
            raise
        return _loaded(present(folder))  # `embed` switched to a new version while the store was being opened


def present(folder: Path) -> Path:
    """The folder with the files of the current version; stores written by `embed --out` have versions."""
    link = folder / CURRENT
    return link.resolve() if link.is_symlink() and link.exists() else folder


def _loaded(folder: Path) -> Vectors:
    missing = [n for n in ("vectors.npy", "images.parquet", "spec.json") if not (folder / n).is_file()]
    if missing:
        raise UserError(f"{folder}: contains no vectors ({missing[0]} is missing); create them with `pellucid embed`")
    spec = read_spec(folder)
    if spec.get("schema") not in {SCHEMA, *READ_TOO}:
        raise UserError(f"{folder}: has schema {spec.get('schema')!r}; this version reads {SCHEMA}")
    recorded, spec = spec.get("space"), completed(spec)
    if recorded is not None and recorded != spec["space"]:
        raise UserError(
            f"{folder / 'spec.json'}: was edited: its `space` does not match its other entries; run `pellucid embed` "
            "again"
        )
    values = _mapped(folder / "vectors.npy")
    images = pd.read_parquet(folder / "images.parquet")
    if values.shape != (len(images), spec["dim"]) or values.dtype != np.float32:
        raise UserError(
            f"{folder}: vectors.npy is {values.shape} {values.dtype}, but images.parquet has {len(images)} rows and "
            f"spec.json has {spec['dim']} dimensions: the files do not belong together; run `pellucid embed` again"
        )
    return Vectors(values, images, spec, folder, _tokens(folder, spec, len(images)))


def _tokens(folder: Path, spec: dict[str, Any], n: int) -> NDArray[np.float16] | None:
    described = spec.get("tokens")
    if described is None:
        return None
    if not (folder / TOKENS).is_file():
        raise UserError(f"{folder / TOKENS}: is missing; run `pellucid embed` again")
    tokens = _mapped(folder / TOKENS)
    rows, columns = described["grid"]
    if tokens.shape != (n, rows * columns, described["width"]) or tokens.dtype != np.float16:
        raise UserError(
            f"{folder / TOKENS}: is {tokens.shape} {tokens.dtype}, but {n} images of {rows} × {columns} patches of "
            f"{described['width']} numbers are expected: the files do not belong together; run `pellucid embed` again"
        )
    return tokens


def _mapped(path: Path) -> NDArray[Any]:
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: is damaged ({error}); run `pellucid embed` again") from None
    return mapped
