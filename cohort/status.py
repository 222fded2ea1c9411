"""`status`: the runs of a study, whether they fit its current images and table, and the next command."""

from __future__ import annotations

import shlex
from pathlib import Path

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.checksums import DamagedRun
from pellucid.cohort.runs.history import list_runs
from pellucid.cohort.runs.stages import STAGES
from pellucid.cohort.scan import current_keys
from pellucid.cohort.study import Study

_COMMANDS = tuple(stage.name for stage in STAGES if stage.name != "read")  # `pellucid scan` makes both


def study_status(study: Study) -> list[dict[str, str]]:
    """Every run as {stage, name, path, state}; state is done, running, stale, failed, or damaged (its record is)."""
    try:
        current = current_keys(study)
    except DamagedRun:  # the next command names the file; which runs are stale is not known
        current = {}
    except UserError:  # the images or the table are missing, so no run can be current
        current = {"read": "", "scan": ""}
    return list_runs(study.analysis, current)


def next_step(runs: list[dict[str, str]], study: Path, *, variables: bool = True) -> str:
    """The next command, in one sentence.

    Args:
        runs: rows of `study_status`.
        study: path that the sentence names.
        variables: whether study.yaml names variables; without them there is nothing to probe or audit.
    """
    named = shlex.quote(str(study))
    if any(row["state"] == "running" for row in runs):
        return "a run is in progress: wait until it ends"
    if any(row["state"] == "damaged" for row in runs):
        return (
            f"a run is damaged: restore it from a backup, or quarantine it with `pellucid tidy {named} --damaged --yes`"
        )
    states = {name: {row["state"] for row in runs if row["stage"] == name} for name in _COMMANDS}
    for stage in STAGES:
        if stage.name not in _COMMANDS or "done" in states[stage.name] or (stage.needs_variables and not variables):
            continue
        failed, stale = (state in states[stage.name] for state in ("failed", "stale"))
        why = " (it was interrupted)" if failed else " (inputs have changed)" if stale else ""
        return f"next: pellucid {stage.name} {named}{why}, or pellucid run {named} for all remaining steps"
    return f"all steps are done: pellucid explore {named}"
