"""Run folders: content-addressed, resumable, renamed into place when whole, and never edited afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from cohort.errors import Preempted, UserError

RUN_SCHEMA = "pellucid.run/1"
_SUMS = "SHA256SUMS"
_STATE = "started.json"  # only in a folder that is not whole yet
State = Literal["done", "running", "stale", "failed"]


@dataclass
class RunFolder:
    """One run. While work goes on `path` is the working folder; once `done` it is the final one."""

    path: Path
    stage: str
    name: str
    key: str
    done: bool
    record: dict[str, Any] = field(default_factory=dict)

    def read_json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))


def run_key(
    stage: str,
    config: Mapping[str, Any],
    parents: Sequence[RunFolder] = (),
    inputs: Mapping[str, str] | None = None,
) -> str:
    """sha256 over stage, configuration, parents' keys and input hashes: what the content is addressed by."""
    content = {
        "schema": RUN_SCHEMA,
        "stage": stage,
        "config": config,
        "parents": sorted(parent.key for parent in parents),
        "inputs": dict(inputs or {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def find_run(analysis: Path, stage: str, name: str, key: str) -> RunFolder | None:
    """The finished run with this key, or None."""
    final = analysis / stage / f"{name}-{key[:8]}"
    if not (final / _SUMS).is_file():
        return None
    record = json.loads((final / "run.json").read_text(encoding="utf-8"))
    return RunFolder(final, stage, name, key, True, record) if record.get("key") == key else None


@contextlib.contextmanager
def begin_run(
    analysis: Path,
    stage: str,
    name: str,
    config: Mapping[str, Any],
    parents: Sequence[RunFolder] = (),
    inputs: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> Iterator[RunFolder]:
    """Open the run that belongs to this configuration: finished, half-finished (to be continued) or new.

    Leaving the block cleanly writes `config.yaml`, `run.json` and, last, `SHA256SUMS`, and renames the folder to its
    final name. An exception leaves the working folder as it is, so that the same call continues.

    Raises:
        UserError: another process works on this very run.
    """
    key = run_key(stage, config, parents, inputs)
    final = analysis / stage / f"{name}-{key[:8]}"
    finished = find_run(analysis, stage, name, key)
    if finished is not None:
        yield finished
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    working = final.parent / f".{final.name}.partial"
    with exclusive(final.parent / f".{final.name}.lock", f"{stage}/{final.name}"):
        finished = find_run(analysis, stage, name, key)  # another process may have ended it while we waited
        if finished is not None:
            yield finished
            return
        working.mkdir(exist_ok=True)
        started = _started(working, stage, name, key)
        run = RunFolder(working, stage, name, key, False)
        try:
            yield run
            record = {
                **started,
                "config": config,
                "inputs": dict(inputs or {}),
                "seed": seed,
                "parents": [_reference(final.parent, parent) for parent in parents],
                "ended": _now(),
            }
            for torn in working.rglob(".*.tmp"):  # left by a kill in the middle of a file; nobody else writes any more
                torn.unlink(missing_ok=True)
            (working / _STATE).unlink()
            (working / "failure.json").unlink(missing_ok=True)
            (working / "config.yaml").write_text(yaml.safe_dump(_plain(config), sort_keys=False), encoding="utf-8")
            write_json(working / "run.json", record)
            _write_sums(working)
            if final.exists():  # a folder that lost its checksums: set aside, never overwritten
                final.rename(final.with_name(f"{final.name}.damaged-{int(time.time())}"))
            working.rename(final)
            sync_path(final.parent)
        except (Preempted, GeneratorExit):
            raise
        except UserError:
            if working.is_dir() and {p.name for p in working.iterdir()} <= {_STATE, "failure.json"}:
                shutil.rmtree(working)  # nothing was done yet: a mistake in study.yaml is no run that failed
            raise
        except BaseException as error:
            if working.is_dir():
                with contextlib.suppress(OSError):  # a full disk is often why we are here
                    write_json(
                        working / "failure.json",
                        {"error": f"{type(error).__name__}: {error}", "when": _now()},
                    )
            raise
        run.path, run.record = final, record


@contextlib.contextmanager
def join_run(
    analysis: Path,
    stage: str,
    name: str,
    config: Mapping[str, Any],
    parents: Sequence[RunFolder] = (),
    inputs: Mapping[str, str] | None = None,
    patience_s: float = 60,
) -> Iterator[RunFolder]:
    """The run that another process of the same command has begun (the first of torchrun's); to work in the same folder.

    Leaving the block cleanly waits until that process has ended the run.

    Raises:
        UserError: nobody has worked on the run for `patience_s`, and it is not finished.
    """
    key = run_key(stage, config, parents, inputs)
    final = analysis / stage / f"{name}-{key[:8]}"
    working, lock = final.parent / f".{final.name}.partial", final.parent / f".{final.name}.lock"

    def finished_or(begun: bool) -> RunFolder:
        idle_since = time.monotonic()
        while True:
            finished = find_run(analysis, stage, name, key)
            if finished is not None:
                return finished
            if is_held(lock):
                idle_since = time.monotonic()
                if begun and (working / _STATE).is_file():
                    return RunFolder(working, stage, name, key, False)
            elif time.monotonic() - idle_since > patience_s:
                raise UserError(
                    f"{stage}/{final.name}: the first process has not begun or not finished it: see its words"
                )
            time.sleep(0.2)

    run = finished_or(begun=True)
    yield run
    if not run.done:
        whole = finished_or(begun=False)
        run.path, run.record = whole.path, whole.record


def _started(working: Path, stage: str, name: str, key: str) -> dict[str, Any]:
    """The record of the first start survives interruptions, so that run.json says when the work really began."""
    path = working / _STATE
    if path.is_file():
        with contextlib.suppress(ValueError):
            earlier = json.loads(path.read_text(encoding="utf-8"))
            earlier["resumed"] = [*earlier.get("resumed", []), _now()]
            write_json(path, earlier)
            return dict(earlier)
    record = {
        "schema": RUN_SCHEMA,
        "stage": stage,
        "name": name,
        "key": key,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(UTC).isoformat(),  # to the microsecond: files written just before are older
        "versions": _versions(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
    }
    write_json(path, record)
    return record


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (
        "pellucid",
        "torch",
        "timm",
        "lightly",
        "numpy",
        "scikit-learn",
        "umap-learn",
        "hdbscan",
        "faiss-cpu",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _reference(stage_folder: Path, parent: RunFolder) -> dict[str, str]:
    return {
        "stage": parent.stage,
        "name": parent.path.name,
        "key": parent.key,
        "path": os.path.relpath(parent.path, stage_folder.parent).replace(os.sep, "/"),
        "sha256": sha256_file(parent.path / _SUMS),
    }


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold an flock for as long as the block runs; the kernel drops it even after kill -9."""
    with path.open("a+", encoding="utf-8") as handle:
        for patience in range(5, -1, -1):  # `status` holds the lock for an instant when it looks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience:
                    time.sleep(0.1)
                    continue
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise UserError(f"{what}: another process (pid {holder}) is working on this run; wait for it") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield  # the file stays: unlinked, it could be locked by one process and made anew by another


def parent_of(folder: Path, stage: str) -> Path:
    """Folder of the parent run of that stage, as recorded in a finished run's `run.json`.

    Raises:
        UserError: the run has no such parent, or its folder is gone.
    """
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for parent in record["parents"]:
        if parent["stage"] == stage:
            found = Path(folder.parent.parent / parent["path"]).resolve()
            if not found.is_dir():
                raise UserError(
                    f"{folder.name} was made from {parent['path']}, which is gone: run `pellucid {stage}` again"
                )
            return found
    raise UserError(f"{folder}: was not made from a {stage} run")


def open_finished(folder: Path) -> RunFolder:
    """A finished run by its folder.

    Raises:
        UserError: not a finished run folder.
    """
    if not (folder / _SUMS).is_file() or not (folder / "run.json").is_file():
        raise UserError(f"{folder}: is not a finished run (no run.json and {_SUMS}); `pellucid status` lists them")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return RunFolder(folder, record["stage"], record["name"], record["key"], True, record)


def newest_runs(analysis: Path, stage: str, parent: RunFolder) -> list[RunFolder]:
    """Finished runs of a stage that were made from `parent`, oldest first."""
    rows = [row for row in list_runs(analysis) if row["stage"] == stage and row["state"] in {"done", "stale"}]
    runs = [open_finished(Path(row["path"])) for row in rows]
    return [run for run in runs if any(p["key"] == parent.key for p in run.record["parents"])]


def list_runs(analysis: Path, current: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Every run under `analysis` as {stage, name, path, state}, oldest first.

    Args:
        current: for the stages whose inputs lie outside (`read`, `scan`), the key that the study has now; a finished
            run with another key, and everything made from it, is stale.
    """
    current = current or {}
    finished: list[RunFolder] = []
    rows: list[dict[str, str]] = []
    for folder in sorted(analysis.glob("*/*")):
        if folder.name.startswith(".") and folder.name.endswith(".partial") and folder.is_dir():
            locked = is_held(folder.with_name(folder.name.removesuffix(".partial") + ".lock"))
            name = folder.name[1:].removesuffix(".partial")
            state: State = "running" if locked else "failed"
            rows.append({"stage": folder.parent.name, "name": name, "path": str(folder), "state": state})
        elif (folder / _SUMS).is_file() and (folder / "run.json").is_file():
            finished.append(open_finished(folder))
    finished.sort(key=lambda run: (str(run.record["ended"]), run.path.name))
    stale: set[str] = set()
    known = {run.key for run in finished}
    changed = True
    while changed:  # staleness runs down the line of descent
        changed = False
        for run in finished:
            parents = [parent["key"] for parent in run.record["parents"]]
            outdated = run.stage in current and run.key != current[run.stage]
            if run.key not in stale and (outdated or any(p in stale or p not in known for p in parents)):
                stale.add(run.key)
                changed = True
    done = [
        {
            "stage": run.stage,
            "name": run.path.name,
            "path": str(run.path),
            "state": "stale" if run.key in stale else "done",
        }
        for run in finished
    ]
    return done + rows


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
        text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(content: Any) -> Any:
    """NumPy scalars, paths and tuples as what JSON and YAML know."""
    if isinstance(content, Mapping):
        return {str(k): _plain(v) for k, v in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(v) for v in content]
    if isinstance(content, Path):
        return str(content)
    if hasattr(content, "tolist") and not isinstance(content, (str, bytes)):
        return _plain(content.tolist())
    return content


def _write_sums(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _SUMS and not p.name.startswith("."))
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    with atomic_path(folder / _SUMS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def verify(folder: Path) -> list[str]:
    """What is wrong with a finished run's files: one sentence each, none when all are as written."""
    wrong = []
    for line in (folder / _SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: is gone")
        elif sha256_file(path) != digest:
            wrong.append(f"{path}: is not what was written")
    return wrong


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_path(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk: a rename in it is lost with the power otherwise."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
