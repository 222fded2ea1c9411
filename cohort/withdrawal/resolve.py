"""Forgetting, as far as images and tables go: whom a withdrawal covers, the list of who withdrew, and the runs `read`
and `scan`.

Vectors are forgotten by `pellucid.embed.store.withdrawal`, weights are marked by `pellucid.pretrain.export.withdrawal`,
and `pellucid.withdrawal` calls them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.intake.file_listing import list_images
from pellucid.cohort.manifest.cell_values import as_ids, as_text
from pellucid.cohort.manifest.row_matching import match_images, patients_of_images
from pellucid.cohort.manifest.table_file import study_table
from pellucid.cohort.runs.history import finished_runs
from pellucid.cohort.runs.private_files import writes_privately
from pellucid.cohort.study import FromPath, Study
from pellucid.cohort.withdrawal.read_and_scan import forget_in_read, relink
from pellucid.cohort.withdrawal_list import Withdrawal, Withdrawn


@dataclass(frozen=True)
class WithdrawalScope:
    """What a forgetting is about, in plain words; it is shown to the user and never stored.

    Attributes:
        typed: as the user named them.
        patients: their own ids.
        files: files that are theirs alone, below the image folder.
        frames: ids of single frames, where the file holds others' frames too.
        n_images: pictures of theirs that any scan knows.
        rows: texts of the table's key column that name their images.
    """

    typed: tuple[str, ...]
    patients: tuple[str, ...]
    files: tuple[str, ...]
    frames: tuple[str, ...]
    n_images: int
    rows: tuple[str, ...]


def find_scope(study: Study, typed: Sequence[str], withdrawn: Withdrawn) -> WithdrawalScope:
    """Patients by their own ids (as in the table, the path or the header) or by research id.

    Raises:
        UserError: nobody is called so, or two different patients are.
    """
    known = _everybody(study)
    newest = _newest_scan(study)
    patients: set[str] = set()
    for name in typed:
        own = set(known.loc[known["patient_source_id"] == name, "patient_source_id"])
        research = set(newest.loc[newest["patient"] == name, "patient_source_id"]) if len(newest) else set()
        if own and research and own != research:
            raise UserError(
                f"`{name}` is the own id of one patient and the research id of another: rename neither, but name the "
                "one you mean by the patient's other id (the manifest of the scan has both)"
            )
        earlier = withdrawn.was_asked(name)
        if not own and earlier is not None:
            raise UserError(
                f"`{name}` has been forgotten ({earlier.when})"
                + (
                    "; a scan assigns research ids anew, and this one now belongs to another patient: name the "
                    "patient by the own id"
                    if research
                    else "; nothing of it is left here"
                )
            )
        if not own and not research:
            if withdrawn.holds_patient(name):
                raise UserError(f"`{name}` has been forgotten; nothing of it is left here")
            near = did_you_mean(name, [*known["patient_source_id"].dropna().astype(str).unique(), *newest["patient"]])
            raise UserError(
                f"{study.path}: no scan knows a patient `{name}`{near}: give the id as in the table, the path or the "
                "header, or the research id. If it was never scanned, scan first, so that its images are known"
            )
        patients |= own | research
    return _scope(study, typed, known, known["patient_source_id"].isin(patients))


def _scope(study: Study, typed: Sequence[str], known: pd.DataFrame, chosen: pd.Series) -> WithdrawalScope:
    """Those pictures of `known`; a file goes whole unless it holds frames of a patient who stays."""
    theirs, others = known[chosen], known[~chosen & known["patient_source_id"].notna()]
    alone = ~theirs["file"].isin(set(others["file"]))
    return WithdrawalScope(
        tuple(typed),
        tuple(sorted(theirs["patient_source_id"].unique())),
        tuple(sorted(theirs.loc[alone, "file"].unique())),
        tuple(sorted(theirs.loc[~alone, "image_id"].unique())),
        int(theirs["image_id"].nunique()),
        tuple(_table_rows(study, theirs)),
    )


@writes_privately("study")
def forget_late(study: Study, images: pd.DataFrame, chosen: pd.Series) -> None:
    """Images of somebody who withdrew earlier were read before their patient was known: take them out again.

    Args:
        images: image_id, file, frame and patient_source_id of all pictures of the scan that is going on.
        chosen: which of them are the patient's.
    """
    withdrawn = Withdrawn.load(study.withdrawn)
    entry = put_on_list(withdrawn, _scope(study, [], images, chosen))
    withdrawn.save()
    for run in finished_runs(study.analysis, "read"):
        forget_in_read(study, run, withdrawn, entry)
    relink(study.analysis)
    entry.done = True
    withdrawn.save()


def _everybody(study: Study) -> pd.DataFrame:
    """image_id, file, frame and own id of the patient of every picture that any scan knows."""
    columns = ["image_id", "file", "frame", "patient_source_id"]
    parts = [
        pd.read_parquet(run.path / "manifest.parquet", columns=columns) for run in finished_runs(study.analysis, "scan")
    ]
    if isinstance(study.config.patient, FromPath):  # files that no scan has seen yet name their patient as well
        listing = list_images(study)
        files = pd.DataFrame({"image_id": listing.image_ids, "file": listing.image_ids, "frame": ""})
        parts.append(files.assign(patient_source_id=patients_of_images(study, files, [])))
    if not parts:
        return pd.DataFrame(columns=columns)
    everybody = pd.concat(parts, ignore_index=True).drop_duplicates()
    return everybody.astype({"patient_source_id": object})


def _newest_scan(study: Study) -> pd.DataFrame:
    scans = finished_runs(study.analysis, "scan")
    if not scans:
        return pd.DataFrame(columns=["patient", "patient_source_id"])
    frame = pd.read_parquet(scans[-1].path / "manifest.parquet", columns=["patient", "patient_source_id"])
    return frame[frame["patient"] != ""].drop_duplicates()


def _table_rows(study: Study, theirs: pd.DataFrame) -> list[str]:
    """Texts of the table's key column that name these images: later scans pass such rows over in silence."""
    if study.table is None or study.config.image is None or not study.table.is_file():
        return []
    try:
        names = study_table(study, [study.config.image]).frame[study.config.image]
        images = theirs[["image_id", "file", "frame"]].drop_duplicates("image_id").reset_index(drop=True)
        row_of = match_images(names, images, study, study.table, [], "")
    except UserError:  # a table that has changed since: it names none of them any more
        return []
    text = as_text(names)
    alone = text[~text.duplicated(keep=False)]  # `left.png` in every patient's folder names nobody
    return sorted(set(alone.reindex(sorted(set(row_of[row_of >= 0]))).dropna()))


def table_rows_of(study: Study, scope: WithdrawalScope) -> list[int]:
    """Numbers, counted as in the file, of the table's rows that speak of them."""
    if study.table is None or not study.table.is_file():
        return []
    rule, image = study.config.patient, study.config.image
    by_patient = rule if isinstance(rule, str) and rule != "none" else None if isinstance(rule, str) else rule.column
    wanted = [name for name in (image, by_patient) if name]
    try:
        table = study_table(study, wanted).frame
    except UserError:
        return []
    theirs = pd.Series(False, index=table.index)
    if image:
        theirs |= as_text(table[image]).isin(scope.rows)
    if by_patient:
        theirs |= as_ids(table[by_patient]).isin(scope.patients)
    return [int(i) + 2 for i in table.index[theirs]]


def put_on_list(withdrawn: Withdrawn, scope: WithdrawalScope) -> Withdrawal:
    """Add the withdrawal, not yet done, to the list; once that is saved no scan takes these images in."""
    entry = withdrawn.new(scope.n_images)
    for kind, texts in (
        ("patients", scope.patients),
        ("files", scope.files),
        ("frames", scope.frames),
        ("rows", scope.rows),
        ("asked", scope.typed),
    ):
        getattr(entry, kind).update(withdrawn.hash(kind, text) for text in texts)
    return entry
