"""Vectors as AnnData (`.h5ad`) for scverse tools: written block by block, so that memory stays bounded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from cohort.errors import UserError
from embed.export.chosen import Chosen
from embed.export.tables import SCHEMA, blocks, plain


def write_h5ad(chosen: Chosen, path: Path) -> None:
    """obs: the columns, by research id; X: the vectors; obsm: X_umap, where a map exists; uns: what the vectors are.

    X is written as the on-disk format of AnnData asks for an array (encoding-type `array`, version 0.2.0, anndata's "On-disk
    format"); the rest by anndata itself. `anndata.read_h5ad` reads it, also with `backed="r"`.

    Raises:
        UserError: anndata is not installed.
    """
    try:
        import anndata
        import h5py
    except ImportError:
        raise UserError("--to h5ad needs anndata: install pellucid[export]") from None
    values = chosen.vectors.values
    n, dim = values.shape
    obs = plain(chosen.frame).set_index("image")
    obs.index = pd.Index(_unique(obs.index.astype(str).tolist()), name="image")
    for name in obs.columns:  # as anndata does itself: text with few values is stored once a value
        if obs[name].dtype == object or pd.api.types.is_string_dtype(obs[name].dtype):
            obs[name] = obs[name].astype("category")
    var = pd.DataFrame(index=pd.Index([f"dim_{i:04d}" for i in range(dim)], name="dimension"))
    rest = anndata.AnnData(obs=obs, var=var, shape=None if n else (0, dim))
    rest.uns["pellucid"] = {"schema": SCHEMA, "spec": json.dumps(chosen.spec, default=str)}
    if chosen.xy is not None:
        rest.obsm["X_umap"] = chosen.xy
    rest.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        stored = file.create_dataset("X", shape=(n, dim), dtype="float32", chunks=(max(1, min(n, 4096)), dim))
        for rows in blocks(n):
            stored[rows] = np.asarray(values[rows], dtype=np.float32)
        stored.attrs["encoding-type"] = "array"
        stored.attrs["encoding-version"] = "0.2.0"


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise UserError("two images have the same name: the manifest is damaged; scan again")
    return names
