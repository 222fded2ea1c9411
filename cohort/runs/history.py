"""Runs below `analysis/`: all with their states, finished ones by stage and parent, one by its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import is_held
from pellucid.cohort.runs.checksums import SUMS, DamagedRun
from pellucid.cohort.runs.folder import QUARANTINED, RunFolder
from pellucid.cohort.runs.integrity import read_record

State = Literal["done", "running", "stale", "failed", "damaged"]


def parent_of(folder: Path, stage: str) -> Path:
    """Folder of the parent run of that stage, as recorded in a finished run's `run.json`.

    Raises:
        UserError: the run has no such parent, or its folder is gone.
    """
    record = read_record(folder)
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
        UserError: not a finished run folder, or its record is damaged.
    """
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder}: is not a finished run (no {SUMS}); `pellucid status` lists them")
    record = read_record(folder)
    return RunFolder(folder, record["stage"], record["name"], record["key"], True, record)


def finished_folders(analysis: Path, stage: str | None = None) -> list[Path]:
    """Folders of the finished runs, by name; of one stage, or of all. A quarantined run is none."""
    return [
        folder
        for folder in sorted(analysis.glob(f"{stage or '*'}/[!.]*"))
        if QUARANTINED not in folder.name and (folder / SUMS).is_file()
    ]


def finished_runs(analysis: Path, stage: str | None = None) -> list[RunFolder]:
    """Finished runs, current or stale, oldest first; of one stage, or of all.

    Raises:
        DamagedRun: the record of one is not what was written.
    """
    return _by_age([open_finished(folder) for folder in finished_folders(analysis, stage)])


def _by_age(runs: Sequence[RunFolder]) -> list[RunFolder]:
    return sorted(runs, key=lambda run: (str(run.record["ended"]), run.path.name))


def newest_runs(analysis: Path, stage: str, parent: RunFolder) -> list[RunFolder]:
    """Finished runs of a stage that were made from `parent`, oldest first."""
    return [run for run in finished_runs(analysis, stage) if parent.key in _parent_keys(run)]


def descendants(runs: Sequence[RunFolder], keys: Collection[str]) -> set[str]:
    """`keys`, and the keys of all runs that were made from them, directly or through other runs."""
    found = set(keys)
    growing = True
    while growing:
        more = {run.key for run in runs if found.intersection(_parent_keys(run))} - found
        found |= more
        growing = bool(more)
    return found


def list_runs(analysis: Path, current: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Every run under `analysis` as {stage, name, path, state}, oldest first; runs whose record is damaged come first.

    Args:
        current: for the stages with inputs from outside (`read`, `scan`), the key that the study has now. A finished
            run with another key, a run with a missing parent, and everything made from these, is stale.
    """
    current = current or {}
    readable, rows = [], []
    for folder in finished_folders(analysis):
        try:
            readable.append(open_finished(folder))
        except DamagedRun:
            rows.append(_row(folder, folder.name, "damaged"))
    finished = _by_age(readable)
    known = {run.key for run in finished}
    outdated = [
        run.key
        for run in finished
        if run.key != current.get(run.stage, run.key) or not known.issuperset(_parent_keys(run, own=True))
    ]
    stale = descendants(finished, outdated)
    rows += [_row(run.path, run.path.name, "stale" if run.key in stale else "done") for run in finished]
    for folder in sorted(analysis.glob("*/.*.partial")):
        if folder.is_dir():
            name = folder.name[1:].removesuffix(".partial")
            rows.append(_row(folder, name, "running" if is_held(folder.with_name(f".{name}.lock")) else "failed"))
    return rows


def _row(folder: Path, name: str, state: State) -> dict[str, str]:
    return {"stage": folder.parent.name, "name": name, "path": str(folder), "state": state}


def _parent_keys(run: RunFolder, *, own: bool = False) -> list[str]:
    """Keys of the runs that a run was made from.

    Args:
        own: only those in the same analysis folder; the backbone of another study may be moved without consequence.
    """
    return [parent["key"] for parent in run.record["parents"] if not own or not parent["path"].startswith("../")]
