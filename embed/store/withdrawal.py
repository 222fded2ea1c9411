"""Forgetting in a store of vectors: rows, index entries and whatever else lies beside them in the same order."""

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
from pellucid.embed.store.snapshots import LOCK, WITHDRAWN, making, publish, tidy
from pellucid.embed.store.vectors import load_vectors


def forget_in_embed(run: RunFolder, withdrawn: Withdrawn, entry: Withdrawal) -> Path | None:
    """Take images out of a finished `embed` run; nothing is computed anew but what the index needs.

    Returns:
        The folder; None if nothing was left of it.
    """
    gone = withdrawn_rows(run, withdrawn)
    named = bool(failures_of(run.path, withdrawn))
    if not gone.any() and not named:
        return run.path
    if gone.all():
        remove_folder(run.path)
        return None
    record = forgotten(run.record, entry.name, entry.when, int(gone.sum()))
    return edit_folder(run.path, lambda staged: _without(run.path, staged, gone, withdrawn), record=record)


def forget_in_store(folder: Path, image_ids: Sequence[str], *, yes: bool) -> dict[str, Any]:
    """Take images out of a folder that `embed --out` made, and keep salted hashes of them there, so that they stay out.

    Args:
        folder: which holds `vectors.npy`.
        image_ids: as in its images.parquet.
        yes: do it; otherwise it is only said what would go.

    Returns:
        {"images": how many go, "left": how many stay}.

    Raises:
        UserError: no such folder, or an image that it does not hold.
    """
    if not yes:
        return _meant(folder, image_ids)[2]
    with exclusive(folder / LOCK, str(folder)):  # what is read before could be another's work by now
        withdrawn, gone, result = _meant(folder, image_ids)
        if gone.all():
            raise UserError(f"{folder}: nothing would be left: delete the folder")
        if new := [name for name in image_ids if not withdrawn.holds_image(name)]:
            entry = withdrawn.new(len(new))
            entry.files |= {withdrawn.hash("files", name) for name in new}
            withdrawn.save()  # first: killed from here on, neither a repeated call nor `embed` brings them back
        if gone.any() or failures_of(folder, withdrawn):
            staged = making(folder)
            _without(folder, staged, gone, withdrawn)
            publish(folder, f"without-{secrets.token_hex(4)}")
        tidy(folder)
        for entry in withdrawn.pending:
            entry.done = True
        withdrawn.save()
    return result


def _meant(folder: Path, image_ids: Sequence[str]) -> tuple[Withdrawn, NDArray[np.bool_], dict[str, Any]]:
    """The folder's list, which rows go, (n,), and how many."""
    withdrawn = Withdrawn.load(folder / WITHDRAWN)
    stored = load_vectors(folder)
    known = stored.images["image_id"].astype(str)
    there = set(known) | {str(failure["image_id"]) for failure in stored.spec.get("failed", [])}
    missing = [name for name in image_ids if name not in there and not withdrawn.holds_image(name)]
    if missing:
        raise UserError(f"{folder}: holds no image `{missing[0]}`{did_you_mean(missing[0], known)}")
    gone = known.isin(set(image_ids)).to_numpy() | withdrawn.which(known.tolist())
    return withdrawn, gone, {"images": int(gone.sum()), "left": int((~gone).sum())}


def failures_of(folder: Path, withdrawn: Withdrawn) -> list[str]:
    """Withdrawn images that a store's spec.json names as unreadable."""
    path = folder / "spec.json"
    spec = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = [str(failure["image_id"]) for failure in spec.get("failed", [])]
    return [name for name, out in zip(names, withdrawn.which(names), strict=True) if out]


def _without(folder: Path, staged: Path, gone: NDArray[np.bool_], withdrawn: Withdrawn) -> list[str]:
    """Write the store without the rows of `gone` (n,) into `staged`; names of what is to be removed."""
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
    unread = set(failures_of(folder, withdrawn))
    spec["n"] = int((~gone).sum())
    if "failed" in spec:
        spec["failed"] = [failure for failure in spec["failed"] if failure["image_id"] not in unread]
    write_json(staged / "spec.json", spec)
    if removed:
        _index(folder, staged, gone)
    return [name for name in removed if not (staged / name).exists()]


def _index(folder: Path, staged: Path, gone: NDArray[np.bool_]) -> None:
    """The index over what is left: a trained one keeps its training, and loses the entries."""
    from pellucid.embed.index import extend_index, read_record

    stored, record = load_vectors(staged), read_record(folder) or {}
    patients = stored.images["patient"].to_numpy() if "patient" in stored.images else None
    kept = np.flatnonzero(~gone).astype(np.int64)
    recall, kind = record.get("recall_wanted", 0.98), record.get("kind", "auto")
    extend_index(folder, staged, stored.values, stored.space, kept, recall, kind, patients=patients)
