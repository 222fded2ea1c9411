"""The one pass over the originals: each is opened, hashed, decoded, measured and prepared exactly once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import shard_path, write_shard
from pellucid.cohort.intake.file_listing import Listing
from pellucid.cohort.intake.sandbox import read_files
from pellucid.cohort.measures.phenotypes import PHENOTYPES
from pellucid.cohort.measures.quality import QUALITY_COLUMNS
from pellucid.cohort.runs.atomic_files import atomic_path
from pellucid.cohort.runs.private_files import umask_for
from pellucid.cohort.study import ScanConfig
from pellucid.cohort.withdrawal_list import Withdrawn

_CHUNK_BYTES = 512 << 20  # a chunk ends here even if it has few files: slides are large
_SHARDS_A_CHUNK = 10_000
_NUMBERS = ("width", "height", "bits")
_TEXTS = ("format", "findings", "pixel_hash", "perceptual_hash", "prepared", "text_read")
# What acquisition factors are made of; a header may hold others beside these, which every manifest has.
_HEADERS = ("manufacturer", "model", "software", "modality", "year", "patient_id")


def chunks_of(listing: Listing, config: ScanConfig) -> list[list[str]]:
    """The listing cut into pieces of work; each is resumed, retried and stored as one."""
    chunks: list[list[str]] = []
    size = 0
    for file, n_bytes in zip(listing.image_ids, listing.n_bytes, strict=True):
        if not chunks or len(chunks[-1]) >= config.shard_images or size + n_bytes > _CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(file)
        size += n_bytes
    return chunks


def _read_chunk(
    folder: Path, root: Path, number: int, files: list[str], config: ScanConfig, withdrawn: Withdrawn | None
) -> int:
    os.umask(umask_for(folder))  # already so here; a worker of Dask has a umask of its own
    rows: list[dict[str, Any]] = []
    kept: list[str] = []
    encoded: list[bytes] = []
    shard = number * _SHARDS_A_CHUNK
    for row, prepared in read_files(root, files, config):
        if withdrawn is not None and withdrawn.holds_image(row["image_id"]):
            continue  # a frame of somebody who withdrew, in a file that others share
        row |= {"shard": shard if prepared else -1, "shard_row": len(kept) if prepared else -1}
        rows.append(row)
        if prepared:
            kept.append(row["image_id"])
            encoded.append(prepared)
            if len(kept) == config.shard_images:  # a slide gives thousands of tiles: they do not wait in memory
                write_shard(shard_path(folder, shard), kept, encoded)
                kept, encoded, shard = [], [], shard + 1
    if kept:
        write_shard(shard_path(folder, shard), kept, encoded)
    with atomic_path(_rows_path(folder, number)) as temporary:  # last: its presence says that the chunk is whole
        _typed(pd.DataFrame(rows)).to_parquet(temporary, index=False)
    return len(files)


def read_all(
    folder: Path, listing: Listing, config: ScanConfig, dask: str = "", withdrawn: Withdrawn | None = None
) -> Iterator[int]:
    """Do the pass into a run folder, resuming after whatever is there; yields how many files each step added.

    Writes `prepared/shard-*.arrow` and `images.parquet` (a row for each picture, in the listing's order).

    Args:
        folder: of the run.
        listing: which files there are.
        config: how they are read.
        dask: address of a Dask scheduler whose workers see the same folders; without one, processes of this machine.
        withdrawn: whose frames are left out of files that stay.

    Raises:
        UserError: the scheduler cannot be reached, or Dask is not installed.
    """
    (folder / "prepared").mkdir(exist_ok=True)
    (folder / "rows").mkdir(exist_ok=True)
    chunks = chunks_of(listing, config)
    todo = [number for number in range(len(chunks)) if not _rows_path(folder, number).exists()]
    yield len(listing.image_ids) - sum(len(chunks[number]) for number in todo)
    workers = config.workers or joblib.cpu_count()
    frames = withdrawn if withdrawn is not None and withdrawn.frames_fingerprint else None
    jobs = (joblib.delayed(_read_chunk)(folder, listing.root, i, chunks[i], config, frames) for i in todo)
    with _cluster(dask) if dask else nullcontext():
        # Here a thread for each core is enough: it only listens to a process that reads
        # (pellucid.cohort.intake.sandbox).
        parallel = joblib.Parallel(
            n_jobs=-1 if dask else max(1, min(workers, len(todo))),
            prefer=None if dask else "threads",
            return_as="generator_unordered",
            pre_dispatch="2*n_jobs",
        )
        yield from parallel(jobs)
    _join_rows(folder, len(chunks))


def _cluster(address: str) -> Any:
    try:
        from dask.distributed import Client
    except ImportError:
        raise UserError("--dask needs Dask: install pellucid[cluster]") from None
    try:
        client = Client(address, timeout="5s", set_as_default=True)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {address}: no scheduler answers there ({error})") from None
    return _closing(client)


class _closing:
    """joblib's Dask backend for the block, and the client closed after it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.backend = joblib.parallel_config(backend="dask", wait_for_workers_timeout=60)

    def __enter__(self) -> None:
        self.backend.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.backend.__exit__(*error)
        self.client.close()


def _join_rows(folder: Path, n_chunks: int) -> None:
    """All rows in one table, a chunk in memory at a time; a header field that one chunk lacks is empty there."""
    paths = [_rows_path(folder, number) for number in range(n_chunks)]
    schema = pa.unify_schemas([pq.read_schema(path).remove_metadata() for path in paths])
    first = [name for name in schema.names if not name.startswith("header_")]
    schema = pa.schema([schema.field(name) for name in [*first, *sorted(set(schema.names) - set(first))]])
    with atomic_path(folder / "images.parquet") as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for path in paths:
            table = pq.read_table(path)
            for name in set(schema.names) - set(table.column_names):
                table = table.append_column(name, pa.array([""] * len(table), schema.field(name).type))
            writer.write_table(table.select(schema.names).cast(schema))


def _rows_path(folder: Path, number: int) -> Path:
    return folder / "rows" / f"rows-{number:05d}.parquet"


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same columns and types whatever happened to be in a chunk."""
    empty = pd.Series(index=frame.index, dtype=object)
    numbers = {name: pd.to_numeric(frame.get(name, empty)).fillna(0).astype("int64") for name in _NUMBERS}
    measures = [*(f"phenotype_{name}" for name in PHENOTYPES), *QUALITY_COLUMNS]
    measured = {name: pd.to_numeric(frame.get(name, empty)).astype(float) for name in measures}
    headers = sorted({c for c in frame.columns if c.startswith("header_")} | {f"header_{name}" for name in _HEADERS})
    texts = {name: frame.get(name, empty).fillna("").astype(str) for name in (*_TEXTS, *headers)}
    first = ["image_id", "file", "frame", "status", "reason", "sha256", "n_bytes"]
    rest = {"shard": frame["shard"], "shard_row": frame["shard_row"], **numbers, **measured}
    marked = {"text_like": frame.get("text_like", empty).eq(True)}
    return pd.DataFrame({**{name: frame[name] for name in first}, **rest, **marked, **texts})
