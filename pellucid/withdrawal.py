"""`forget`: a patient who withdrew consent is taken out of every run of a study, and kept out of the next ones.

The layers below know how to take images out of what they themselves write; here it is decided what happens to which run.
docs/withdrawal.md says what goes, what stays and why.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, exclusive, finish_interrupted, list_runs, open_finished, remove_folder
from pellucid.cohort.runs.stages import STAGES, position
from pellucid.cohort.study import Study
from pellucid.cohort.withdrawal import (
    Meant,
    annotated_files,
    find_meant,
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
# Named as a run is: a folder that somebody else put there is left alone.
_UNFINISHED = re.compile(r"\..+-[0-9a-f]{8}\.partial|[^.].*-[0-9a-f]{8}(\.damaged-\d+)?")
_SHOWN = 40  # originals that are listed one by one
_SEARCHED_BYTES = 256 << 20  # larger files are tables of numbers; their ids are in the files beside them
_SHORTEST_NAME = 5  # shorter ids look like counts and years wherever one searches for them


@dataclass(frozen=True)
class Step:
    """What happens to one folder below `analysis`.

    Attributes:
        fate: `rewritten` without the images, `deleted` (`pellucid run` makes it again), or `marked` (weights).
        images: how many of the withdrawn images it holds, or has seen.
    """

    path: Path
    stage: str
    fate: str
    images: int

    def sentence(self) -> str:
        n = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        said = {
            "rewritten": f"loses {n}; nothing is computed again",
            "deleted": "is deleted; `pellucid run` makes it again for those who are left",
            "marked": f"keeps its weights, which were trained on {n} of theirs (at most) and cannot unlearn them; "
            "that is written into its model card, and pictures go from its page",
        }[self.fate]
        return f"{self.stage}/{self.path.name.removeprefix('.')}: {said}"


def plan(analysis: Path, withdrawn: Withdrawn) -> list[Step]:
    """What is to be done so that nothing below `analysis` holds withdrawn images, in the order of doing."""
    runs = [open_finished(Path(r["path"])) for r in list_runs(analysis) if r["state"] in {"done", "stale"}]
    held = {run.path: int(withdrawn_rows(run, withdrawn).sum()) for run in runs if run.stage in _REWRITTEN}
    for run in runs:
        if run.stage == "embed":  # an image that could not be read is named there all the same
            held[run.path] += len(failures_of(run.path, withdrawn))
    touched = {key for run in runs if held.get(run.path) for key in [run.key, *former_keys(run.record)]}
    known = {key for run in runs for key in [run.key, *former_keys(run.record)]}
    steps = []
    growing = True
    while growing:  # down the line of descent
        growing = False
        for run in runs:
            parents = {parent["key"] for parent in run.record["parents"]}
            if run.key not in touched and parents & touched:
                touched.add(run.key)
                growing = True
    for run in runs:
        derived = run.stage == "embed" and any(parent["stage"] == "embed" for parent in run.record["parents"])
        if run.stage in _REWRITTEN and not derived:  # of patient vectors nothing is left without the patient's row
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
    """Interrupted runs, and folders that were set aside as damaged: no command reads either as it is now."""
    finished = {row["path"] for row in list_runs(analysis) if row["state"] in {"done", "stale"}}
    return [
        folder
        for folder in sorted(analysis.glob("*/*"))
        if folder.is_dir() and str(folder) not in finished and _UNFINISHED.fullmatch(folder.name)
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


def forget_patients(study: Study, typed: Sequence[str], *, yes: bool = False, say: Say = print) -> bool:
    """Forget patients, or say what forgetting them would do.

    Args:
        typed: own ids (as in the table, the path or the header) or research ids; none: bring an interrupted forgetting
            to its end.
        yes: do it.

    Returns:
        Whether it was done.

    Raises:
        UserError: nobody is called so, or another command works on the study.
    """
    withdrawn = Withdrawn.load(study.withdrawn)
    if withdrawn.pending:
        say("a forgetting was interrupted: it is brought to its end first")
        asked = [name for name in typed if any(entry is withdrawn.was_asked(name) for entry in withdrawn.pending)]
        _do(study, withdrawn, say)
        typed = [name for name in typed if name not in asked]
        if not typed:
            say("done: nothing of it is left in the study's folders")
            return True
        withdrawn = Withdrawn.load(study.withdrawn)
    if not typed:
        raise UserError(f"{study.path}: name the patients to forget; no forgetting was interrupted")
    meant = find_meant(study, list(dict.fromkeys(typed)), withdrawn)
    put_on_list(withdrawn, meant)
    steps = plan(study.analysis, withdrawn)
    _say_plan(study, meant, steps, withdrawn, say)
    if not yes:
        say("nothing has been changed; repeat the command with --yes to do it (it cannot be undone)")
        return False
    _do(study, withdrawn, say, save=True)
    left = traces(study, meant)
    for path in left:
        say(f"still names them: {path} (not one of our files, or text of your own: look at it)")
    _say_theirs(study, meant, say)
    say(f"done. Next: pellucid run {study.path}")
    return True


def _say_plan(study: Study, meant: Meant, steps: Sequence[Step], withdrawn: Withdrawn, say: Say) -> None:
    people = "1 patient" if len(meant.patients) == 1 else f"{len(meant.patients)} patients"
    say(f"{people}, {meant.n_images} image(s) in {len(meant.files)} file(s) of their own")
    if meant.frames:
        say(f"{len(meant.frames)} picture(s) in files that hold pictures of other patients: the files stay, these go")
    for step in steps:
        say(f"  {step.sentence()}")
    for path, n in annotated_files(study.withdrawn.parent, withdrawn).items():
        say(f"  annotation/{path.name}: loses {n} line(s)")
    say(f"  annotation/{study.withdrawn.name}: keeps salted hashes of them, so that no later scan takes them in again")


def _say_theirs(study: Study, meant: Meant, say: Say) -> None:
    """What we never delete: it is the user's."""
    files = [study.image_root / name for name in meant.files if (study.image_root / name).is_file()]
    if files:
        say(f"yours to delete: {len(files)} original file(s)")
        for path in files[:_SHOWN]:
            say(f"  {path}")
        if len(files) > _SHOWN:
            say(f"  … and {len(files) - _SHOWN} more below {study.image_root}")
    rows = table_rows_of(study, meant)
    if rows:
        shown = ", ".join(map(str, rows[:_SHOWN])) + (" …" if len(rows) > _SHOWN else "")
        say(f"yours to delete: {len(rows)} row(s) of {study.table} (row {shown})")
    say(
        "not looked into: copies that `deidentify` wrote and their linkage file, what you exported or handed on, folders "
        "that `embed --out` made (pellucid forget FOLDER --image ID), backups, the history of this terminal; an explorer "
        "that is open keeps pictures in memory until it is closed"
    )


def _do(study: Study, withdrawn: Withdrawn, say: Say, save: bool = False) -> None:
    """Go through all runs for what stands on the list; killed anywhere, the same call finishes it."""
    with _nobody_else(study.analysis):
        if withdrawn.changed():
            raise UserError(f"{study.path}: another forgetting has ended in the meantime: repeat the command")
        if save:
            withdrawn.save()
        finish_interrupted(study.analysis)
        entry = withdrawn.pending[-1]
        for _ in range(3):  # another process may have ended a run in the meantime
            steps = plan(study.analysis, withdrawn)
            for step in steps:
                _take(study, step, withdrawn, entry)
            if not steps:
                break
        else:
            raise UserError(f"{study.path}: another command keeps writing runs: stop it, and repeat this one")
        for run in _finished(study.analysis, "read"):  # without images of theirs it may still need its new key
            forget_in_read(study, run, withdrawn, entry)
        relink(study.analysis)
        forget_annotations(study.withdrawn.parent, withdrawn)
        for done in withdrawn.pending:
            done.done = True
        withdrawn.save()


def _take(study: Study, step: Step, withdrawn: Withdrawn, entry: Withdrawal) -> None:
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


def _finished(analysis: Path, stage: str) -> list[RunFolder]:
    rows = [r for r in list_runs(analysis) if r["stage"] == stage and r["state"] in {"done", "stale"}]
    return [open_finished(Path(row["path"])) for row in rows]


@contextlib.contextmanager
def _nobody_else(analysis: Path) -> Iterator[None]:
    """Hold the lock of every run, finished or not; refuse if another process holds one."""
    with contextlib.ExitStack() as stack:
        for lock in sorted(analysis.glob("*/.*.lock")):
            what = f"{lock.parent.name}/{lock.name[1:].removesuffix('.lock')}"
            stack.enter_context(exclusive(lock, what))
        yield


def traces(study: Study, meant: Meant) -> list[Path]:
    """Files below analysis and annotation in which an own id or a file name of theirs still stands in plain text."""
    words = {text.encode() for text in (*meant.patients, *meant.files, *meant.frames) if len(text) >= _SHORTEST_NAME}
    found = []
    for folder in (study.analysis, study.withdrawn.parent):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_file() and path.stat().st_size <= _SEARCHED_BYTES and path.suffix != ".arrow":
                content = path.read_bytes()
                if any(word in content for word in words):
                    found.append(path)
    return found
