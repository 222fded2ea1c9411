"""Remove images from `read` and `scan` runs; relink children."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.prepared_images import shard_path, write_shard
from pellucid.cohort.intake.file_listing import list_images, read_inputs
from pellucid.cohort.runs.checksums import sha256_file
from pellucid.cohort.runs.folder import RunFolder, run_key
from pellucid.cohort.runs.history import finished_runs
from pellucid.cohort.runs.rewrite import edit_folder, filter_parquet, forgotten, remove_folder
from pellucid.cohort.runs.stages import position
from pellucid.cohort.study import Study
from pellucid.cohort.withdrawal_list import Withdrawal, Withdrawn


def withdrawn_rows(run: RunFolder, withdrawn: Withdrawn) -> NDArray[np.bool_]:
    """For each row of a run's table of images whether it was withdrawn; empty where the run has no such table."""
    name = "manifest.parquet" if run.stage == "scan" else "images.parquet"
    if not (run.path / name).is_file():
        return np.zeros(0, dtype=bool)
    if run.stage in {"read", "scan"}:
        table = pq.read_table(run.path / name, columns=["image_id", "file"])
        return withdrawn.which_files(table["file"].to_pylist(), table["image_id"].to_pylist())
    if "image_id" not in pq.read_schema(run.path / name).names:
        return np.zeros(0, dtype=bool)
    return withdrawn.which(pq.read_table(run.path / name, columns=["image_id"])["image_id"].to_pylist())


# ------------------------------------------------------------------------------------------------ read


def forget_in_read(study: Study, run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path | None:
    """Take images out of a `read` run: their rows, and their bytes in the shards, whose other rows keep their places.

    A run of the study as it is now gets the key that the study has without the withdrawn files, so that nothing is
    decoded again; this costs the shards that are touched and one reading of images.parquet.

    Returns:
        The folder under its final name; None if nothing was left of it.
    """
    gone = withdrawn_rows(run, withdrawn)
    inputs = _inputs_now(study, run, withdrawn, gone)
    if not gone.any() and inputs == run.record["inputs"]:
        return run.path
    if gone.all():
        remove_folder(run.path)
        return None
    record = dict(run.record)
    name = run.path.name
    if inputs != record["inputs"]:
        former = {"former_key": run.key}
        record |= {"inputs": inputs, "key": run_key("read", record["config"], inputs=inputs)}
        name = f"{run.name}-{record['key'][:8]}"
    else:
        former = {}
    record = forgotten(record, entry.name, entry.when, int(gone.sum()), **former)

    def build(staged: Path) -> list[str]:
        images = pq.read_table(run.path / "images.parquet", columns=["shard", "shard_row"])
        places = images.to_pandas()[gone]
        removed = []
        for shard, rows in places[places["shard"] >= 0].groupby("shard")["shard_row"]:
            if not _blank_shard(run.path, staged, int(shard), set(rows)):
                removed.append(shard_path(Path(), int(shard)).as_posix())
        for path, start, count in _row_files(run.path, np.flatnonzero(gone)):
            filter_parquet(path, staged / "rows" / path.name, ~gone[start : start + count])
        filter_parquet(run.path / "images.parquet", staged / "images.parquet", ~gone)
        return removed

    return edit_folder(run.path, build, record=record, name=name)


def _blank_shard(folder: Path, staged: Path, shard: int, rows: set[int]) -> bool:
    """A shard whose given rows are empty, written below `staged`; False if no other row was left."""
    with pa.memory_map(str(shard_path(folder, shard))) as source:
        table = pa.ipc.open_file(source).read_all()
        ids = ["" if i in rows else image_id for i, image_id in enumerate(table["image_id"].to_pylist())]
        images = [b"" if i in rows else image for i, image in enumerate(table["image"].to_pylist())]
        del table
    if not any(images):
        return False
    target = shard_path(staged, shard)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_shard(target, ids, images)
    return True


def _row_files(folder: Path, gone: NDArray[np.intp]) -> list[tuple[Path, int, int]]:
    """The files of rows/ that hold the given rows of images.parquet, with where they begin there and how many they
    are."""
    if not (folder / "rows").is_dir():
        return []
    found = []
    start = 0
    for path in sorted((folder / "rows").glob("rows-*.parquet"), key=lambda p: int(p.stem.rpartition("-")[2])):
        count = pq.read_metadata(path).num_rows
        first, past = np.searchsorted(gone, [start, start + count])
        if past > first:
            found.append((path, start, count))
        start += count
    return found


def _inputs_now(study: Study, run: RunFolder, withdrawn: Withdrawn, gone: NDArray[np.bool_]) -> dict[str, str]:
    """What the run's inputs are after the withdrawal; as they were where it is not of the study as it is now."""
    inputs = dict(run.record["inputs"])
    try:
        before, now = list_images(study, withdrawn.without_pending()), list_images(study, withdrawn)
    except UserError:  # the originals are not there: the next scan will have to say so
        return inputs
    new = read_inputs(now.fingerprint, withdrawn)
    if inputs in (new, read_inputs(before.fingerprint, withdrawn.without_pending())):
        return new
    # Their originals may have been removed already: then the others must be as they were when they were read.
    files = pq.read_table(run.path / "images.parquet", columns=["file", "n_bytes"]).to_pandas()
    sizes = dict(files[~gone].drop_duplicates("file").itertuples(index=False, name=None))
    started = datetime.fromisoformat(run.record["started"]).timestamp()
    same = sizes == dict(zip(now.image_ids, now.n_bytes, strict=True)) and all(
        (now.root / name).stat().st_mtime < started for name in now.image_ids
    )
    return new if same else inputs


# ------------------------------------------------------------------------------------------------ scan and the rest


def forget_in_scan(run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path | None:
    """Take images out of the manifest of a `scan` run; its source audit, which counted them, goes: the next scan makes
    one for the patients who are left.

    Returns:
        The folder; None if nothing was left of it.
    """
    gone = withdrawn_rows(run, withdrawn)
    if not gone.any():
        return run.path
    if gone.all():
        remove_folder(run.path)
        return None
    ids = set(
        np.array(pq.read_table(run.path / "manifest.parquet", columns=["image_id"])["image_id"].to_pylist())[gone]
    )

    def build(staged: Path) -> list[str]:
        filter_parquet(run.path / "manifest.parquet", staged / "manifest.parquet", ~gone, {"duplicate_of": ids})
        return [path.name for path in run.path.iterdir() if path.name == "source.json"]

    return edit_folder(run.path, build, record=forgotten(run.record, entry.name, entry.when, int(gone.sum())))


def relink(analysis: Path) -> None:
    """Runs that were made from an edited run get to know its new checksum (and its new name)."""
    relinked = True
    while relinked:  # one at a time: its own checksums are others afterwards, and it may be a parent too
        relinked = False
        runs = sorted(finished_runs(analysis), key=lambda run: position(run.stage))
        edited: dict[str, RunFolder] = {}
        for run in runs:
            parents = run.record["parents"]
            if "forgotten" in run.record or any(parent["key"] in edited for parent in parents):
                edited |= dict.fromkeys([run.key, *former_keys(run.record)], run)
            now = [_renewed(parent, edited) for parent in parents]
            if now != parents:
                edit_folder(run.path, lambda staged: [], record={**run.record, "parents": now})
                relinked = True
                break


def former_keys(record: dict[str, Any]) -> list[str]:
    """Keys that a run had before images were taken out of it."""
    return [entry["former_key"] for entry in record.get("forgotten", []) if "former_key" in entry]


def _renewed(parent: dict[str, str], by_key: dict[str, RunFolder]) -> dict[str, str]:
    run = by_key.get(parent["key"])
    if run is None:
        return parent
    return {
        **parent,
        "name": run.path.name,
        "key": run.key,
        "path": f"{run.stage}/{run.path.name}",
        "sha256": sha256_file(run.path / "SHA256SUMS"),
    }
