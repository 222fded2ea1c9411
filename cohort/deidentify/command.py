"""`deidentify`: originals and table → a study that can be handed on, and a linkage file that may not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.deidentify.cleaning_settings import CleaningSettings
from pellucid.cohort.deidentify.dicom.dicom_files import clean_dicom
from pellucid.cohort.deidentify.dicom.dicom_headers import DicomOptions
from pellucid.cohort.deidentify.file_owners import (
    UNKNOWN_PATIENT,
    all_ids,
    known_identifiers,
    patients_of_files,
    texts_of_patients,
    who_and_what,
)
from pellucid.cohort.deidentify.header_columns import declared_facts, file_facts
from pellucid.cohort.deidentify.human_review import record_review, refuse_unseen
from pellucid.cohort.deidentify.linkage_file import Linkage, open_linkage
from pellucid.cohort.deidentify.output_folder import open_output, refuse_output
from pellucid.cohort.deidentify.output_table import refuse_personal, write_study, write_table
from pellucid.cohort.deidentify.precheck import pass_gate
from pellucid.cohort.deidentify.progress_records import (
    SUMS,
    WORK_FOLDER,
    append_record,
    file_marks,
    finished_output,
    last_shown,
    mark_of_all,
    read_records,
    write_finished,
    write_sums,
)
from pellucid.cohort.deidentify.raster_files import Cleaned, clean_raster, clean_tiff
from pellucid.cohort.deidentify.review_sheet import complete_thumbnails, shown_stems, store_thumbnails, write_review
from pellucid.cohort.deidentify.text_masking import TextFinder
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers import ocr
from pellucid.cohort.identifiers.faces import faces
from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.intake.file_listing import Listing, list_images
from pellucid.cohort.progress import track
from pellucid.cohort.readers import UnreadableImage, sniff
from pellucid.cohort.runs.atomic_files import atomic_path, exclusive
from pellucid.cohort.runs.private_files import private_files, writes_privately
from pellucid.cohort.study import Study


@dataclass(frozen=True)
class Deidentified:
    """What came of it.

    Attributes:
        path: the new study folder.
        already_done: nothing was left to do.
        written, masked, refused: numbers of files.
        text: how burned-in text was looked for, `ocr` or `lines`.
        reasons: why files were refused, and how many for each reason, the most frequent first.
        certified: files that state, after a review, that their pixels are clean.
    """

    path: Path
    already_done: bool
    written: int
    masked: int
    refused: int
    text: str
    certified: int = 0
    reasons: tuple[tuple[str, int], ...] = ()


@writes_privately("out")
def deidentify_study(
    study: Study,
    out: Path,
    linkage: Path,
    *,
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
    """Write a copy of a study that names nobody.

    `out` gets `raw/`, `clinical.csv`, `study.yaml`, `review.html` and `SHA256SUMS`. An interrupted call continues; with
    the same linkage file every patient and image keeps its new name. Output of files that are no longer in the study
    is deleted.

    Args:
        study: originals are only read.
        out: a new folder, or one that this command has made.
        linkage: where the key lies, and who is who; made if it is not there.
        text: how burned-in text is found: read by OCR (`ocr`, `auto`; extra `privacy`), or known by its form (`lines`,
            which misses more, and is used only if it is asked for).
        mask: all text, or (with OCR) only what holds an identifier, a date, a long number, or is hard to read.
        dates: shifted by −365 to −1 days, the same for all dates of a patient; or removed.
        retain_patient: keep sex, age (at most 90), size and weight of DICOM headers.
        retain_device: keep serial number, station and detector; otherwise each becomes a keyed name.
        keep_text: columns of free text that go into the copy; others are refused.
        show: images without masked text on the review sheet: a sample of 60, or all; None: as the last time.
        reviewed_by: who has looked through the sheet of this output; DICOM files that it shows then state
            BurnedInAnnotation NO and Clean Pixel Data (113101). Nothing else is done.
        progress: show how far it is.

    Raises:
        UserError: a place that is not allowed for the linkage file or the output, OCR that is not installed, a declared
            column that names people, or anything that a scan would refuse about the table.
    """
    settings = _settings(study, text, mask, dates, retain_patient, retain_device)
    refuse_output(study, out, linkage)
    key = open_linkage(linkage, study, out)
    listing = list_images(study)
    frame, _ = who_and_what(study, listing)
    texts = texts_of_patients(study)
    refuse_personal(study, frame, keep_dates=settings.dicom.dates, keep_text=keep_text, texts=texts)
    if settings.finder.mask == "identifying":
        settings = replace(settings, finder=replace(settings.finder, everyone=all_ids(frame)))
    work = open_output(out, key)
    with exclusive(work / "lock", str(out)):
        patient_of, without = patients_of_files(frame)
        if key.enrol(patient_of):
            key.save(new=False)  # before any file is written: no name may be lost
        marks = file_marks(listing, patient_of, without, texts, key, settings)
        shown = show if show and reviewed_by is None else last_shown(work)
        whole = mark_of_all(study, marks, key, shown)
        records = read_records(work, out, key, marks)
        finished = len(records) == len(listing.image_ids) and finished_output(out, work, whole, records)
        if reviewed_by is not None:
            refuse_unseen(out, reviewed_by, finished=finished)
            record_review(out, work, key, records, reviewed_by, shown)
            return _outcome(out, False, records, settings)
        if finished:
            return _outcome(out, True, records, settings)
        (out / SUMS).unlink(missing_ok=True)
        todo = [image_id for image_id in listing.image_ids if key.files[image_id] not in records]
        workers = study.config.scan.workers
        with track("de-identifying", len(listing.image_ids), "files", progress) as advance:
            advance(len(listing.image_ids) - len(todo))
            for stem, record in _clean_all(listing, todo, patient_of, without, texts, key, settings, out, workers):
                records[stem] = record | {"mark": marks[stem]}
                append_record(work, stem, records[stem])
                advance(1)
        _finish(study, out, work, key, frame, records, settings, shown)
        write_finished(work, whole, shown)
    return _outcome(out, False, records, settings)


def _settings(
    study: Study, text: str, mask: Literal["all", "identifying"], dates: str, retain_patient: bool, retain_device: bool
) -> CleaningSettings:
    if text != "lines" and not ocr.available():
        raise UserError(
            f"text={text} needs OCR, which is not installed: install pellucid[privacy]. Without it, ask for text=lines "
            "by name: it knows text by its shape only, misses text of one or two characters, on a busy background, "
            "rotated or handwritten, and each image must be checked by a person"
        )
    how: Literal["ocr", "lines"] = "lines" if text == "lines" else "ocr"
    if mask == "identifying" and how == "lines":
        raise UserError(
            "mask=identifying needs text that can be read: install pellucid[privacy], or let mask=all mask every text"
        )
    options = DicomOptions(dates == "shift", retain_patient, retain_device)
    facts, limits = tuple(declared_facts(study)), study.config.scan
    return CleaningSettings(TextFinder(how, mask), options, limits.max_megapixels, facts, limits)


def _outcome(out: Path, done: bool, records: dict[str, dict[str, Any]], settings: CleaningSettings) -> Deidentified:
    good = [r for r in records.values() if r["status"] == "ok"]
    masked, certified = (sum(bool(r.get(name)) for r in good) for name in ("boxes", "certified"))
    why = Counter(str(record["reason"]) for record in records.values() if record["status"] != "ok")
    how, n_refused = settings.finder.how, len(records) - len(good)
    return Deidentified(out, done, len(good), masked, n_refused, how, certified, tuple(why.most_common()))


def _clean_all(
    listing: Listing,
    todo: list[str],
    patient_of: dict[str, str],
    without: dict[str, str],
    texts: dict[str, tuple[str, ...]],
    key: Linkage,
    settings: CleaningSettings,
    out: Path,
    workers: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    jobs = (
        joblib.delayed(_clean_one)(
            listing.root,
            image_id,
            key.files[image_id],
            patient_of[image_id],
            without.get(image_id, ""),
            texts.get(patient_of[image_id], ()),
            _only(key, patient_of[image_id]),
            settings,
            out,
        )
        for image_id in todo
    )
    workers = min(workers or joblib.cpu_count(), max(1, len(todo) // 4))  # a worker takes a second to start
    yield from joblib.Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="2*n_jobs")(jobs)


def _only(key: Linkage, patient: str) -> Linkage:
    """The key with one patient: what a worker needs, however large the study."""
    return replace(key, patients={patient: key.patients[patient]}, files={})


def _clean_one(
    root: Path,
    image_id: str,
    stem: str,
    patient: str,
    why_not: str,
    texts: tuple[str, ...],
    key: Linkage,
    settings: CleaningSettings,
    out: Path,
) -> tuple[str, dict[str, Any]]:
    cv2.setNumThreads(1)
    target = out / "raw" / stem
    for old in target.parent.glob(f"{target.name}.*"):  # of another option, under another ending
        old.unlink()
    lost = ""
    try:
        if not patient:
            raise UnreadableImage(why_not or UNKNOWN_PATIENT)
        data = (root / image_id).read_bytes()
        lost = pass_gate(root, image_id, data, settings.limits)
        known = known_identifiers(image_id, patient, texts)
        cleaned = clean_file(data, key, patient, settings, stem, known)
        facts = file_facts(
            data, settings.facts, key, patient, known, dates=settings.dicom.dates, megapixels=settings.max_megapixels
        )
        seen = _faces(cleaned.preview)
    except Exception as error:  # whatever is wrong with one file costs that file, not the command
        return stem, {"status": "refused", "reason": lost or _reason(error), "boxes": [], "removed": []}
    sha256 = hashlib.sha256(cleaned.data).hexdigest()
    with private_files(out):  # here too: a worker process may be older than the command
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target.with_name(target.name + cleaned.suffix)) as temporary:
            temporary.write_bytes(cleaned.data)
        if cleaned.boxes:
            store_thumbnails(out / WORK_FOLDER / "thumbs", sha256, cleaned.sheet, cleaned.boxes)
    return stem, {
        "status": "ok",
        "reason": "",
        "file": stem + cleaned.suffix,
        "sha256": sha256,
        "boxes": [list(box) for box in cleaned.boxes],
        "removed": list(cleaned.removed),
        "faces": seen,
        "facts": facts,
    }


def _reason(error: Exception) -> str:
    """Why a file was refused; never the text of an unexpected error, which may hold what the header holds."""
    if isinstance(error, UnreadableImage):
        return str(error)
    if isinstance(error, OSError):
        return f"the file cannot be opened ({type(error).__name__})"
    if isinstance(error, MemoryError):
        return "the image does not fit in memory"
    return f"it cannot be cleaned: an unexpected error in its header or pixels ({type(error).__name__})"


def _faces(pixels: NDArray[np.uint8]) -> int:
    """How many faces a colour picture shows; gray ones are not photographs."""
    coloured = not np.array_equal(pixels[:, :, 0], pixels[:, :, 1]) and min(pixels.shape[:2]) > 0
    return len(faces(pixels) or []) if coloured else 0


def clean_file(
    data: bytes, key: Linkage, patient: str, settings: CleaningSettings, stem: str, known: Identifiers
) -> Cleaned:
    """One file of any kind, cleaned.

    Raises:
        UnreadableImage: it cannot be read, or not be cleaned.
    """
    kind = sniff(data)
    limit = settings.max_megapixels

    def find(views: Sequence[NDArray[np.uint8]], names: Iterable[str] = ()) -> list[Box]:
        return settings.finder.boxes(views, [patient, *known.readable, *names])

    if kind == "dicom":
        return clean_dicom(data, find, key, patient, settings.dicom, max_megapixels=limit, stem=stem, known=known)
    if kind == "tiff":
        return clean_tiff(data, find, max_megapixels=limit)
    if kind in {"jpeg", "png", "webp", "bmp", "gif"}:
        return clean_raster(data, kind, find, max_megapixels=limit)
    raise UnreadableImage("the content is not an image of a kind that can be cleaned")


def _finish(
    study: Study,
    out: Path,
    work: Path,
    key: Linkage,
    frame: pd.DataFrame,
    records: dict[str, dict[str, Any]],
    settings: CleaningSettings,
    show: str,
) -> None:
    """Table, study.yaml, review sheet and checksums; what belongs to no file of the study any more goes."""
    good = {stem: r for stem, r in records.items() if r["status"] == "ok"}
    if not good:
        raise UserError(
            f"{study.path}: no file could be de-identified; see the reasons in {out / WORK_FOLDER}/records.jsonl"
        )
    keep = {out / "raw" / r["file"] for r in good.values()}
    for path in sorted((out / "raw").rglob("*"), reverse=True):
        if path.is_file() and path not in keep:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    stem_of = {key.files[image_id]: image_id for image_id in frame["file"].unique()}
    new_file = {stem_of[stem]: r["file"] for stem, r in good.items()}
    facts = {stem_of[stem]: r["facts"] for stem, r in good.items()}
    write_table(out / "clinical.csv", study, frame, new_file, facts, key, keep_dates=settings.dicom.dates)
    write_study(out / "study.yaml", study, key)
    complete_thumbnails(out, work / "thumbs", records, shown_stems(records, show))
    write_review(out, records, _facts(settings), work / "thumbs", show)
    write_sums(out, records)


def _facts(settings: CleaningSettings) -> list[str]:
    finder, options = settings.finder, settings.dicom
    how = (
        "was read by OCR" if finder.how == "ocr" else "was looked for by its form only, not read: more of it is missed"
    )
    which = "All text that was found is masked." if finder.mask == "all" else "Only identifying text is masked."
    dates = "are shifted by −365 to −1 days, the same for each patient" if options.dates else "are removed"
    return [
        f"Burned-in text {how}. {which}",
        f"Dates {dates}; times of day are removed. Of DICOM headers only attributes that are known to be needed stay.",
        f"Sex, age, size and weight {'stay' if options.retain_patient else 'are removed'}; serial number and station "
        f"of the device {'stay' if options.retain_device else 'are replaced by keyed names'}.",
    ]
