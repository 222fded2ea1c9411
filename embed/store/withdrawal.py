"""Remove withdrawn images from a vector store: their rows in every file, and their index entries."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import (
    RunFolder,
    edit_folder,
    exclusive,
    filter_parquet,
    filter_rows,
    forgotten,
    remove_folder,
    write_json,
)
from pellucid.cohort.withdrawal import withdrawn_rows
from pellucid.cohort.withdrawal_list import Withdrawal, Withdrawn
from pellucid.embed.store.snapshots import LOCK, WITHDRAWN, new_version, publish, tidy
from pellucid.embed.store.vectors import load_vectors


def forget_in_embed(run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path | None:
    """Remove images from a finished `embed` run; only the index is recomputed, as far as necessary.

    Returns:
        The folder; None if no image was left.
    """
    gone = withdrawn_rows(run, withdrawn)
    names_some = bool(failures_of(run.path, withdrawn))
    if not gone.any() and not names_some:
        return run.path
    if gone.all():
        remove_folder(run.path)
        return None
    record = forgotten(run.record, entry.name, entry.when, int(gone.sum()))
    return edit_folder(run.path, lambda staged: _without(run.path, staged, gone, withdrawn), record=record)


def forget_in_store(folder: Path, image_ids: Sequence[str], *, yes: bool) -> dict[str, Any]:
    """Remove images from a folder written by `embed --out`; their salted hashes are kept there, so that they stay out.

    Args:
        folder: contains `vectors.npy`.
        image_ids: as in its images.parquet.
        yes: apply the removal; otherwise only count what would be removed.

    Returns:
        {"images": number of images removed, "left": number of images kept}.

    Raises:
        UserError: no such folder, or an image that is not in it.
    """
    if not yes:
        return _select(folder, image_ids)[2]
    with exclusive(folder / LOCK, str(folder)):  # select within the lock: another process may change the store before
        withdrawn, gone, result = _select(folder, image_ids)
        if gone.all():
            raise UserError(f"{folder}: no image would be left: delete the folder instead")
        if new := [name for name in image_ids if not withdrawn.holds_image(name)]:
            entry = withdrawn.new(len(new))
            entry.files |= {withdrawn.hash("files", name) for name in new}
            withdrawn.save()  # before anything else: after a kill, neither a repeated call nor `embed` restores them
        if gone.any() or failures_of(folder, withdrawn):
            staged = new_version(folder)
            _without(folder, staged, gone, withdrawn)
            publish(folder, f"without-{secrets.token_hex(4)}")
        tidy(folder)
        for entry in withdrawn.pending:
            entry.done = True
        withdrawn.save()
    return result


def _select(folder: Path, image_ids: Sequence[str]) -> tuple[Withdrawn, NDArray[np.bool_], dict[str, Any]]:
    """The folder's withdrawal list, a mask of the rows to remove, (n,), and the counts."""
    withdrawn = Withdrawn.load(folder / WITHDRAWN)
    stored = load_vectors(folder)
    known = stored.images["image_id"].astype(str)
    present = set(known) | {str(failure["image_id"]) for failure in stored.spec.get("failed", [])}
    missing = [name for name in image_ids if name not in present and not withdrawn.holds_image(name)]
    if missing:
        raise UserError(f"{folder}: contains no image `{missing[0]}`{did_you_mean(missing[0], known)}")
    gone = known.isin(set(image_ids)).to_numpy() | withdrawn.which(known.tolist())
    return withdrawn, gone, {"images": int(gone.sum()), "left": int((~gone).sum())}


def failures_of(folder: Path, withdrawn: Withdrawn) -> list[str]:
    """Withdrawn images that the store's spec.json lists as unreadable."""
    path = folder / "spec.json"
    spec = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = [str(failure["image_id"]) for failure in spec.get("failed", [])]
    return [name for name, out in zip(names, withdrawn.which(names), strict=True) if out]


def _without(folder: Path, staged: Path, gone: NDArray[np.bool_], withdrawn: Withdrawn) -> list[str]:
    """Write the store without the rows of `gone` (n,) into `staged`; returns names of files to delete."""
    n, removed = len(gone), []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".npy" and len(np.load(path, mmap_mode="r")) == n:
            filter_rows(path, staged / path.name, ~gone)
        elif path.suffix == ".parquet" and "image_id" in pq.read_schema(path).names:
            ids = pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
            filter_parquet(path, staged / path.name, ~(gone if len(ids) == n else withdrawn.which(ids)))
        elif path.name.startswith("index"):
            removed.append(path.name)
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    unreadable = set(failures_of(folder, withdrawn))
    spec["n"] = int((~gone).sum())
    if "failed" in spec:
        spec["failed"] = [failure for failure in spec["failed"] if failure["image_id"] not in unreadable]
    write_json(staged / "spec.json", spec)
    if removed:
        _index(folder, staged, gone)
    return [name for name in removed if not (staged / name).exists()]


def _index(folder: Path, staged: Path, gone: NDArray[np.bool_]) -> None:
    """Write the index of the remaining rows: a trained index keeps its training and loses the removed entries."""
    from pellucid.embed.index import extend_index, read_record

    stored, record = load_vectors(staged), read_record(folder) or {}
    patients = stored.images["patient"].to_numpy() if "patient" in stored.images else None
    kept = np.flatnonzero(~gone).astype(np.int64)
    recall, kind = record.get("recall_wanted", 0.98), record.get("kind", "auto")
    extend_index(folder, staged, stored.values, stored.space, kept, recall, kind, patients=patients)
