"""`index.faiss` beside `index.json`: written whole or not at all, and refused when either or the vectors are not the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path, sha256_file, write_json
from pellucid.embed.index.untyped_faiss import faiss

SCHEMA = "pellucid.index/1"
_PIECE = 16_384  # bytes …
_PIECES = 64  # … of so many places are read at each opening: 1 MB, whatever the size of the file
_AGAIN = "run `pellucid embed` again"


def write_index(folder: Path, index: Any, record: dict[str, Any]) -> dict[str, Any]:
    """The two files, `index.json` last; an index without it is not whole. Returns what `index.json` says."""
    path = folder / "index.faiss"
    (folder / "index.json").unlink(missing_ok=True)  # killed in between there must be no record of another index
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    record = {
        "schema": SCHEMA,
        **record,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "pieces_sha256": pieces_of_file(path),
    }
    write_json(folder / "index.json", record)
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `index.json` says; None for a store of the first version, which has none.

    Raises:
        UserError: damaged, or of a version that is not known.
    """
    path = folder / "index.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        schema = record.get("schema")
    except (ValueError, AttributeError):
        raise UserError(f"{path}: is damaged; {_AGAIN}") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: has schema {schema!r}; this version reads {SCHEMA}")
    return dict(record)


def read_faiss(folder: Path, record: dict[str, Any] | None, n: int, dim: int) -> Any:
    """`index.faiss`, memory-mapped where its kind allows that.

    Raises:
        UserError: missing, damaged, or made from other vectors.
    """
    path = folder / "index.faiss"
    if not path.is_file():
        raise UserError(f"{path}: is missing; {_AGAIN}")
    if record is not None:
        _check_file(path, record)
    flag = 0
    if record is not None:  # without a record nothing has checked the size, and a short file must not be mapped
        flag = faiss.IO_FLAG_MMAP_IFC if record["kind"] == "exact" else faiss.IO_FLAG_MMAP
    try:
        index = faiss.read_index(str(path), flag)
    except RuntimeError:
        raise UserError(f"{path}: is damaged; {_AGAIN}") from None
    if index.ntotal != n:
        raise UserError(f"{path}: holds {index.ntotal} vectors, but vectors.npy has {n}; {_AGAIN}")
    if index.d != dim:
        raise UserError(f"{path}: is of vectors of {index.d} dimensions, but vectors.npy has {dim}; {_AGAIN}")
    return index


def _check_file(path: Path, record: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != record["bytes"]:
        what = "is cut short" if size < record["bytes"] else "is not the file that was written"
        raise UserError(f"{path}: {what} ({size} bytes, index.json says {record['bytes']}); {_AGAIN}")
    if pieces_of_file(path) != record["pieces_sha256"]:
        raise UserError(f"{path}: is not the file that index.json speaks of, or it is damaged; {_AGAIN}")


def check_vectors(folder: Path, record: dict[str, Any], values: NDArray[np.float32], space: str | None) -> None:
    """Raises UserError where the index was not made from these vectors, with the reason."""
    where = folder / "index.faiss"
    if space is not None and record["space"] is not None and space != record["space"]:
        raise UserError(
            f"{where}: was made from vectors of another backbone, pooling or preprocessing (space {record['space'][:8]}) "
            f"than vectors.npy (space {space[:8]}); the two cannot be compared: {_AGAIN}"
        )
    if (record["n"], record["dim"]) != values.shape:
        raise UserError(
            f"{where}: was made from {record['n']} vectors of {record['dim']} dimensions, but vectors.npy has "
            f"{values.shape[0]} of {values.shape[1]}; {_AGAIN}"
        )
    if pieces_of_rows(values) != record["vectors_pieces_sha256"]:
        raise UserError(f"{where}: was made from other vectors than vectors.npy holds now; {_AGAIN}")


def verify_index(folder: Path, values: NDArray[np.float32]) -> list[str]:
    """What is wrong with an index when every byte is read: one sentence each, none when all is as written."""
    record = read_record(folder)
    if record is None:
        return [] if (folder / "index.faiss").is_file() else [f"{folder / 'index.faiss'}: is gone"]
    wrong = []
    if not (folder / "index.faiss").is_file():
        wrong.append(f"{folder / 'index.faiss'}: is gone")
    elif sha256_file(folder / "index.faiss") != record["sha256"]:
        wrong.append(f"{folder / 'index.faiss'}: is not what was written")
    if sha256_rows(values) != record["vectors_sha256"]:
        wrong.append(f"{folder / 'vectors.npy'}: is not what the index was made from")
    return wrong


def sha256_rows(values: NDArray[np.float32]) -> str:
    """Hex sha256 of (n, dim) float32 as little-endian bytes, row by row: of the numbers, not of a file's header."""
    digest = hashlib.sha256()
    for start in range(0, len(values), 65_536):
        digest.update(np.ascontiguousarray(values[start : start + 65_536], dtype="<f4").data)
    return digest.hexdigest()


def pieces_of_rows(values: NDArray[np.float32]) -> str:
    """The same of the shape and of about 1 MB of rows, spread evenly: catches another file, not one flipped bit."""
    n, dim = values.shape
    rows = max(1, _PIECE // (4 * dim))
    digest = hashlib.sha256(np.array([n, dim], "<i8").tobytes())
    for start in _places(n, rows):
        digest.update(np.ascontiguousarray(values[start : start + rows], dtype="<f4").data)
    return digest.hexdigest()


def pieces_of_file(path: Path) -> str:
    """The same of a file: its size and 64 pieces of 16 KB, the first and the last bytes among them."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as handle:
        for start in _places(size, _PIECE):
            handle.seek(start)
            digest.update(handle.read(_PIECE))
    return digest.hexdigest()


def _places(size: int, piece: int) -> list[int]:
    last = max(0, size - piece)
    if size <= _PIECES * piece:
        return list(range(0, size, piece))
    return [round(last * i / (_PIECES - 1)) for i in range(_PIECES)]
