"""Adding and removing without a rebuild: entries that stay are carried over, gone ones vanish, new ones are added."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.embed.index.build import build_index, finished
from pellucid.embed.index.index_files import read_faiss, read_record
from pellucid.embed.index.inverted_lists import list_ids
from pellucid.embed.index.kind import choose_kind
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.recall_tuning import Tuned, tuned
from pellucid.embed.index.training import inner, turned, unit_blocks
from pellucid.embed.index.untyped_faiss import faiss

_GROWN = 2.0  # times the vectors that the lists were learned from: then they are learned anew …
_SHRUNK = 0.5  # … and so when so few are left of them
_CHECKED = 256  # rows carried over whose codes are compared with their vectors


def extend_index(
    old_folder: Path,
    new_folder: Path,
    values: NDArray[np.float32],
    space: str | None,
    old_rows: NDArray[np.int64],
    wanted_recall: float = 0.98,
    kind: str = "auto",
    memory_gb: float | None = None,
    patients: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """The index of `values`, made from that of an earlier store of the same space.

    An exact index is written anew, which costs seconds. Inverted lists keep what was learned: an entry that stays moves
    to its new row number. A list that loses an entry is made anew from those that stay, its centre and their codes, so
    that nothing in the new file was computed from a vector that is gone but what all vectors share: the ranges of the
    codes, or their directions and codebooks. That is learned anew when the vectors have more than doubled or halved
    since, when another kind is due, or when the recall falls under what is wanted.

    Args:
        old_folder: the earlier store; only its index is read, and never changed.
        new_folder: where `index.faiss` and `index.json` are written; may be the same folder.
        values: (n, dim) float32, the new store's vectors.
        space: of `values`.
        old_rows: (n,) for each row of `values` its row in the earlier store, −1 for a new one.
        patients: as for `build_index`.

    Returns:
        What `index.json` says.

    Raises:
        ValueError: `old_rows` names a row twice or one that was not there, or its vectors are others than those.
    """

    def anew() -> dict[str, Any]:
        return build_index(new_folder, values, space, wanted_recall, kind, memory_gb, patients)

    began = time.monotonic()
    old_rows = np.asarray(old_rows, dtype=np.int64)
    carried = old_rows[old_rows >= 0]
    if old_rows.shape != (len(values),) or len(np.unique(carried)) != len(carried):
        raise ValueError("old_rows must give each row of `values` one row of the earlier store, or −1, and none twice")
    due = choose_kind(len(values), int(values.shape[1]), kind, memory_gb)
    old = _readable(old_folder, space, values.shape[1])
    if old is None:
        return anew()
    index, record = old
    if len(carried) and carried.max() >= record["n"]:
        raise ValueError(f"old_rows names row {carried.max()}, but the earlier store has {record['n']}")
    n_before = int(record["trained_on"])
    if due == "exact" or record["kind"] != due or not _SHRUNK * n_before <= len(values) <= _GROWN * n_before:
        return anew()
    new_of_old = np.full(record["n"], -1, np.int64)
    new_of_old[carried] = np.flatnonzero(old_rows >= 0)
    changed = _carry_over(index, values, new_of_old)
    _compare(index, values, np.flatnonzero(old_rows >= 0))
    added = np.flatnonzero(old_rows < 0)
    for start, block in unit_blocks(values, added):
        index.add_with_ids(block, added[start : start + len(block)])
    how: Tuned = tuned(index, values, due, wanted_recall)
    if not how.reached:
        return anew()
    more = {
        "trained_on": n_before,
        "lists_changed": int(record["lists_changed"]) + changed,
        "carried_over": len(carried),
    }
    return finished(new_folder, index, values, space, due, wanted_recall, how, began, patients, more)


def _readable(folder: Path, space: str | None, dim: int) -> tuple[Any, dict[str, Any]] | None:
    """The earlier index and its record; None where there is none to build on."""
    try:
        record = read_record(folder)
        if record is None or record["kind"] == "exact" or record["space"] != space or record["dim"] != dim:
            return None
        return read_faiss(folder, record, int(record["n"]), dim), record
    except (UserError, KeyError):
        return None  # damaged: what it held can be computed anew


def _carry_over(index: Any, values: NDArray[np.float32], new_of_old: NDArray[np.int64]) -> int:
    """Lists in new memory with the entries that stay, under their new rows; how many lists were made anew."""
    ivf = inner(index)
    old, size = ivf.invlists, int(ivf.code_size)
    new = faiss.ArrayInvertedLists(ivf.nlist, size)
    centres = faiss.rev_swig_ptr(faiss.downcast_index(ivf.quantizer).get_xb(), ivf.nlist * ivf.d).reshape(ivf.nlist, -1)
    losing = []
    kept = 0
    for number in range(ivf.nlist):
        ids = new_of_old[list_ids(old, number)]
        stays = np.flatnonzero(ids >= 0)
        if len(stays) < len(ids):
            losing.append(number)
        order = stays[np.argsort(ids[stays], kind="stable")]
        if not len(order):
            continue
        codes = codes_in_list(ivf, number)[order]
        rows = np.ascontiguousarray(ids[order])
        if losing and losing[-1] == number:
            codes = _anew(index, ivf, values, rows, centres, number)
        new.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(np.ascontiguousarray(codes)))
        kept += len(rows)
    empty = [number for number in losing if not new.list_size(number)]
    if empty:  # an empty list's centre may be the very vector that is gone: the mean of all centres says nothing of it
        others = np.setdiff1d(np.arange(ivf.nlist), empty)
        centres[empty] = normalised(centres[others].mean(axis=0, keepdims=True)) if len(others) else 0
    ivf.replace_invlists(new, True)
    new.this.own(False)
    ivf.ntotal = index.ntotal = kept
    return len(losing)


def _anew(
    index: Any,
    ivf: Any,
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    centres: NDArray[np.float32],
    number: int,
) -> NDArray[np.uint8]:
    """A list's centre from the rows that stay in it, and their codes about that centre."""
    seen = turned(index, normalised(np.asarray(values[rows], dtype=np.float32)))
    centres[number] = normalised(seen.mean(axis=0, keepdims=True))[0]
    return _codes(ivf, seen, np.full(len(rows), number, np.int64))


def codes_in_list(ivf: Any, number: int) -> NDArray[np.uint8]:
    """(entries, bytes) codes of one inverted list, as a copy, in the order of `list_ids`."""
    size, length = int(ivf.invlists.list_size(number)), int(ivf.code_size)
    if not size:
        return np.empty((0, length), np.uint8)
    pointer = ivf.invlists.get_codes(number)
    try:
        return np.array(faiss.rev_swig_ptr(pointer, size * length), dtype=np.uint8).reshape(size, length)
    finally:
        ivf.invlists.release_codes(number, pointer)


def _codes(ivf: Any, seen: NDArray[np.float32], lists: NDArray[np.int64]) -> NDArray[np.uint8]:
    codes = np.empty((len(seen), ivf.code_size), np.uint8)
    ivf.encode_vectors(len(seen), faiss.swig_ptr(seen), faiss.swig_ptr(lists), faiss.swig_ptr(codes))
    return codes


def _compare(index: Any, values: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """Codes that were carried over must be those of the vectors that are said to be theirs."""
    if not len(rows):
        return
    ivf = inner(index)
    some = np.random.default_rng(0).choice(rows, min(_CHECKED, len(rows)), replace=False)
    others = looked_at = 0
    for number in range(ivf.nlist):
        ids = list_ids(ivf.invlists, number)
        here = np.flatnonzero(np.isin(ids, some))
        if not len(here):
            continue
        codes = codes_in_list(ivf, number)[here]
        seen = turned(index, normalised(np.asarray(values[ids[here]], dtype=np.float32)))
        again = _codes(ivf, seen, np.full(len(here), number, np.int64))
        others += int((codes != again).sum())
        looked_at += codes.size
    if others > 0.1 * looked_at:  # another machine may round a code up or down; other vectors differ in nearly all
        raise ValueError("old_rows: vectors said to be carried over are not those of the earlier store")
