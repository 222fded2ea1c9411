"""Exports as one Parquet file: vectors with columns, or the input of Embedding Atlas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pellucid.embed.export.selection import Chosen

SCHEMA = "pellucid.export/1"
ROWS = 16_384  # held in memory at once
NEIGHBOURS = 15

Search = Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]


def write_parquet(chosen: Chosen, path: Path) -> None:
    """One row per image: its columns, and `vector` as a list of float32 of fixed length.

    The metadata of the file contain `pellucid.export` (schema) and `pellucid.spec` (JSON: description of the vectors).
    """
    values = chosen.vectors.values
    kind = pa.list_(pa.float32(), values.shape[1])

    def vector(rows: slice) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(values[rows], dtype=np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)

    _write(chosen, path, [("vector", kind, vector)])


def write_atlas(chosen: Chosen, path: Path, search: Search) -> str:
    """Write the input of Embedding Atlas: x and y of the map (or the vectors if there is no map), and `neighbors`.

    Args:
        search: unit queries (m, dim) and k → cosines and rows.

    Returns:
        The command that opens it.
    """
    values = chosen.vectors.values
    neighbours = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])

    def nearest(rows: slice) -> pa.Array:
        return pa.array(_neighbours(values, rows, search), neighbours)

    more: list[tuple[str, Any, Callable[[slice], pa.Array]]] = [("neighbors", neighbours, nearest)]
    xy = chosen.xy
    if xy is not None:
        more = [(name, pa.float32(), _column(xy[:, axis])) for axis, name in enumerate("xy")] + more
        options = "--x x --y y --neighbors neighbors"
    else:
        kind = pa.list_(pa.float32())
        more.insert(0, ("vector", kind, lambda rows: pa.array(list(np.asarray(values[rows])), kind)))
        options = "--vector vector"  # Embedding Atlas then computes map and neighbours itself
    _write(chosen, path, more)
    return f"embedding-atlas {path} {options}"


def _column(values: NDArray[np.float32]) -> Callable[[slice], pa.Array]:
    return lambda rows: pa.array(values[rows])


def _neighbours(values: NDArray[np.float32], rows: slice, search: Search) -> list[dict[str, Any]]:
    queries = np.asarray(values[rows], dtype=np.float32)
    similarity, found = search(queries, NEIGHBOURS + 1)
    neighbours = []
    for own, cosines, ids in zip(range(*rows.indices(len(values))), similarity, found, strict=True):
        others = (ids != own) & (ids >= 0)
        neighbours.append(
            {
                "ids": ids[others][:NEIGHBOURS].tolist(),
                "distances": np.clip(1 - cosines[others], 0, 2)[:NEIGHBOURS].tolist(),
            }
        )
    return neighbours


def _write(chosen: Chosen, path: Path, more: list[tuple[str, Any, Callable[[slice], pa.Array]]]) -> None:
    frame = plain(chosen.frame)
    base = pa.Schema.from_pandas(frame, preserve_index=False).remove_metadata()
    schema = pa.schema([*base, *((name, kind) for name, kind, _ in more)])
    metadata = {"pellucid.export": SCHEMA, "pellucid.spec": json.dumps(chosen.spec, default=str)}
    with pq.ParquetWriter(path, schema.with_metadata(metadata)) as writer:
        for rows in blocks(len(frame)):
            part = pa.Table.from_pandas(frame.iloc[rows], schema=base, preserve_index=False)
            for name, kind, values in more:
                part = part.append_column(pa.field(name, kind), values(rows))
            writer.write_table(part.replace_schema_metadata(metadata))


def blocks(n: int) -> Iterator[slice]:
    """Slices of 0 … n with `ROWS` rows each."""
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Categorical and object columns as text; numbers unchanged."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype == object:
            text = column.astype(object)
            columns[name] = text.where(text.isna(), text.map(str)).where(text.notna(), None)
        else:
            columns[name] = column
    return pd.DataFrame(columns).reset_index(drop=True)
