"""Write-then-rename, fsync, file locks, remove a folder in one step."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from pellucid.cohort.errors import UserError


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold an flock for as long as the block runs; the kernel drops it even after kill -9."""
    while True:
        with path.open("a+", encoding="utf-8") as handle:
            _lock(handle, what)
            if not _is_still(path, handle):  # `tidy` removed the file before we had the lock
                continue
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield
            return


def _lock(handle: TextIO, what: str) -> None:
    for patience in range(5, -1, -1):  # `status` holds the lock for an instant when it looks
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if patience:
                time.sleep(0.1)
                continue
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise UserError(f"{what}: another process (pid {holder}) is working on this run; wait for it") from None


def _is_still(path: Path, handle: TextIO) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process works under the lock that `exclusive` takes. It is asked for by a lock that many may hold."""
    if not path.exists():
        return False
    with path.open("r", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write to; flushed to disk and renamed onto it when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """JSON with sorted layout kept as given, atomically; NaN is refused, because other readers refuse it."""
    with atomic_path(path) as temporary:
        text = json.dumps(as_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def as_plain(content: Any) -> Any:
    """NumPy scalars, paths and tuples as what JSON and YAML know."""
    if isinstance(content, Mapping):
        return {str(k): as_plain(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [as_plain(v) for v in content]
    if isinstance(content, Path):
        return str(content)
    if hasattr(content, "tolist") and not isinstance(content, (str, bytes)):
        return as_plain(content.tolist())
    return content


def sync_path(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk: a rename in it is lost with the power otherwise."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_parts(folder: Path) -> None:
    """Remove the folder at once, so that no helper takes half of it for work that is left."""
    gone = folder.with_name(f".{folder.name.lstrip('.')}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.exists():
        folder.rename(gone)
        shutil.rmtree(gone)
