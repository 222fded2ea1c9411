"""Functions on a whole study: report, explorer, run, withdrawal, status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.api.opened_study import StudyOrPath, load
from pellucid.cohort.runs import RunFolder

if TYPE_CHECKING:
    from pellucid.cohort.superfluous_runs import Superfluous

Say = Callable[[str], None]


def report_study(study: StudyOrPath, overrides: Sequence[str] = (), *, config: Path | None = None) -> RunFolder:
    """Write the report, one self-contained HTML page, from the newest finished runs.

    Args:
        study, overrides, config: as for `scan_study`.

    Returns:
        The run of the stage `report`, with `report.html`.

    Raises:
        UserError: no current scan.
    """
    from pellucid.pipeline import report_newest

    return report_newest(load(study, overrides, config))


def explore_study(
    study: str | Path, overrides: Sequence[str] = (), *, port: int = 8501, address: str = "127.0.0.1"
) -> int:
    """Serve the explorer on this machine until it is stopped, and print the link that opens it in a browser.

    Args:
        study: `study.yaml`, or the folder that holds it; the server loads it in a separate process.
        overrides: as for `scan_study`.
        port: TCP port.
        address: loopback addresses only.

    Returns:
        Exit code of the server.

    Raises:
        UserError: no scan, another address, or a port that is in use.
    """
    from pellucid.explore.app import explore

    return explore(load(study, overrides), port, address, overrides)


def run_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    device: str = "auto",
    say: Say = print,
    progress: bool = True,
) -> RunFolder:
    """Run every stage from scan to report; finished stages are reused.

    Args:
        study, overrides, config: as for `scan_study`.
        device: auto, cpu or cuda; for pretraining and embedding.
        say: receives each message.
        progress: show progress bars.

    Returns:
        The run of the stage `report`, with `report.html`.

    Raises:
        UserError: mistakes in study.yaml (all sections are checked first), or whatever a stage refuses.
    """
    from pellucid.pipeline import run_stages

    return run_stages(load(study, overrides, config), device=device, say=say, progress=progress)


def withdraw_patients(
    study: StudyOrPath,
    patients: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    yes: bool = False,
    say: Say = print,
) -> bool:
    """Remove patients who withdrew consent from every run, and exclude them from later scans; the command is `forget`.

    Args:
        study, overrides, config: as for `scan_study`.
        patients: original or research ids; empty: complete an interrupted withdrawal.
        yes: apply it; without, only list what would be removed.
        say: receives each message.

    Returns:
        Whether it was applied.

    Raises:
        UserError: an unknown patient, or another command is working on the study.
    """
    from pellucid.withdrawal import forget_patients

    return forget_patients(load(study, overrides, config), patients, yes=yes, say=say)


def withdraw_images(folder: Path, image_ids: Sequence[str], *, yes: bool = False) -> dict[str, Any]:
    """Remove images from a folder that `embed_folder` has written, and keep them out of later updates.

    Args:
        folder: holds `vectors.npy`.
        image_ids: as in its `images.parquet`.
        yes: apply it; without, only count.

    Returns:
        {"images": number of vectors removed, "left": number that stay}.

    Raises:
        UserError: an unknown image.
    """
    from pellucid.embed.store import forget_in_store

    return forget_in_store(Path(folder), image_ids, yes=yes)


def tidy_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    everything: bool = False,
    damaged: bool = False,
    yes: bool = False,
    say: Say = print,
) -> list[Superfluous]:
    """Remove runs that are stale or superseded, and what interrupted processes have left; the command is `tidy`.

    Runs that a kept run was made from, runs that study.yaml names, and annotations are not removed. Stale vectors and
    weights are kept until a newer run replaces them.

    Args:
        study, overrides, config: as for `scan_study`; runs made with other overrides are stale.
        everything: also remove stale vectors and weights that no newer run replaces.
        damaged: instead, verify every file of every run and quarantine damaged runs, so that they are computed again.
        yes: apply it; without, only list what would be removed.
        say: receives each message.

    Returns:
        What was removed (or would be): objects with `path`, `why` and `n_bytes`.

    Raises:
        UserError: missing images or table, a damaged run, or another command is working on the study.
    """
    from pellucid.cohort.superfluous_runs import tidy

    return tidy(load(study, overrides, config), everything=everything, damaged=damaged, yes=yes, say=say)


def study_status(study: StudyOrPath, overrides: Sequence[str] = ()) -> list[dict[str, str]]:
    """List the runs of a study, oldest first.

    Args:
        study, overrides: as for `scan_study`.

    Returns:
        One dictionary per run: `stage`, `name`, `path`, `state` (done, running, stale, failed, or damaged if its
        `run.json` is) and, for vectors, `index` (a sentence on how they are searched).
    """
    from pellucid.cohort import status

    rows = status.study_status(load(study, overrides))
    embedded = [row for row in rows if row["stage"] == "embed" and row["state"] in {"done", "stale"}]
    if embedded:
        from pellucid.embed.index import stored_sentence  # loads FAISS

        for row in embedded:
            row["index"] = stored_sentence(Path(row["path"]))
    return rows
