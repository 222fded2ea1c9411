"""`status`: which runs a study has, whether they still fit its images and table, and what to do next."""

from __future__ import annotations

from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.history import list_runs
from pellucid.cohort.scan import current_keys
from pellucid.cohort.study import Study

_ORDER = ("scan", "pretrain", "embed", "near", "cluster", "probe", "audit", "report")


def study_status(study: Study) -> list[dict[str, str]]:
    """Every run as {stage, name, path, state}; state is done, running, stale or failed."""
    try:
        current = current_keys(study)
    except UserError:  # the images or the table are gone: nothing that was made from them can be current
        current = {"read": "", "scan": ""}
    return list_runs(study.analysis, current)


def next_step(runs: list[dict[str, str]], study: Path) -> str:
    """One sentence."""
    if any(row["state"] == "running" for row in runs):
        return "a run is going on: wait for it"
    done = {row["stage"] for row in runs if row["state"] == "done"}
    for stage in _ORDER:
        if stage not in done:
            failed = any(row["stage"] == stage and row["state"] == "failed" for row in runs)
            stale = any(row["stage"] == stage and row["state"] == "stale" for row in runs)
            why = " (it was interrupted)" if failed else " (inputs have changed)" if stale else ""
            return f"next: pellucid {stage} {study}{why}, or pellucid run {study} for all that is left"
    return f"all steps are done: pellucid explore {study}"
