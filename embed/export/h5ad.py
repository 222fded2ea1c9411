"""Vectors as AnnData (`.h5ad`) for scverse tools, written block by block with bounded memory.

Follows anndata's "On-disk format" (AnnData 0.1.0: dataframe, array, categorical and string-array 0.2.0, dict 0.1.0),
using h5py only: the anndata library requires pandas below 3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.embed.export.parquet import SCHEMA, blocks, plain
from pellucid.embed.export.selection import Chosen


def write_h5ad(chosen: Chosen, path: Path) -> None:
    """Write obs (columns, by research id), X (vectors), obsm (X_umap, if there is a map) and uns (description of the
    vectors).

    `anndata.read_h5ad` reads it, also with `backed="r"`.

    Raises:
        UserError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UserError("--to h5ad needs h5py: install pellucid[export]") from None
    values = chosen.vectors.values
    n, dim = values.shape
    obs = plain(chosen.frame).set_index("image")
    if not obs.index.is_unique:
        raise UserError("two images have the same id: the manifest is damaged; scan again")
    with h5py.File(path, "w") as file:
        _is(file, "anndata", "0.1.0")
        _frame(file, "obs", obs)
        dimensions = pd.Index([f"dim_{i:04d}" for i in range(dim)], name="dimension")
        _frame(file, "var", pd.DataFrame(index=dimensions))
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            _is(file.create_group(name), "dict", "0.1.0")
        if chosen.xy is not None:
            _array(file["obsm"], "X_umap", np.asarray(chosen.xy))
        about = _is(file["uns"].create_group("pellucid"), "dict", "0.1.0")
        for name, text in (("schema", SCHEMA), ("spec", json.dumps(chosen.spec, default=str))):
            _is(about.create_dataset(name, data=text, dtype=h5py.string_dtype()), "string", "0.2.0")
        stored = file.create_dataset("X", shape=(n, dim), dtype="float32", chunks=(max(1, min(n, 4096)), dim))
        for rows in blocks(n):
            stored[rows] = np.asarray(values[rows], dtype=np.float32)
        _is(stored, "array", "0.2.0")


def _is(item: Any, encoding: str, version: str) -> Any:
    item.attrs["encoding-type"], item.attrs["encoding-version"] = encoding, version
    return item


def _array(group: Any, name: str, values: Any) -> None:
    _is(group.create_dataset(name, data=values), "array", "0.2.0")


def _texts(group: Any, name: str, texts: list[str]) -> None:
    import h5py

    _is(group.create_dataset(name, data=texts, shape=(len(texts),), dtype=h5py.string_dtype()), "string-array", "0.2.0")


def _frame(file: Any, name: str, frame: pd.DataFrame) -> None:
    group = _is(file.create_group(name), "dataframe", "0.2.0")
    index = str(frame.index.name)
    group.attrs["_index"] = index
    group.attrs.create("column-order", list(map(str, frame.columns)) or np.empty(0, dtype="float64"))
    _texts(group, index, frame.index.astype(str).tolist())
    for column in frame.columns:
        values = frame[column]
        if values.dtype == bool:
            _array(group, str(column), values.to_numpy(dtype=bool))
        elif pd.api.types.is_integer_dtype(values.dtype) and not values.isna().any():
            _array(group, str(column), values.to_numpy(dtype=np.int64))
        elif pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
            _array(group, str(column), values.to_numpy(dtype=np.float64, na_value=np.nan))
        else:  # text, booleans with missing values, dates: each level is stored once; missing is code −1
            codes, levels = pd.factorize(values.map(str, na_action="ignore"), sort=True)
            levels_group = _is(group.create_group(str(column)), "categorical", "0.2.0")
            levels_group.attrs["ordered"] = False
            _array(levels_group, "codes", codes.astype(np.int32))
            _texts(levels_group, "categories", [str(level) for level in levels])
