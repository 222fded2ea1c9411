"""`index.faiss` and `index.json`: written atomically, and refused if they or the vectors were changed."""

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
_PIECE = 16_384  # bytes of each …
_PIECES = 64  # … of this many pieces are read whenever an index is opened: 1 MB, for files of any size
_AGAIN = "run `pellucid embed` again"


def write_index(folder: Path, index: Any, record: dict[str, Any]) -> dict[str, Any]:
    """Write the two files, `index.json` last: without it an index is incomplete. Returns the content of
    `index.json`."""
    path = folder / "index.faiss"
    (folder / "index.json").unlink(missing_ok=True)  # after a kill, the old record must not describe the new index
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
    """The content of `index.json`; None for a store of the first version, which has none.

    Raises:
        UserError: damaged, or of an unsupported version.
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
    """Open `index.faiss`, memory-mapped if its kind allows.

    Raises:
        UserError: missing, damaged, or made from other vectors.
    """
    path = folder / "index.faiss"
    if not path.is_file():
        raise UserError(f"{path}: is missing; {_AGAIN}")
    if record is not None:
        _check_file(path, record)
    flag = 0
    if record is not None:  # without a record the size was not checked, and a truncated file must not be mapped
        flag = faiss.IO_FLAG_MMAP_IFC if record["kind"] == "exact" else faiss.IO_FLAG_MMAP
    try:
        index = faiss.read_index(str(path), flag)
    except RuntimeError:
        raise UserError(f"{path}: is damaged; {_AGAIN}") from None
    if index.ntotal != n:
        raise UserError(f"{path}: contains {index.ntotal} vectors, but vectors.npy has {n}; {_AGAIN}")
    if index.d != dim:
        raise UserError(f"{path}: contains vectors of {index.d} dimensions, but vectors.npy has {dim}; {_AGAIN}")
    return index


def _check_file(path: Path, record: dict[str, Any]) -> None:
    size = path.stat().st_size
    if size != record["bytes"]:
        what = "is truncated" if size < record["bytes"] else "has the wrong size"
        raise UserError(f"{path}: {what} ({size} bytes, index.json records {record['bytes']}); {_AGAIN}")
    if pieces_of_file(path) != record["pieces_sha256"]:
        raise UserError(f"{path}: does not match its checksum in index.json; {_AGAIN}")


def check_vectors(folder: Path, record: dict[str, Any], values: NDArray[np.float32], space: str | None) -> None:
    """Raise UserError, with the reason, if the index was not made from these vectors."""
    where = folder / "index.faiss"
    if space is not None and record["space"] is not None and space != record["space"]:
        raise UserError(
            f"{where}: was made from vectors of another backbone, pooling or preprocessing (space "
            f"{record['space'][:8]}) than vectors.npy (space {space[:8]}), and the two cannot be compared; {_AGAIN}"
        )
    if (record["n"], record["dim"]) != values.shape:
        raise UserError(
            f"{where}: was made from {record['n']} vectors of {record['dim']} dimensions, but vectors.npy has "
            f"{values.shape[0]} of {values.shape[1]}; {_AGAIN}"
        )
    if pieces_of_rows(values) != record["vectors_pieces_sha256"]:
        raise UserError(f"{where}: was made from other vectors than those in vectors.npy; {_AGAIN}")


def verify_index(folder: Path, values: NDArray[np.float32]) -> list[str]:
    """Check every byte of an index and its vectors; one sentence per problem, none if all is intact."""
    record = read_record(folder)
    if record is None:
        return [] if (folder / "index.faiss").is_file() else [f"{folder / 'index.faiss'}: is missing"]
    wrong = []
    if not (folder / "index.faiss").is_file():
        wrong.append(f"{folder / 'index.faiss'}: is missing")
    elif sha256_file(folder / "index.faiss") != record["sha256"]:
        wrong.append(f"{folder / 'index.faiss'}: was changed after it was written")
    if sha256_rows(values) != record["vectors_sha256"]:
        wrong.append(f"{folder / 'vectors.npy'}: is not the file from which the index was made")
    return wrong


def sha256_rows(values: NDArray[np.float32]) -> str:
    """Hex sha256 over (n, dim) float32 as little-endian bytes, row by row; the header of the file is not included."""
    digest = hashlib.sha256()
    for start in range(0, len(values), 65_536):
        digest.update(np.ascontiguousarray(values[start : start + 65_536], dtype="<f4").data)
    return digest.hexdigest()


def pieces_of_rows(values: NDArray[np.float32]) -> str:
    """Hex sha256 over the shape and about 1 MB of evenly spread rows: detects another file, but not a single flipped
    bit."""
    n, dim = values.shape
    rows = max(1, _PIECE // (4 * dim))
    digest = hashlib.sha256(np.array([n, dim], "<i8").tobytes())
    for start in _places(n, rows):
        digest.update(np.ascontiguousarray(values[start : start + rows], dtype="<f4").data)
    return digest.hexdigest()


def pieces_of_file(path: Path) -> str:
    """Hex sha256 over the size of a file and 64 evenly spread pieces of 16 KB, including its first and last bytes."""
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
