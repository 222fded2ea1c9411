"""Functions before any model: scan_study, deidentify_study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pellucid.api.opened_study import StudyOrPath, load
from pellucid.cohort.runs import RunFolder

if TYPE_CHECKING:
    from pellucid.cohort.deidentify import Deidentified


def scan_study(
    study: StudyOrPath,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    dask: str = "",
    progress: bool = True,
) -> RunFolder:
    """Read every image once, join the clinical table, split by patient and audit the source.

    Args:
        study: a loaded study, `study.yaml`, or the folder that holds it.
        overrides: `key=value` pairs that replace keys of study.yaml, for example `split.test=0.3`.
        config: YAML file with keys that replace those of study.yaml.
        dask: address of a Dask scheduler to read with; its workers must see the same folders.
        progress: show progress bars.

    Returns:
        The run of the stage `scan`, with `manifest.parquet` (one row per image) and `source.json`.

    Raises:
        UserError: no images, a table that does not match, or too many unreadable files.
    """
    from pellucid.cohort.scan import scan

    return scan(load(study, overrides, config), dask=dask, progress=progress)


def deidentify_study(
    study: StudyOrPath,
    out: Path,
    linkage: Path,
    overrides: Sequence[str] = (),
    *,
    config: Path | None = None,
    text: Literal["auto", "ocr", "lines"] = "auto",
    mask: Literal["all", "identifying"] = "all",
    dates: Literal["shift", "remove"] = "shift",
    retain_patient: bool = True,
    retain_device: bool = False,
    keep_text: Sequence[str] = (),
    show: Literal["sample", "all"] | None = None,
    reviewed_by: str | None = None,
    progress: bool = True,
) -> Deidentified:
    """Write a copy of a study without identifiers.

    Args:
        study, overrides, config: as for `scan_study`.
        out: folder of the copy: a new one, or one that this function has made.
        linkage: file that maps research ids back to patients; outside the study and the copy; created if missing.
        text: how burned-in text is found: read by OCR, or by its shape (`lines`, only if asked for); auto: OCR.
        mask: all text, or (with OCR) only text that may identify.
        dates: shift all dates of a patient by the same number of days, or remove them.
        retain_patient: keep sex, age (at most 90), size and weight.
        retain_device: keep serial numbers and station names.
        keep_text: columns of free text that go into the copy; others are refused.
        show: images without masked text on the review sheet: a sample of 60, or all; None: as the last time.
        reviewed_by: who has looked through the review sheet; the DICOM files that it shows then state that their
            pixels are clean. Nothing else is done.
        progress: show progress bars.

    Returns:
        Counts of written, masked and refused files, and the folder.

    Raises:
        UserError: a place that is not allowed, OCR that is not installed, or a column that identifies people.
    """
    from pellucid.cohort.deidentify import deidentify_study

    return deidentify_study(
        load(study, overrides, config), Path(out), Path(linkage), text=text, mask=mask, dates=dates,
        retain_patient=retain_patient, retain_device=retain_device, keep_text=keep_text, show=show,
        reviewed_by=reviewed_by, progress=progress,
    )  # fmt: skip
