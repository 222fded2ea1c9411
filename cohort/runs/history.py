"""List_runs, newest_runs, finished_runs(stage), parent_of, open_finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.atomic_files import is_held
from pellucid.cohort.runs.checksums import SUMS
from pellucid.cohort.runs.folder import RunFolder

State = Literal["done", "running", "stale", "failed"]


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
    if not (folder / SUMS).is_file() or not (folder / "run.json").is_file():
        raise UserError(f"{folder}: is not a finished run (no run.json and {SUMS}); `pellucid status` lists them")
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
        elif (folder / SUMS).is_file() and (folder / "run.json").is_file():
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
