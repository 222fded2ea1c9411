"""`forget`: remove a patient who withdrew consent from every run of a study, and exclude the patient from later runs.

Each package below removes images from what it writes. This module decides what happens to which run, by the stage
table. docs/withdrawal.md explains what is removed, what stays, and why.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import (
    RunFolder,
    all_locked,
    descendants,
    finish_interrupted,
    finished_runs,
    open_finished,
    remove_folder,
)
from pellucid.cohort.runs.private_files import writes_privately
from pellucid.cohort.runs.stages import STAGES, position
from pellucid.cohort.study import Study
from pellucid.cohort.withdrawal import (
    WithdrawalScope,
    annotated_files,
    find_scope,
    forget_annotations,
    forget_in_read,
    forget_in_scan,
    former_keys,
    put_on_list,
    relink,
    table_rows_of,
    withdrawn_rows,
)
from pellucid.cohort.withdrawal_list import Withdrawal, Withdrawn
from pellucid.embed.store import failures_of, forget_in_embed
from pellucid.pretrain.export import forget_in_training, forget_in_unfinished, trained_on

Say = Callable[[str], None]
_REWRITTEN = tuple(stage.name for stage in STAGES if stage.on_withdrawal == "rewrite")
_MARKED = tuple(stage.name for stage in STAGES if stage.on_withdrawal == "mark")
# Only names that runs have: other folders are not ours to delete.
_UNFINISHED = re.compile(r"\..+-[0-9a-f]{8}\.partial|[^.].*-[0-9a-f]{8}(\.damaged-\d+)?")
_SHOWN = 40  # originals that are listed individually
_SEARCHED_BYTES = 256 << 20  # larger files hold numbers only; the ids are in the files next to them
_SHORTEST_NAME = 5  # shorter ids match counts and years in any text


@dataclass(frozen=True)
class Step:
    """What happens to one folder below `analysis`.

    Attributes:
        fate: `rewritten` without the images, `deleted` (`pellucid run` makes it again), or `marked` (weights).
        images: number of withdrawn images that it holds, or that it was trained on.
    """

    path: Path
    stage: str
    fate: str
    images: int

    def sentence(self) -> str:
        n = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        what = {
            "rewritten": f"{n} removed, nothing recomputed",
            "deleted": "deleted; `pellucid run` computes it again for the remaining patients",
            "marked": f"the weights stay: they were trained on at most {n} of these patients and cannot unlearn them. "
            "The model card records this, and images are removed from training.html",
        }[self.fate]
        return f"{self.stage}/{self.path.name.removeprefix('.')}: {what}"


def plan(analysis: Path, withdrawn: Withdrawn) -> list[Step]:
    """The steps after which nothing below `analysis` holds withdrawn images, in the order in which to take them."""
    runs = finished_runs(analysis)
    held = {run.path: int(withdrawn_rows(run, withdrawn).sum()) for run in runs if run.stage in _REWRITTEN}
    for run in runs:
        if run.stage == "embed":  # it also names images that could not be read
            held[run.path] += len(failures_of(run.path, withdrawn))
    touched = descendants(
        runs, {key for run in runs if held.get(run.path) for key in [run.key, *former_keys(run.record)]}
    )
    known = {key for run in runs for key in [run.key, *former_keys(run.record)]}
    steps = []
    for run in runs:
        derived = run.stage == "embed" and any(parent["stage"] == "embed" for parent in run.record["parents"])
        if run.stage in _REWRITTEN and not derived:  # derived vectors are deleted
            if held[run.path]:
                steps.append(Step(run.path, run.stage, "rewritten", held[run.path]))
        elif run.stage in _MARKED:
            if n := trained_on(run, withdrawn):
                steps.append(Step(run.path, run.stage, "marked", n))
        elif run.key in touched or {p["key"] for p in run.record["parents"]} - known or _names_images(run, withdrawn):
            steps.append(Step(run.path, run.stage, "deleted", 0))
    steps += [
        Step(folder, folder.parent.name, "marked" if folder.parent.name in _MARKED else "deleted", 0)
        for folder in unfinished(analysis)
        if folder.parent.name not in _MARKED or _has_pictures(folder)
    ]
    # Deletions first, then children before parents: the parents' tables show which images the children hold.
    return sorted(
        steps,
        key=lambda step: (step.fate != "deleted", -position(step.stage) * (step.fate != "deleted"), str(step.path)),
    )


def unfinished(analysis: Path) -> list[Path]:
    """Interrupted runs and quarantined damaged runs; no command reads them."""
    finished = {run.path for run in finished_runs(analysis)}
    return [
        folder
        for folder in sorted(analysis.glob("*/*"))
        if folder.is_dir() and folder not in finished and _UNFINISHED.fullmatch(folder.name)
    ]


def _names_images(run: RunFolder, withdrawn: Withdrawn) -> bool:
    for path in run.path.glob("*.parquet"):
        if "image_id" in pq.read_schema(path).names:
            ids = pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
            if np.any(withdrawn.which(ids)):
                return True
    return False


def _has_pictures(folder: Path) -> bool:
    page = folder / "training.html"
    return (folder / "failure.json").is_file() or (page.is_file() and b"data:image/" in page.read_bytes())


@writes_privately("study")
def forget_patients(study: Study, typed: Sequence[str], *, yes: bool = False, say: Say = print) -> bool:
    """Remove patients, or list what would be removed.

    Args:
        typed: original ids (from the table, the path or the header) or research ids; empty: complete an interrupted
            withdrawal.
        yes: apply it.
        say: receives each message.

    Returns:
        Whether it was applied.

    Raises:
        UserError: an unknown patient, or another command is working on the study.
    """
    withdrawn = Withdrawn.load(study.withdrawn)
    if withdrawn.pending:
        say("an earlier withdrawal was interrupted; it is completed first")
        asked = [name for name in typed if any(entry is withdrawn.was_asked(name) for entry in withdrawn.pending)]
        _apply(study, withdrawn, say)
        typed = [name for name in typed if name not in asked]
        if not typed:
            say("done: the earlier withdrawal is complete")
            return True
        withdrawn = Withdrawn.load(study.withdrawn)
    if not typed:
        raise UserError(f"{study.path}: name the patients to remove; no earlier withdrawal was interrupted")
    scope = find_scope(study, list(dict.fromkeys(typed)), withdrawn)
    put_on_list(withdrawn, scope)
    steps = plan(study.analysis, withdrawn)
    _say_plan(study, scope, steps, withdrawn, say)
    if not yes:
        say("nothing has been changed; repeat the command with --yes to apply it (it cannot be undone)")
        return False
    _apply(study, withdrawn, say, save=True)
    left = traces(study, scope)
    for path in left:
        say(
            f"still contains an id or file name of these patients: {path} (not written by Pellucid, or your own "
            "text: check it)"
        )
    _say_originals(study, scope, say)
    say(f"done. Next: pellucid run {shlex.quote(str(study.path))}")
    return True


def _say_plan(study: Study, scope: WithdrawalScope, steps: Sequence[Step], withdrawn: Withdrawn, say: Say) -> None:
    people = "1 patient" if len(scope.patients) == 1 else f"{len(scope.patients)} patients"
    say(f"{people}: {scope.n_images} image(s), {len(scope.files)} file(s) with images of these patients only")
    if scope.frames:
        say(f"{len(scope.frames)} image(s) in files that also contain other patients: only these images are excluded")
    for step in steps:
        say(f"  {step.sentence()}")
    for path, n in annotated_files(study.withdrawn.parent, withdrawn).items():
        say(f"  annotation/{path.name}: {n} line(s) removed")
    say(
        f"  annotation/{study.withdrawn.name}: stores salted hashes of their ids, so that later scans exclude these "
        "patients"
    )


def _say_originals(study: Study, scope: WithdrawalScope, say: Say) -> None:
    """List the user's own files, which are never deleted."""
    files = [study.image_root / name for name in scope.files if (study.image_root / name).is_file()]
    if files:
        say(f"for you to delete: {len(files)} original file(s)")
        for path in files[:_SHOWN]:
            say(f"  {path}")
        if len(files) > _SHOWN:
            say(f"  … and {len(files) - _SHOWN} more in {study.image_root}")
    rows = table_rows_of(study, scope)
    if rows:
        shown = ", ".join(map(str, rows[:_SHOWN])) + (" …" if len(rows) > _SHOWN else "")
        say(f"for you to delete: {len(rows)} row(s) of {study.table} (row {shown})")
    say(
        "not checked: copies that `deidentify` wrote and their linkage file, exports, files that you passed on, "
        "folders that `embed --out` wrote (pellucid forget FOLDER --image ID), backups, the history of this terminal. "
        "An open explorer keeps images in memory until it is closed"
    )


def _apply(study: Study, withdrawn: Withdrawn, say: Say, save: bool = False) -> None:
    """Apply the list to all runs; after a crash at any point, the same call completes it."""
    with all_locked(study.analysis):
        if withdrawn.changed():
            raise UserError(f"{study.path}: another withdrawal ended in the meantime: repeat the command")
        if save:
            withdrawn.save()
        finish_interrupted(study.analysis)
        entry = withdrawn.pending[-1]
        for _ in range(3):  # another process may have finished a run in the meantime
            steps = plan(study.analysis, withdrawn)
            for step in steps:
                _apply_step(study, step, withdrawn, entry)
            if not steps:
                break
        else:
            raise UserError(f"{study.path}: another command keeps writing runs: stop it, then repeat this one")
        for run in finished_runs(study.analysis, "read"):  # even a run without their images may need its new key
            forget_in_read(study, run, withdrawn, entry)
        relink(study.analysis)
        forget_annotations(study.withdrawn.parent, withdrawn)
        for done in withdrawn.pending:
            done.done = True
        withdrawn.save()


def _apply_step(study: Study, step: Step, withdrawn: Withdrawn, entry: Withdrawal) -> None:
    if step.fate == "deleted":
        remove_folder(step.path)
    elif step.path.name.endswith(".partial") or not (step.path / "run.json").is_file():
        forget_in_unfinished(step.path)
    elif step.stage == "read":
        forget_in_read(study, open_finished(step.path), withdrawn, entry)
    elif step.stage == "scan":
        forget_in_scan(open_finished(step.path), withdrawn, entry)
    elif step.stage == "embed":
        forget_in_embed(open_finished(step.path), withdrawn, entry)
    else:
        forget_in_training(open_finished(step.path), withdrawn, entry)


def traces(study: Study, scope: WithdrawalScope) -> list[Path]:
    """Files in `analysis` and `annotation` that still contain an original id or a file name of these patients in plain
    text."""
    words = {text.encode() for text in (*scope.patients, *scope.files, *scope.frames) if len(text) >= _SHORTEST_NAME}
    found = []
    for folder in (study.analysis, study.withdrawn.parent):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_file() and path.stat().st_size <= _SEARCHED_BYTES and path.suffix != ".arrow":
                content = path.read_bytes()
                if any(word in content for word in words):
                    found.append(path)
    return found
