"""The one exception to "a run is never edited": taking a withdrawn patient's images out of it, so that a kill loses
nothing.

What a run becomes is first written whole into `.forgetting/` inside its folder, `ready.json` last; only then are files
replaced, one rename after the other. A repeated command rolls forward what is ready and throws away what is not.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pellucid.cohort.runs.atomic_files import exclusive, sync_path, write_json
from pellucid.cohort.runs.checksums import sha256_file

STAGED = ".forgetting"
_READY = "ready.json"
SUMS = "SHA256SUMS"
_GONE = ".gone"


def edit_folder(
    folder: Path,
    build: Callable[[Path], Collection[str]],
    *,
    record: dict[str, Any] | None = None,
    name: str | None = None,
) -> Path:
    """Replace and remove files of a folder, all of them or none.

    Args:
        folder: a finished run, or a folder of vectors.
        build: writes new files, under their relative names, into the folder it is given; returns the names of those
            to be removed.
        record: the new `run.json`.
        name: the folder's new name; None: as it was.

    Returns:
        The folder under its final name. Checksums are renewed for what changed; the others are copied unread.
    """
    staged = folder / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    removed = set(build(staged))
    if record is not None:
        write_json(staged / "run.json", record)
    replaced = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    if (folder / SUMS).is_file():
        kept = [
            line
            for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()
            if line.partition("  ")[2] not in replaced | removed
        ]
        new = [f"{sha256_file(staged / path)}  {path}" for path in replaced]
        lines = sorted([*kept, *new], key=lambda line: Path(line.partition("  ")[2]))
        (staged / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for path in staged.rglob("*"):
        if path.is_file():
            sync_path(path)
    write_json(staged / _READY, {"removed": sorted(removed), "name": name or folder.name})
    return roll_forward(folder)


def roll_forward(folder: Path) -> Path:
    """Bring an edit that is ready to its end, or throw away one that is not; the folder under its final name."""
    staged = folder / STAGED
    if not staged.is_dir():
        return folder
    if not (staged / _READY).is_file():
        shutil.rmtree(staged)
        return folder
    ready = json.loads((staged / _READY).read_text(encoding="utf-8"))
    files = sorted(p for p in staged.rglob("*") if p.is_file() and p.name != _READY)
    files.sort(key=lambda path: path.name == SUMS)  # last
    for path in files:
        target = folder / path.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    for name in ready["removed"]:
        (folder / name).unlink(missing_ok=True)
    sync_path(folder)
    target = folder.with_name(ready["name"])
    if target != folder:
        if target.exists():  # made anew in the meantime
            remove_folder(folder)
            return target
        folder.rename(target)
        sync_path(target.parent)
    shutil.rmtree(target / STAGED)
    return target


def remove_folder(folder: Path) -> None:
    """Remove a folder; killed in the middle, no half of it is left that could be taken for a run."""
    gone = folder.with_name(f".{folder.name}{_GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    sync_path(gone.parent)
    shutil.rmtree(gone)


@contextlib.contextmanager
def all_locked(analysis: Path) -> Iterator[None]:
    """Hold the lock of every run, finished or not.

    Raises:
        UserError: another process holds one.
    """
    with contextlib.ExitStack() as stack:
        for lock in sorted(analysis.glob("*/.*.lock")):
            what = f"{lock.parent.name}/{lock.name[1:].removesuffix('.lock')}"
            stack.enter_context(exclusive(lock, what))
        yield


def finish_interrupted(analysis: Path) -> None:
    """Complete what an interrupted `forget` or `tidy` left half done below `analysis`."""
    for gone in analysis.glob(f"*/.*{_GONE}"):
        shutil.rmtree(gone)
    for staged in analysis.glob(f"*/*/{STAGED}"):
        roll_forward(staged.parent)


def filter_parquet(
    source: Path, target: Path, keep: NDArray[np.bool_], blank: dict[str, set[str]] | None = None
) -> None:
    """Copy the rows to keep, a row group in memory at a time.

    Args:
        keep: (n,) of the file's rows.
        blank: {column: values} that become "" wherever they occur: references to removed rows.
    """
    with pq.ParquetFile(source) as file:
        schema = file.schema_arrow
        target.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(target, schema) as writer:
            start = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                table = table.filter(pa.array(keep[start : start + len(table)]))
                start += file.metadata.row_group(group).num_rows
                for name, values in (blank or {}).items():
                    table = _blanked(table, name, values)
                if len(table):
                    writer.write_table(_without_unused_levels(table))


def _blanked(table: pa.Table, name: str, values: set[str]) -> pa.Table:
    place = table.schema.get_field_index(name)
    if place < 0 or not values:
        return table
    column = ["" if value in values else value for value in table.column(place).to_pylist()]
    return table.set_column(place, table.schema.field(place), pa.array(column, table.schema.field(place).type))


def _without_unused_levels(table: pa.Table) -> pa.Table:
    """Categories that only removed rows had are gone too: a dictionary keeps them otherwise."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            column = table.column(place).cast(field.type.value_type)
            table = table.set_column(place, field, column.dictionary_encode().cast(field.type))
    return table


def filter_rows(source: Path, target: Path, keep: NDArray[np.bool_], chunk_bytes: int = 64 << 20) -> None:
    """Copy the rows to keep of a `.npy`, a piece in memory at a time."""
    values = np.load(source, mmap_mode="r")
    target.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(keep.sum()), *values.shape[1:])
    out = np.lib.format.open_memmap(target, mode="w+", dtype=values.dtype, shape=shape)
    step = max(1, chunk_bytes // max(1, values[:1].nbytes))
    at = 0
    for start in range(0, len(values), step):
        part = values[start : start + step][keep[start : start + step]]
        out[at : at + len(part)] = part
        at += len(part)
    out.flush()


def forgotten(record: dict[str, Any], name: str, when: str, images: int, **more: Any) -> dict[str, Any]:
    """A run's record with one more forgetting in it: when and how many images, not whose."""
    entry = {"name": name, "when": when, "images": images, **more}
    return {**record, "forgotten": [*record.get("forgotten", []), entry]}


def knows(record: dict[str, Any], names: Sequence[str]) -> bool:
    """Has one of these forgettings gone through the run already?"""
    return any(entry["name"] in names for entry in record.get("forgotten", []))
