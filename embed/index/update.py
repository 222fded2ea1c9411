"""Update an index without a rebuild: carry over kept entries, drop removed ones, add new ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.embed.index.build import build_index, write_tuned
from pellucid.embed.index.index_files import read_faiss, read_record
from pellucid.embed.index.inverted_lists import list_ids
from pellucid.embed.index.kind import choose_kind
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.index.recall_tuning import tuned
from pellucid.embed.index.training import inner, projected, unit_blocks
from pellucid.embed.index.untyped_faiss import faiss

_GROWN = 2.0  # train again above this multiple of the number of training vectors …
_SHRUNK = 0.5  # … or below this one
_CHECKED = 256  # carried-over rows whose codes are compared with their vectors


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
    """Make the index of `values` from that of an earlier store in the same space.

    An exact index is rebuilt, which takes seconds. Inverted lists keep their training: a kept entry moves to its new
    row number. A list that loses an entry gets a new centre and new codes from its remaining entries. The new file then
    depends on removed vectors only through what all vectors share: the ranges of the codes, or their directions and
    codebooks. Everything is trained again if the number of vectors has more than doubled or halved since training, if
    another kind of index is due, or if the recall is too low.

    Args:
        old_folder: the earlier store; only its index is read, and nothing is changed.
        new_folder: where `index.faiss` and `index.json` are written; may be the same folder.
        values: (n, dim) float32, the vectors of the new store.
        space: of `values`.
        old_rows: (n,) row of each vector in the earlier store, −1 for a new one.
        wanted_recall, kind, memory_gb, patients: as for `build_index`.

    Returns:
        The content of `index.json`.

    Raises:
        ValueError: `old_rows` names a row twice, a row that did not exist, or a row with another vector.
    """
    began = time.monotonic()
    old_rows = np.asarray(old_rows, dtype=np.int64)
    due = choose_kind(len(values), int(values.shape[1]), kind, memory_gb)
    extended = _extended(old_folder, values, space, old_rows, due)
    if extended is not None:
        index, more = extended
        settings = tuned(index, values, due, wanted_recall)
        if settings.reached:
            return write_tuned(new_folder, index, values, space, due, wanted_recall, settings, began, patients, more)
    return build_index(new_folder, values, space, wanted_recall, kind, memory_gb, patients)


def _extended(
    old_folder: Path, values: NDArray[np.float32], space: str | None, old_rows: NDArray[np.int64], due: str
) -> tuple[Any, dict[str, Any]] | None:
    """The earlier index brought up to date, and what `index.json` records about that; None if a new one is due."""
    carried = old_rows[old_rows >= 0]
    if old_rows.shape != (len(values),) or len(np.unique(carried)) != len(carried):
        raise ValueError("old_rows must give each row of `values` one row of the earlier store, or −1, and none twice")
    old = _readable(old_folder, space, values.shape[1])
    if old is None:
        return None
    index, record = old
    if len(carried) and carried.max() >= record["n"]:
        raise ValueError(f"old_rows names row {carried.max()}, but the earlier store has {record['n']}")
    trained_on = int(record["trained_on"])
    enough_alike = _SHRUNK * trained_on <= len(values) <= _GROWN * trained_on
    if due == "exact" or record["kind"] != due or not enough_alike:
        return None
    kept, added = np.flatnonzero(old_rows >= 0), np.flatnonzero(old_rows < 0)
    new_of_old = np.full(record["n"], -1, np.int64)
    new_of_old[carried] = kept
    lists_changed = _carry_over(index, values, new_of_old)
    _refuse_other_vectors(index, values, kept)
    for start, block in unit_blocks(values, added):
        index.add_with_ids(block, added[start : start + len(block)])
    return index, {
        "trained_on": trained_on,
        "lists_changed": int(record["lists_changed"]) + lists_changed,
        "carried_over": len(carried),
    }


def _readable(folder: Path, space: str | None, dim: int) -> tuple[Any, dict[str, Any]] | None:
    """The earlier index and its record; None if there is none that can be extended."""
    try:
        record = read_record(folder)
        if record is None or record["kind"] == "exact" or record["space"] != space or record["dim"] != dim:
            return None
        return read_faiss(folder, record, int(record["n"]), dim), record
    except (UserError, KeyError):
        return None  # damaged: it can be built again


def _carry_over(index: Any, values: NDArray[np.float32], new_of_old: NDArray[np.int64]) -> int:
    """Replace the lists by copies with the kept entries under their new rows; returns how many lists lost entries."""
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
            codes = _recode_list(index, ivf, values, rows, centres, number)
        new.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(np.ascontiguousarray(codes)))
        kept += len(rows)
    empty = [number for number in losing if not new.list_size(number)]
    if empty:  # the centre of an empty list may equal a removed vector: replace it by the mean of all others
        others = np.setdiff1d(np.arange(ivf.nlist), empty)
        centres[empty] = normalised(centres[others].mean(axis=0, keepdims=True)) if len(others) else 0
    ivf.replace_invlists(new, True)
    new.this.own(False)
    ivf.ntotal = index.ntotal = kept
    return len(losing)


def _recode_list(
    index: Any,
    ivf: Any,
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    centres: NDArray[np.float32],
    number: int,
) -> NDArray[np.uint8]:
    """Set a list's centre to the mean of its remaining rows, and return their codes relative to it."""
    inner_rows = projected(index, normalised(np.asarray(values[rows], dtype=np.float32)))
    centres[number] = normalised(inner_rows.mean(axis=0, keepdims=True))[0]
    return _codes(ivf, inner_rows, np.full(len(rows), number, np.int64))


def codes_in_list(ivf: Any, number: int) -> NDArray[np.uint8]:
    """A copy of the (entries, bytes) codes of one inverted list, in the order of `list_ids`."""
    size, length = int(ivf.invlists.list_size(number)), int(ivf.code_size)
    if not size:
        return np.empty((0, length), np.uint8)
    pointer = ivf.invlists.get_codes(number)
    try:
        return np.array(faiss.rev_swig_ptr(pointer, size * length), dtype=np.uint8).reshape(size, length)
    finally:
        ivf.invlists.release_codes(number, pointer)


def _codes(ivf: Any, inner_rows: NDArray[np.float32], lists: NDArray[np.int64]) -> NDArray[np.uint8]:
    codes = np.empty((len(inner_rows), ivf.code_size), np.uint8)
    ivf.encode_vectors(len(inner_rows), faiss.swig_ptr(inner_rows), faiss.swig_ptr(lists), faiss.swig_ptr(codes))
    return codes


def _refuse_other_vectors(index: Any, values: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """Check on a sample that carried-over codes belong to the vectors at their new rows.

    Raises:
        ValueError: they belong to other vectors.
    """
    if not len(rows):
        return
    ivf = inner(index)
    sample = np.random.default_rng(0).choice(rows, min(_CHECKED, len(rows)), replace=False)
    n_different = n_compared = 0
    for number in range(ivf.nlist):
        ids = list_ids(ivf.invlists, number)
        here = np.flatnonzero(np.isin(ids, sample))
        if not len(here):
            continue
        codes = codes_in_list(ivf, number)[here]
        inner_rows = projected(index, normalised(np.asarray(values[ids[here]], dtype=np.float32)))
        again = _codes(ivf, inner_rows, np.full(len(here), number, np.int64))
        n_different += int((codes != again).sum())
        n_compared += codes.size
    if n_different > 0.1 * n_compared:  # machines may round codes differently; other vectors differ in most codes
        raise ValueError("old_rows: the vectors to carry over differ from those of the earlier store")
