"""Commands on a whole study: report, explore, run, forget, tidy, status."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.options import ConfigFile, Device, Overrides, StudyPath, say, say_done


def report(study: StudyPath, overrides: Overrides = None, config: ConfigFile = None) -> None:
    """Write all findings to one self-contained HTML page."""
    from pellucid.api.study_functions import report_study

    run = report_study(study, overrides or [], config=config)
    say_done("report", run)
    say(f"open {run.path / 'report.html'}")


def explore(
    study: StudyPath,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="TCP port.")] = 8501,
    address: Annotated[str, typer.Option(help="Address to listen on: loopback only, because there is no sign-in.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Browse images, clusters and audit in a local browser."""
    from pellucid.api.study_functions import explore_study

    raise typer.Exit(explore_study(study, overrides or [], port=port, address=address))


def run(study: StudyPath, overrides: Overrides = None, config: ConfigFile = None, device: Device = "auto") -> None:
    """Run all stages, scan to report; reuse finished ones."""
    from pellucid.api.study_functions import run_study

    finished = run_study(study, overrides or [], config=config, device=device, say=say)
    again = shlex.join(["pellucid", "explore", str(study), *(overrides or [])])
    say(f"\nThe report:   {finished.path / 'report.html'}\nThe explorer: {again}")


def forget(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY|FOLDER", help="A study or, with --image, a folder that `embed --out` has written."
        ),
    ],
    patients: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATIENT]...",
            help="Ids as in the table, the path or the header, or research ids; overrides as KEY=VALUE.",
        ),
    ] = None,
    config: ConfigFile = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", help="An image_id of the folder; may be repeated.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Apply the removal. Without --yes, only list what would be removed.")
    ] = False,
) -> None:
    """Remove patients who withdrew consent from every run."""
    from pellucid.api.study_functions import withdraw_images, withdraw_patients
    from pellucid.cohort.errors import UserError
    from pellucid.cohort.study import StudyConfig

    if image or (study / "vectors.npy").is_file():
        if patients or not image:
            raise UserError(f"{study}: remove images from a folder of vectors with --image ID; patients need a study")
        found = withdraw_images(study, image, yes=yes)
        say(f"{found['images']} vector(s) {'removed' if yes else 'would be removed'}, {found['left']} kept")
        if not yes:
            say("nothing has been changed; repeat the command with --yes to apply it (it cannot be undone)")
        return
    keys = {name for name in patients or [] if name.partition("=")[0].partition(".")[0] in StudyConfig.model_fields}
    overrides = [name for name in patients or [] if "=" in name and name in keys]
    named = [name for name in patients or [] if name not in overrides]
    withdraw_patients(study, named, overrides, config=config, yes=yes, say=say)


def tidy(
    study: StudyPath,
    overrides: Overrides = None,
    config: ConfigFile = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also remove stale vectors and weights that no newer run replaces.")
    ] = False,
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged",
            help="Verify every file instead; with --yes, quarantine damaged runs, so that they are computed again.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Apply the removal. Without --yes, only list what would be removed.")
    ] = False,
) -> None:
    """List runs that nothing needs any more; with --yes, remove them.

    It removes stale and superseded runs and what interrupted processes have left, but no run that a kept run was made
    from, and no annotations.
    """
    from pellucid.api.study_functions import tidy_study

    tidy_study(study, overrides or [], config=config, everything=everything, damaged=damaged, yes=yes, say=say)


def status(
    study: StudyPath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option(help="Read every file of every run and compare its checksum.")] = False,
) -> None:
    """List the runs, their states, and the next command."""
    from pellucid.api.opened_study import load
    from pellucid.api.study_functions import study_status
    from pellucid.cohort.runs import verify as verify_run
    from pellucid.cohort.status import next_step

    loaded = load(study, overrides or [])
    runs = study_status(loaded)
    if as_json:
        typer.echo(json.dumps({"runs": runs}, indent=1))
        return
    colour = {"done": "green", "running": "blue", "stale": "yellow", "failed": "red", "damaged": "red"}
    for row in runs:
        say(f"{typer.style(row['state'].ljust(8), fg=colour[row['state']])} {row['stage'].ljust(9)} {row['name']}")
        if row.get("index"):
            say(f"         search: {row['index']}")
        if verify and row["state"] in {"done", "stale", "damaged"}:
            for sentence in verify_run(Path(row["path"])):
                say(f"         {sentence}", fg="red")
    say(next_step(runs, study, variables=bool(loaded.variables)))
