"""Commands before any model: demo, init, scan, deidentify."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.options import (
    ConfigFile,
    Dates,
    MaskedText,
    Overrides,
    ShownImages,
    StudyPath,
    TextSearch,
    say,
    say_done,
)

_MOST_REASONS = 12  # for which files were refused, in the terminal


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the phantom study.")] = Path("demo"),
    overrides: Overrides = None,
    patients: Annotated[int, typer.Option(min=20, help="Patients in the phantom cohort, 2 to 5 images each.")] = 160,
    seed: Annotated[int, typer.Option(help="Random seed of the phantom cohort.")] = 0,
) -> None:
    """Write a phantom cohort with known truth and analyse it."""
    from pellucid.pipeline import run_demo

    run = run_demo(folder, overrides or [], patients=patients, seed=seed, say=say)
    say(f"\nThe report:   {run.path / 'report.html'}\nThe explorer: pellucid explore {shlex.quote(str(folder))}")


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with the images and, usually, the clinical table.")],
    table: Annotated[Path | None, typer.Option(help="Clinical table: csv, tsv, xlsx or parquet.")] = None,
) -> None:
    """Draft study.yaml from a folder of images and a clinical table."""
    from pellucid.cohort.draft import draft_study

    path = draft_study(folder, table)
    say(path.read_text(encoding="utf-8"))
    say(f"written to {path}; check and correct it, then run: pellucid scan {shlex.quote(str(path))}")


def scan(
    study: StudyPath,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dask: Annotated[
        str, typer.Option(help="Address of a Dask scheduler to read with; its workers must see the same folders.")
    ] = "",
) -> None:
    """Read every image once, join the table, audit the source."""
    from pellucid.api.data_functions import scan_study

    run = scan_study(study, overrides or [], config=config, dask=dask)
    source = run.read_json("source.json")
    for sentence in source["sentences"]:
        say(f"  {sentence}")
    for sentence in source["problems"]:
        say(f"  note: {sentence}", fg="yellow")
    say_done("scan", run)


def deidentify(
    study: StudyPath,
    out: Annotated[Path, typer.Option(help="Folder for the copy: new, or written by this command before.")],
    linkage: Annotated[
        Path,
        typer.Option(
            help="File that links research ids to patients. Keep it outside the study and the copy; created if missing."
        ),
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    text: Annotated[
        TextSearch, typer.Option(help="How to find burned-in text: by OCR (auto), or by its shape (lines).")
    ] = "auto",
    mask: Annotated[MaskedText, typer.Option(help="Mask all text, or (OCR only) text that may identify.")] = "all",
    dates: Annotated[
        Dates, typer.Option(help="Shift all dates of a patient by the same number of days, or remove them.")
    ] = "shift",
    retain_patient: Annotated[bool, typer.Option(help="Keep sex, age (at most 90), size and weight.")] = True,
    retain_device: Annotated[bool, typer.Option(help="Keep serial numbers and station names.")] = False,
    keep_text: Annotated[
        list[str] | None,
        typer.Option(help="Column of free text to keep in the copy (repeatable); others are refused."),
    ] = None,
    show: Annotated[
        ShownImages | None,
        typer.Option(help="Images without masked text on the review sheet; default: as the last time, or a sample."),
    ] = None,
    reviewed_by: Annotated[
        str | None,
        typer.Option(help="Who has looked through the review sheet; certifies the DICOM files that it shows."),
    ] = None,
) -> None:
    """Write a copy of a study without identifiers."""
    from pellucid.api.data_functions import deidentify_study

    done = deidentify_study(
        study, out, linkage, overrides or [], config=config, text=text, mask=mask, dates=dates,
        retain_patient=retain_patient, retain_device=retain_device, keep_text=keep_text or [], show=show,
        reviewed_by=reviewed_by,
    )  # fmt: skip
    if reviewed_by is not None:
        say(f"review recorded: {done.certified} DICOM files now state BurnedInAnnotation NO and code 113101")
        return
    how = (
        "read by OCR"
        if done.text == "ocr"
        else "found by its shape, not read: short, rotated, handwritten and faint text is missed; check every image"
    )
    say(f"  {done.written} files written, {done.masked} of them with masked text ({how}); {done.refused} refused")
    for reason, count in done.reasons[:_MOST_REASONS]:
        say(f"    {count} × {reason}")
    if len(done.reasons) > _MOST_REASONS:
        say(f"    {sum(count for _, count in done.reasons[_MOST_REASONS:])} × others, on the review sheet")
    say(f"deidentify: {'already done, nothing to do' if done.already_done else 'done'} → {done.path}")
    say(f"check {done.path / 'review.html'} before you share the folder; do not share {linkage}")
