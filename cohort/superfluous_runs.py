"""`tidy`: which runs of a study nothing needs any more, and their removal.

`analysis/` only grows: a change of the images, the table or the settings makes new runs beside the old ones. `tidy`
removes stale runs and runs that a newer one of the same name replaces. It keeps what a kept run was made from, what
study.yaml names, and stale vectors and weights until new ones exist, because `embed` reuses vectors of unchanged images
and a training may begin with earlier weights. It does not touch `annotation/`, which holds the list of withdrawals.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pellucid.cohort.runs.atomic_files import is_held
from pellucid.cohort.runs.checksums import SUMS, verify
from pellucid.cohort.runs.folder import QUARANTINED, STATE, RunFolder, quarantine
from pellucid.cohort.runs.history import finished_folders, finished_runs, list_runs
from pellucid.cohort.runs.rewrite import all_locked, finish_interrupted, remove_folder
from pellucid.cohort.scan import current_keys
from pellucid.cohort.study import Study
from pellucid.cohort.withdrawal_list import refuse_pending

Say = Callable[[str], None]
_COSTLY = {"pretrain": "its weights", "embed": "its vectors"}
_QUARANTINED_NAME = re.compile(rf".+-[0-9a-f]{{8}}{re.escape(QUARANTINED)}\d+")


@dataclass(frozen=True)
class Superfluous:
    """A folder or file below `analysis/` that nothing needs.

    Attributes:
        path: where it is.
        why: the reason in words.
        n_bytes: its size.
        kept: why it is kept nevertheless; empty if it is removed.
    """

    path: Path
    why: str
    n_bytes: int
    kept: str = ""

    def sentence(self) -> str:
        """One line: name, size and reason."""
        name = f"{self.path.parent.name}/{self.path.name}"
        return f"{name} ({size_phrase(self.n_bytes)}): {self.why}" + (f"; kept: {self.kept}" if self.kept else "")


def find_superfluous(study: Study, *, everything: bool = False, locked: bool = False) -> list[Superfluous]:
    """What `tidy` removes, and the stale runs that it keeps, children before what they were made from.

    Args:
        everything: also stale vectors and weights that no newer run replaces.
        locked: this process holds the locks of all runs.

    Raises:
        UserError: images or table are missing, so that it is not known which runs are stale; a damaged run.
    """
    runs = finished_runs(study.analysis)
    current = current_keys(study)
    stale = {Path(row["path"]) for row in list_runs(study.analysis, current) if row["state"] == "stale"}
    reasons = _reasons(runs, stale, current)
    kept = _kept(study, runs, reasons, stale, everything)
    depths = _depths(runs)
    children_first = sorted(reasons, key=lambda path: (-depths[path], str(path)))
    found = [Superfluous(path, reasons[path], folder_bytes(path), kept.get(path, "")) for path in children_first]
    staying = {run.key for run in runs if run.path not in reasons or run.path in kept}
    interrupted = [
        _judged(study, folder, current, staying, everything)
        for folder in sorted(study.analysis.glob("*/.*.partial"))
        if locked or not is_held(_lock_of(folder))
    ]
    return [*found, *interrupted, *_left_over(study.analysis)]


def tidy(
    study: Study, *, everything: bool = False, damaged: bool = False, yes: bool = False, say: Say = print
) -> list[Superfluous]:
    """Remove superfluous runs, or list them; see `pellucid.tidy_study`."""
    refuse_pending(study.withdrawn, study.path)
    if damaged:
        return _quarantine_damaged(study, yes, say)
    found = find_superfluous(study, everything=everything)
    if yes:
        with all_locked(study.analysis):
            finish_interrupted(study.analysis)
            found = find_superfluous(study, everything=everything, locked=True)  # a command may have ended since
            _remove(study.analysis, [item for item in found if not item.kept])
    for item in found:
        say(f"  {item.sentence()}")
    removed = [item for item in found if not item.kept]
    total = size_phrase(sum(item.n_bytes for item in removed))
    if not removed:
        say("nothing to remove")
    elif yes:
        say(f"removed {len(removed)}, {total}")
    else:
        say(
            f"{len(removed)} to remove, {total}; nothing has been changed: repeat the command with --yes to remove "
            "them (it cannot be undone)"
        )
    return removed


def folder_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def size_phrase(n_bytes: int) -> str:
    """`3.2 GB`, `14.0 MB`, `5 kB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


# ------------------------------------------------------------------------------------------- which ones


def _reasons(runs: Sequence[RunFolder], stale: Collection[Path], current: dict[str, str]) -> dict[Path, str]:
    """Why each run that is not the newest current one of its stage and name is superfluous."""
    newest = {(run.stage, run.name): run for run in runs if run.path not in stale}  # oldest first: the last one stays
    reasons = {}
    for run in runs:
        newer = newest.get((run.stage, run.name))
        if run.path in stale:
            reasons[run.path] = _why_stale(run, runs, stale, current)
        elif newer is not None and newer.path != run.path:
            reasons[run.path] = f"superseded by {newer.path.name}"
    return reasons


def _depths(runs: Sequence[RunFolder]) -> dict[Path, int]:
    """For each run the length of the longest chain of runs that it was made from."""
    by_key = {run.key: run for run in runs}
    depths: dict[Path, int] = {}

    def depth(run: RunFolder) -> int:
        if run.path not in depths:
            parents = [by_key[reference["key"]] for reference in run.record["parents"] if reference["key"] in by_key]
            depths[run.path] = 1 + max((depth(parent) for parent in parents), default=0)
        return depths[run.path]

    for run in runs:
        depth(run)
    return depths


def _why_stale(run: RunFolder, runs: Sequence[RunFolder], stale: Collection[Path], current: dict[str, str]) -> str:
    if current.get(run.stage, run.key) != run.key:
        return "stale: originals, table or settings have changed"
    by_key = {other.key: other for other in runs}
    for parent in run.record["parents"]:
        made_from = by_key.get(parent["key"])
        if made_from is None:
            return f"stale: {parent['stage']}/{parent['name']}, from which it was made, is gone"
        if made_from.path in stale:
            return f"stale: made from {made_from.stage}/{made_from.path.name}, which is stale"
    return "stale"


def _kept(
    study: Study, runs: Sequence[RunFolder], reasons: dict[Path, str], stale: Collection[Path], everything: bool
) -> dict[Path, str]:
    """The superfluous runs that are kept nevertheless, and why."""
    named = _words_of(study)
    current = {(run.stage, run.name) for run in runs if run.path not in stale}
    kept = {}
    for run in runs:
        if run.path not in reasons:
            continue
        if run.path.name in named:
            kept[run.path] = f"{study.path.name} names it"
        elif run.stage in _COSTLY and (run.stage, run.name) not in current and not everything:
            kept[run.path] = f"no newer run replaces {_COSTLY[run.stage]} yet (--all removes it)"
    by_key = {run.key: run for run in runs}
    waiting = [run for run in runs if run.path not in reasons or run.path in kept]
    while waiting:
        child = waiting.pop()
        for parent in (by_key.get(reference["key"]) for reference in child.record["parents"]):
            if parent is not None and parent.path in reasons and parent.path not in kept:
                kept[parent.path] = f"{child.stage}/{child.path.name} was made from it"
                waiting.append(parent)
    return kept


def _judged(
    study: Study, folder: Path, current: dict[str, str], staying: Collection[str], everything: bool
) -> Superfluous:
    """The working folder of a process that has ended: kept if a command can continue it."""
    name, stage, begun = _run_name(folder), folder.parent.name, _begun(folder)
    why, kept = "interrupted, and its inputs have changed", ""
    if begun is None or (folder.with_name(name) / SUMS).is_file():
        why = "left over from a run that ended"
    elif current.get(stage, begun[0]) == begun[0] and begun[1] <= set(staying):
        why, kept = "interrupted", f"`pellucid {'scan' if stage == 'read' else stage}` continues it"
    elif name in _words_of(study):
        kept = f"{study.path.name} names it"
    elif stage == "pretrain" and not everything:  # its last good state may serve a new training
        kept = "it may hold good weights (--all removes it)"
    return Superfluous(folder, why, folder_bytes(folder), kept)


def _run_name(partial: Path) -> str:
    return partial.name[1:].removesuffix(".partial")


def _lock_of(partial: Path) -> Path:
    return partial.with_name(f".{_run_name(partial)}.lock")


def _words_of(study: Study) -> str:
    return study.path.read_text(encoding="utf-8") + study.config.model_dump_json()


def _begun(folder: Path) -> tuple[str, set[str]] | None:
    """Key of an unfinished run and keys of the runs that it is made from; None if nothing was begun."""
    for name in (STATE, "run.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            return content["key"], {*content.get("made_from", []), *(p["key"] for p in content.get("parents", []))}
    return None


def _left_over(analysis: Path) -> Iterator[Superfluous]:
    """Quarantined runs, and temporary files of processes that have ended."""
    for folder in sorted(analysis.glob("*/[!.]*")):
        if folder.is_dir() and _QUARANTINED_NAME.fullmatch(folder.name):
            yield Superfluous(folder, "quarantined as damaged", folder_bytes(folder))
    for torn in sorted(analysis.rglob(".*.tmp")):
        if torn.is_file() and not any(part.endswith(".partial") for part in torn.relative_to(analysis).parts):
            yield Superfluous(torn, "temporary file of a process that ended", folder_bytes(torn))


# ------------------------------------------------------------------------------------------- removal


def _remove(analysis: Path, found: Sequence[Superfluous]) -> None:
    """Children before parents, each in one step: killed at any point, the study is whole and the rest is left."""
    for item in found:
        if item.path.is_dir():
            remove_folder(item.path)
        else:
            item.path.unlink(missing_ok=True)
    for lock in sorted(analysis.glob("*/.*.lock")):  # all of them are held by this process
        name = lock.name[1:].removesuffix(".lock")
        if not lock.with_name(name).exists() and not lock.with_name(f".{name}.partial").exists():
            lock.unlink()


def _quarantine_damaged(study: Study, yes: bool, say: Say) -> list[Superfluous]:
    found = []
    for folder in finished_folders(study.analysis):
        if wrong := verify(folder):
            found.append(Superfluous(folder, "; ".join(wrong), folder_bytes(folder)))
    if yes and found:
        with all_locked(study.analysis):
            for item in found:
                quarantine(item.path)
    for item in found:
        say(f"  {item.sentence()}")
    if not found:
        say("every file of every run is as it was written")
    elif yes:
        say(f"quarantined {len(found)}; `pellucid run {shlex.quote(str(study.path))}` computes them again")
    else:
        say(
            f"{len(found)} to quarantine; nothing has been changed: repeat the command with --yes (the damaged files "
            "stay until `pellucid tidy` removes them)"
        )
    return found
