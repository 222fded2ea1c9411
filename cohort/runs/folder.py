"""Run folders: content-addressed, resumable, renamed into place when whole, and never edited afterwards."""

from __future__ import annotations

import contextlib
import hashlib
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
from typing import Any

import yaml

from pellucid.cohort.errors import Preempted, UserError
from pellucid.cohort.path_names import without_names
from pellucid.cohort.runs.atomic_files import as_plain, exclusive, is_held, sync_path, write_json
from pellucid.cohort.runs.checksums import SUMS, sha256_file, write_sums
from pellucid.cohort.runs.integrity import mark_intact, read_record, require_intact
from pellucid.cohort.runs.private_files import private_files
from pellucid.cohort.runs.versions import run_versions

RUN_SCHEMA = "pellucid.run/1"

QUARANTINED = ".damaged-"  # in the name of a folder that is no run any more
STATE = "started.json"  # only in a folder that is not whole yet


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
    """The finished run with this key, or None.

    Raises:
        DamagedRun: its record is not what was written.
    """
    final = analysis / stage / f"{name}-{key[:8]}"
    if not (final / SUMS).is_file():
        return None
    record = read_record(final)
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
    final name. An exception leaves the working folder as it is, so that the same call continues. The files of the
    parents, of their ancestors and of a finished run are checked first. Only the owner can read what is written in the
    block, or also the group of a shared folder (`pellucid.cohort.runs.private_files`).

    Raises:
        UserError: another process works on this very run.
        DamagedRun: a file of the run or of one that it is made from is not what was written.
    """
    with private_files(analysis), _begun(analysis, stage, name, config, parents, inputs, seed) as run:
        yield run


@contextlib.contextmanager
def _begun(
    analysis: Path,
    stage: str,
    name: str,
    config: Mapping[str, Any],
    parents: Sequence[RunFolder],
    inputs: Mapping[str, str] | None,
    seed: int | None,
) -> Iterator[RunFolder]:
    key = run_key(stage, config, parents, inputs)
    final = analysis / stage / f"{name}-{key[:8]}"
    require_intact(*(parent.path for parent in parents))
    finished = find_run(analysis, stage, name, key)
    if finished is not None:
        require_intact(finished.path)
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
        started = _started(working, stage, name, key, parents)
        run = RunFolder(working, stage, name, key, False)
        try:
            yield run
            record = {
                **{field: value for field, value in started.items() if field != "made_from"},
                "config": config,
                "inputs": dict(inputs or {}),
                "seed": seed,
                "parents": [_reference(final.parent, parent) for parent in parents],
                "ended": datetime.now(UTC).isoformat(),  # to the microsecond: the newest run of a stage is used
            }
            for torn in working.rglob(".*.tmp"):  # left by a kill in the middle of a file; nobody else writes any more
                torn.unlink(missing_ok=True)
            (working / "failure.json").unlink(missing_ok=True)
            (working / "config.yaml").write_text(yaml.safe_dump(as_plain(config), sort_keys=False), encoding="utf-8")
            write_json(working / "run.json", record)
            (working / STATE).unlink()  # only now: a folder with neither is not known to hold work
            write_sums(working)
            mark_intact(working, final)
            if final.exists():  # a folder that lost its checksums: quarantined, never overwritten
                quarantine(final)
            working.rename(final)
            sync_path(final.parent)
        except (Preempted, GeneratorExit):
            raise
        except UserError:
            if working.is_dir() and {p.name for p in working.iterdir()} <= {STATE, "failure.json"}:
                shutil.rmtree(working)  # nothing was done yet: a mistake in study.yaml is no run that failed
            raise
        except BaseException as error:
            if working.is_dir():
                with contextlib.suppress(OSError):  # a full disk is often why we are here
                    write_json(
                        working / "failure.json",
                        {"error": without_names(f"{type(error).__name__}: {error}"), "when": _now()},
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
                if begun and (working / STATE).is_file():
                    return RunFolder(working, stage, name, key, False)
            elif time.monotonic() - idle_since > patience_s:
                raise UserError(
                    f"{stage}/{final.name}: the first process has not begun or not finished it: see its words"
                )
            time.sleep(0.2)

    run = finished_or(begun=True)
    with private_files(analysis):
        yield run
    if not run.done:
        whole = finished_or(begun=False)
        run.path, run.record = whole.path, whole.record


def _started(working: Path, stage: str, name: str, key: str, parents: Sequence[RunFolder]) -> dict[str, Any]:
    """The record of the first start survives interruptions, so that run.json says when the work really began."""
    path = working / STATE
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
        "made_from": [parent.key for parent in parents],
        "command": [Path(sys.argv[0]).name, *map(without_names, sys.argv[1:])],
        "started": datetime.now(UTC).isoformat(),  # to the microsecond: files written just before are older
        "versions": run_versions(),
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
    }
    write_json(path, record)
    return record


def _reference(stage_folder: Path, parent: RunFolder) -> dict[str, str]:
    return {
        "stage": parent.stage,
        "name": parent.path.name,
        "key": parent.key,
        "path": os.path.relpath(parent.path, stage_folder.parent).replace(os.sep, "/"),
        "sha256": sha256_file(parent.path / SUMS),
    }


def quarantine(folder: Path) -> Path:
    """Rename a damaged run, so that its command computes it again; the new path."""
    quarantined = folder.with_name(f"{folder.name}{QUARANTINED}{time.time_ns()}")
    folder.rename(quarantined)
    sync_path(folder.parent)
    return quarantined


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
