"""Options that several commands share, and messages of which only one process of a distributed run prints a copy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pellucid.cohort.runs import RunFolder

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="study.yaml, or the folder that holds it.")]
StudyOrVectors = Annotated[
    Path, typer.Argument(metavar="STUDY|FOLDER", help="A study, or a folder that `embed --out` has written.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Values that replace keys of study.yaml, e.g. split.test=0.3 data=FOLDER."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with keys that replace those of study.yaml.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="pixels, or a name after run:, timm:, timm-random:, hf: or file:. Default: the study's own backbone.",
    ),
]
TextSearch = Literal["auto", "ocr", "lines"]
MaskedText = Literal["all", "identifying"]
ShownImages = Literal["sample", "all"]
Dates = Literal["shift", "remove"]
ExportFormat = Literal["parquet", "h5ad", "projector", "atlas"]


def say(text: str, **style: Any) -> None:
    """Print a message once: only in the first process of a distributed run.

    Args:
        style: for `typer.secho`, for example `fg="yellow"`.
    """
    from pellucid.cohort.progress import is_first_process

    if is_first_process():
        typer.secho(text, **style)


def for_logs(text: str) -> str:
    """The message if it goes to a terminal; otherwise, as in a log file, without names that may identify a patient."""
    from pellucid.cohort.path_names import without_names

    return text if sys.stderr.isatty() else without_names(text)


def say_done(what: str, run: RunFolder) -> None:
    """Say where a finished run is, and whether it existed before."""
    say(f"{what}: {'already done, nothing to do' if run.done else 'done'} → {run.path}")


def comma_separated(names: str) -> list[str]:
    """Names in an option such as `--clinical diagnosis,grade`."""
    return [name.strip() for name in names.split(",") if name.strip()]
