"""`scan`: originals and table → manifest, prepared images and source audit; everything later starts from its run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.duplicates.duplicate_groups import THUMBNAIL_PX, Thumbnails
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers.findings import name_findings
from pellucid.cohort.identifiers.ocr import available
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.intake.file_listing import Listing, list_images, read_inputs
from pellucid.cohort.intake.known_originals import known_fingerprint
from pellucid.cohort.intake.read_pass import read_all
from pellucid.cohort.manifest.join import LateWithdrawal, build_manifest, require_key
from pellucid.cohort.measures.quality_grades import (
    QualityThresholds,
    apply_annotations,
    grades,
    load_thresholds,
    read_annotations,
)
from pellucid.cohort.path_names import without_names
from pellucid.cohort.progress import track
from pellucid.cohort.runs.atomic_files import atomic_path, write_json
from pellucid.cohort.runs.checksums import sha256_file
from pellucid.cohort.runs.folder import RunFolder, begin_run, find_run, run_key
from pellucid.cohort.runs.integrity import require_intact
from pellucid.cohort.source_audit import source_audit
from pellucid.cohort.study import Study
from pellucid.cohort.withdrawal.resolve import forget_late
from pellucid.cohort.withdrawal_list import Withdrawn, refuse_pending

# Counted up when the pass gives other columns, or the join and the source audit other results: earlier runs are then
# stale.
_COLUMNS_VERSION = 4
_AUDIT_VERSION = 8
_FEW = 3
_MOST_REASONS = 12


def scan(study: Study, *, progress: bool = True, dask: str = "") -> RunFolder:
    """Read every original once (stage `read`), join the table and audit the source (stage `scan`).

    Args:
        study: what to read.
        progress: show it.
        dask: address of a Dask scheduler to read with; its workers must see the same folders under the same paths.

    Raises:
        UserError: no images, a table that does not fit, or more unreadable files than `scan.max_unreadable`.
    """
    refuse_pending(study.withdrawn, study.path)
    if study.config.scan.text == "ocr" and not available():
        raise UserError(
            f"{study.path}: scan.text is ocr, which needs rapidocr: install pellucid[privacy], or take lines"
        )
    require_key(study)
    listing = list_images(study)
    read_config, files = _read_key(study, listing)
    with begin_run(study.analysis, "read", "read", read_config, inputs=files) as read:
        if not read.done:
            with track("reading images", len(listing.image_ids), "files", progress) as advance:
                for count in read_all(read.path, listing, study.config.scan, dask, Withdrawn.load(study.withdrawn)):
                    advance(count)
    images = pd.read_parquet(read.path / "images.parquet")
    _refuse_too_many(study, images, read, listing)
    scan_config, scan_inputs = _scan_key(study)
    try:
        return _join(study, listing, images, read, scan_config, scan_inputs)
    except LateWithdrawal as late:  # their patient was not known before they were read
        forget_late(study, late.images, late.theirs)
        return scan(study, progress=progress, dask=dask)


def _join(
    study: Study,
    listing: Listing,
    images: pd.DataFrame,
    read: RunFolder,
    scan_config: dict[str, Any],
    scan_inputs: dict[str, str],
) -> RunFolder:
    with begin_run(
        study.analysis, "scan", "scan", scan_config, [read], scan_inputs, seed=study.config.split.seed
    ) as run:
        if not run.done:
            manifest, problems = build_manifest(study, images, _thumbnails(read, images))
            manifest = _graded(study, _with_name_findings(study, manifest), problems)
            problems += [f"images: {note}" for note in listing.notes()]
            if listing.withdrawn:
                problems.append(
                    f"images: skipped {listing.withdrawn} file(s) of patients who withdrew consent; the originals are "
                    "still there, and yours to delete"
                )
            other = manifest[manifest["status"] == "no_picture"]
            if len(other):
                problems.append(
                    f"images: skipped {len(other)} file(s) that hold no image to be read ({_counted(other['reason'])}) "
                    f"(first: `{other['image_id'].iloc[0]}`)"
                )
            ids = set(manifest["patient_source_id"].dropna().astype(str)) if study.config.patient != "none" else set()
            problems = [without_names(problem, ids) for problem in problems]
            with atomic_path(run.path / "manifest.parquet") as temporary:
                manifest.to_parquet(temporary, index=False)
            write_json(run.path / "source.json", source_audit(study, manifest, problems))
    return run


def _thumbnails(read: RunFolder, images: pd.DataFrame) -> Thumbnails:
    """Small gray copies of images by id, by which near duplicates are judged."""
    places = images.set_index("image_id")[["shard", "shard_row"]]

    def thumbnails(image_ids: Sequence[str]) -> NDArray[np.uint8]:
        rows = list(places.loc[list(image_ids)].itertuples(index=False, name=None))
        prepared = PreparedImages(read.path, rows, image_ids)
        grey = [cv2.cvtColor(prepared.square(i, THUMBNAIL_PX), cv2.COLOR_RGB2GRAY) for i in range(len(rows))]
        return np.asarray(grey, dtype=np.uint8)

    return thumbnails


def _graded(study: Study, manifest: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    """Quality grades beside the numbers; a manual grade overrides a computed one."""
    found = grades(manifest, _thresholds(study))
    try:
        found = apply_annotations(found, read_annotations(study.quality_annotations))
    except UserError as error:
        raise UserError(f"{study.quality_annotations}: {error}") from None
    overruled = int((found["image_grade_by"] != "").sum())
    if overruled:
        problems.append(f"{study.quality_annotations.name}: people graded {overruled} image(s); their word counts")
    return pd.concat([manifest, found.drop(columns="image_id")], axis=1)


def _thresholds(study: Study) -> QualityThresholds:
    try:
        return load_thresholds(study.config.specialty, study.config.quality)
    except UserError as error:
        raise UserError(f"{study.path}: {error}") from None


def _with_name_findings(study: Study, manifest: pd.DataFrame) -> pd.DataFrame:
    """Findings of the pass, and what file and folder names give away of the patients that are now known."""
    known = study.config.patient != "none"
    ids = manifest["patient_source_id"].astype(object).where(manifest["patient_source_id"].notna() & known, None)
    found = name_findings(manifest["file"].tolist(), ids.tolist())
    both = [" ".join([*old.split(), *new]) for old, new in zip(manifest["findings"], found, strict=True)]
    return manifest.assign(findings=both)


def current_scan(study: Study) -> RunFolder:
    """The finished scan of the study as it is now.

    Raises:
        UserError: it was not scanned, or images, table or study.yaml have changed since.
        DamagedRun: a file of the scan, or of the run that it was made from, is not what was written.
    """
    refuse_pending(study.withdrawn, study.path)
    key = current_keys(study)["scan"]
    found = find_run(study.analysis, "scan", "scan", key)
    if found is not None:
        require_intact(found.path)
    if found is None:
        earlier = any((study.analysis / "scan").glob("scan-*"))
        why = "images, table or study.yaml changed since the last scan" if earlier else "there is no scan of it yet"
        raise UserError(f"{study.path}: {why}: run `pellucid scan {shlex.quote(str(study.path))}`")
    return found


def current_keys(study: Study) -> dict[str, str]:
    """Keys that the `read` and `scan` runs of the study have now; needs no image to be opened."""
    config, inputs = _read_key(study, list_images(study))
    read = run_key("read", config, inputs=inputs)
    scan_config, scan_inputs = _scan_key(study)
    parent = RunFolder(study.analysis, "read", "read", read, True)
    return {"read": read, "scan": run_key("scan", scan_config, [parent], scan_inputs)}


def _read_key(study: Study, listing: Listing) -> tuple[dict[str, Any], dict[str, str]]:
    config = study.config.scan.model_dump(exclude={"workers", "max_unreadable"})
    if find_spec("pillow_heif") is not None:  # HEIC images that were not read before can be read now
        config["heic"] = True
    files = known_fingerprint(study.analysis, listing)
    return {"columns": _COLUMNS_VERSION, **config}, read_inputs(files, Withdrawn.load(study.withdrawn))


def _scan_key(study: Study) -> tuple[dict[str, Any], dict[str, str]]:
    keys = {
        "table",
        "sheet",
        "decimal",
        "missing",
        "image",
        "patient",
        "clinical",
        "acquisition",
        "outcome",
        "split",
        "external",
    }
    config = study.config.model_dump(include=keys, mode="json")
    config["table"] = study.table.name if study.table else None
    config["version"] = _AUDIT_VERSION
    config["quality"] = _thresholds(study).model_dump(mode="json")
    if study.table is not None and not study.table.is_file():
        raise UserError(f"{study.table}: the table is not there; correct its name, or the folder it is relative to")
    files = {"table": study.table, "quality annotations": study.quality_annotations}
    return config, {name: sha256_file(path) for name, path in files.items() if path is not None and path.is_file()}


def _unit(images: pd.DataFrame) -> str:
    """What a row is: a file, or a frame of it."""
    return "files" if images["file"].is_unique else f"images of {images['file'].nunique()} files"


def _counted(reasons: pd.Series) -> str:
    """Reasons with their numbers, the most frequent first."""
    counts = reasons.value_counts()
    shown = [f"{count} × {reason}" for reason, count in counts.head(_MOST_REASONS).items()]
    return ", ".join([*shown, *([f"{counts.iloc[_MOST_REASONS:].sum()} × others"] if len(counts) > len(shown) else [])])


def _refuse_too_many(study: Study, images: pd.DataFrame, read: RunFolder, listing: Listing) -> None:
    bad = images[images["status"] == "unreadable"]  # a sound file that is no picture (a DICOMDIR) is no loss
    refused = listing.refused if len(listing.refused) > _FEW else ()  # a few are named, and cost only themselves
    n_bad, n_all = len(bad) + len(refused), len(images) + len(refused)
    share, limit = n_bad / n_all, study.config.scan.max_unreadable
    if share <= limit:
        return
    reasons = pd.concat([bad["reason"], pd.Series([reason for _, reason in refused], dtype=object)])
    shown = "\n".join(f"  {count} × {reason}" for reason, count in reasons.value_counts().head(8).items())
    first = bad["image_id"].iloc[0] if len(bad) else refused[0][0]
    raise UserError(
        f"{n_bad} of {n_all} {_unit(images)} ({share:.0%}) are images that are not read, more than "
        f"scan.max_unreadable = {limit:.0%}:\n"
        f"{shown}\n  (first: `{first}`; all of them: {read.path / 'images.parquet'})\n"
        "repair or remove them, or allow more with scan.max_unreadable=…"
    )
