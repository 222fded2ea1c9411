"""The vector store: `vectors.npy` beside `images.parquet` in the same order, and `spec.json` saying what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cohort.errors import UserError
from cohort.runs import atomic_path, write_json

SCHEMA = "pellucid.vectors/1"


@dataclass(frozen=True)
class Vectors:
    """Frozen vectors and whose they are.

    Attributes:
        values: (n, dim) float32, memory-mapped.
        images: n rows with image_id, patient and split, in the same order.
        spec: backbone, weights, pooling, preprocessing.
        folder: where they lie.
    """

    values: NDArray[np.float32]
    images: pd.DataFrame
    spec: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The backbone's name."""
        return str(self.spec["backbone"])


def write_vectors(folder: Path, values: NDArray[np.float32], images: pd.DataFrame, spec: dict[str, Any]) -> None:
    """Write the three files, the specification last."""
    with atomic_path(folder / "vectors.npy") as temporary, temporary.open("wb") as handle:
        np.save(handle, np.ascontiguousarray(values, dtype=np.float32))
    with atomic_path(folder / "images.parquet") as temporary:
        images.to_parquet(temporary, index=False)
    write_json(folder / "spec.json", {"schema": SCHEMA, **spec, "n": len(images), "dim": int(values.shape[1])})


def load_vectors(folder: Path) -> Vectors:
    """Memory-map the vectors of a folder.

    Raises:
        UserError: not such a folder, another schema, or files that do not belong together.
    """
    missing = [n for n in ("vectors.npy", "images.parquet", "spec.json") if not (folder / n).is_file()]
    if missing:
        raise UserError(f"{folder}: holds no vectors ({missing[0]} is missing); `pellucid embed` makes them")
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    if spec.get("schema") != SCHEMA:
        raise UserError(f"{folder}: has schema {spec.get('schema')!r}; this version reads {SCHEMA}")
    try:
        values = np.load(folder / "vectors.npy", mmap_mode="r")
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / 'vectors.npy'}: is damaged ({error}); run `pellucid embed` again") from None
    images = pd.read_parquet(folder / "images.parquet")
    if values.shape != (len(images), spec["dim"]) or values.dtype != np.float32:
        raise UserError(
            f"{folder}: vectors.npy is {values.shape} {values.dtype}, but images.parquet has {len(images)} rows and "
            f"spec.json says {spec['dim']} dimensions: the files do not belong together; run `pellucid embed` again"
        )
    return Vectors(values, images, spec, folder)
