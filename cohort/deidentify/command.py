"""`deidentify`: originals and table → a study that can be handed on, and a linkage file that may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.deidentify.cleaning_settings import SCHEMA, CleaningSettings
from pellucid.cohort.deidentify.dicom.dicom_files import DicomOptions, clean_dicom
from pellucid.cohort.deidentify.file_owners import UNKNOWN_PATIENT, all_ids, patients_of_files, who_and_what
from pellucid.cohort.deidentify.header_columns import declared_facts, file_facts
from pellucid.cohort.deidentify.linkage_file import Linkage, open_linkage
from pellucid.cohort.deidentify.output_table import refuse_personal, write_study, write_table
from pellucid.cohort.deidentify.precheck import pass_gate
from pellucid.cohort.deidentify.progress_records import (
    SUMS,
    WORK_FOLDER,
    file_marks,
    finished_output,
    mark_of_all,
    read_records,
)
from pellucid.cohort.deidentify.raster_files import Cleaned, clean_raster, clean_tiff
from pellucid.cohort.deidentify.review_sheet import shown_unmasked, thumbnail, write_review
from pellucid.cohort.deidentify.text_masking import TextFinder
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers import ocr
from pellucid.cohort.identifiers.faces import faces
from pellucid.cohort.images.pixels import Box
from pellucid.cohort.intake.file_listing import Listing, list_images
from pellucid.cohort.progress import track
from pellucid.cohort.readers import UnreadableImage, read_image, sniff
from pellucid.cohort.runs.atomic_files import atomic_path, exclusive, write_json
from pellucid.cohort.runs.checksums import sha256_file
from pellucid.cohort.study import Study


@dataclass(frozen=True)
class Deidentified:
    """What came of it.

    Attributes:
        path: the new study folder.
        already_done: nothing was left to do.
        written, masked, refused: numbers of files.
        text: how burned-in text was looked for, `ocr` or `lines`.
    """

    path: Path
    already_done: bool
    written: int
    masked: int
    refused: int
    text: str


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
        text: how burned-in text is found: read by OCR (extra `privacy`), or by its form; auto: OCR if it is installed.
        mask: all text, or (with OCR) only what holds an identifier, a date, a long number, or is hard to read.
        dates: shifted by −365 to −1 days, the same for all dates of a patient; or removed.
        retain_patient: keep sex, age (at most 90), size and weight of DICOM headers.
        retain_device: keep serial number, station and detector; otherwise each becomes a keyed name.
        progress: show how far it is.

    Raises:
        UserError: a place that is not allowed for the linkage file or the output, OCR that is not installed, a declared
            column that names people, or anything that a scan would refuse about the table.
    """
    settings = _settings(study, text, mask, dates, retain_patient, retain_device)
    _refuse_out(study, out, linkage)
    key = open_linkage(linkage, study, out)
    listing = list_images(study)
    frame, _ = who_and_what(study, listing)
    refuse_personal(study, frame, keep_dates=settings.dicom.dates)
    if settings.finder.mask == "identifying":
        settings = replace(settings, finder=replace(settings.finder, everyone=all_ids(frame)))
    work = _open_output(out, key)
    with exclusive(work / "lock", str(out)):
        patient_of, without = patients_of_files(frame)
        if key.enrol(patient_of):
            key.save(new=False)  # before any file is written: no name may be lost
        marks = file_marks(listing, patient_of, without, key, settings)
        whole = mark_of_all(study, marks, key)
        records = read_records(work, out, key, marks)
        if len(records) == len(listing.image_ids) and finished_output(out, work, whole, records):
            return _outcome(out, True, records, settings)
        (out / SUMS).unlink(missing_ok=True)
        todo = [image_id for image_id in listing.image_ids if key.files[image_id] not in records]
        with track("de-identifying", len(listing.image_ids), "files", progress) as advance:
            advance(len(listing.image_ids) - len(todo))
            with (work / "records.jsonl").open("a", encoding="utf-8") as log:
                for stem, record in _clean_all(
                    listing, todo, patient_of, without, key, settings, out, study.config.scan.workers
                ):
                    records[stem] = record | {"mark": marks[stem]}
                    log.write(json.dumps({"stem": stem, **records[stem]}) + "\n")
                    log.flush()
                    advance(1)
        _finish(study, out, work, key, frame, records, settings)
        write_json(work / "finished.json", {"mark": whole})
    return _outcome(out, False, records, settings)


def _settings(
    study: Study, text: str, mask: Literal["all", "identifying"], dates: str, retain_patient: bool, retain_device: bool
) -> CleaningSettings:
    if text == "ocr" and not ocr.available():
        raise UserError("text=ocr needs rapidocr: install pellucid[privacy], or take text=lines")
    how: Literal["ocr", "lines"] = "ocr" if text == "ocr" or (text == "auto" and ocr.available()) else "lines"
    if mask == "identifying" and how == "lines":
        raise UserError(
            "mask=identifying needs text that can be read: install pellucid[privacy], or let mask=all mask every text"
        )
    options = DicomOptions(dates == "shift", retain_patient, retain_device, pixels_read=how == "ocr")
    facts, limits = tuple(declared_facts(study)), study.config.scan
    return CleaningSettings(TextFinder(how, mask), options, limits.max_megapixels, facts, limits)


def _refuse_out(study: Study, out: Path, linkage: Path) -> None:
    """Refuse a wrong output before a linkage file is made: a secret key that belongs to nothing is one too many."""
    real = out.resolve()
    for what, folder in (("the folder of the images", study.image_root), ("the analysis folder", study.analysis)):
        if real.is_relative_to(folder):
            raise UserError(f"{out}: the output may not lie in {what} ({folder}): name a folder outside of it")
    for what, inside in (("study.yaml", study.path), ("the images", study.image_root)):
        if inside.resolve().is_relative_to(real):
            raise UserError(f"{out}: holds {what} of the study itself: name a new folder")
    if real.exists() and not real.is_dir():
        raise UserError(f"{out}: is a file: name a new folder")
    if real.is_dir() and any(real.iterdir()) and not (real / WORK_FOLDER).is_dir():
        raise UserError(f"{out}: is not empty, and not made by `pellucid deidentify`: name a new folder")
    if (real / WORK_FOLDER / "output.json").is_file() and not linkage.exists():
        raise UserError(
            f"{linkage}: is not there, and {out} was made with a linkage file: name that one, or a new folder "
            "(patients would get second names here)"
        )


def _open_output(out: Path, key: Linkage) -> Path:
    """The folder of what is done already; binds the output to its linkage file."""
    work = out / WORK_FOLDER
    check = key.digest("output", "belongs to this linkage file").hex()
    if (work / "output.json").is_file():
        known = json.loads((work / "output.json").read_text(encoding="utf-8"))
        if known["check"] != check:
            raise UserError(
                f"{out}: was made with another linkage file: name that one, or a new folder (patients would get second "
                "names here)"
            )
        return work
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / "output.json", {"schema": SCHEMA, "check": check})
    return work


def _outcome(out: Path, done: bool, records: dict[str, dict[str, Any]], settings: CleaningSettings) -> Deidentified:
    good = [r for r in records.values() if r["status"] == "ok"]
    masked = sum(bool(r["boxes"]) for r in good)
    return Deidentified(out, done, len(good), masked, len(records) - len(good), settings.finder.how)


def _clean_all(
    listing: Listing,
    todo: list[str],
    patient_of: dict[str, str],
    without: dict[str, str],
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
    key: Linkage,
    settings: CleaningSettings,
    out: Path,
) -> tuple[str, dict[str, Any]]:
    cv2.setNumThreads(1)
    target = out / "raw" / stem
    for old in target.parent.glob(f"{target.name}.*"):  # of another option, under another ending
        old.unlink()
    try:
        if not patient:
            raise UnreadableImage(why_not or UNKNOWN_PATIENT)
        data = (root / image_id).read_bytes()
        pass_gate(root, image_id, data, settings.limits)
        cleaned = clean_file(data, key, patient, settings, stem)
    except UnreadableImage as reason:
        return stem, {"status": "refused", "reason": str(reason), "boxes": [], "removed": []}
    except OSError as error:
        reason_text = f"the file cannot be opened ({type(error).__name__})"
        return stem, {"status": "refused", "reason": reason_text, "boxes": [], "removed": []}
    except MemoryError:
        return stem, {
            "status": "refused",
            "reason": "the picture does not fit in memory",
            "boxes": [],
            "removed": [],
        }
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target.with_name(target.name + cleaned.suffix)) as temporary:
        temporary.write_bytes(cleaned.data)
    if cleaned.boxes:
        _store_thumbnail(out, stem, thumbnail(cleaned.preview, cleaned.boxes))
    return stem, {
        "status": "ok",
        "reason": "",
        "file": stem + cleaned.suffix,
        "sha256": hashlib.sha256(cleaned.data).hexdigest(),
        "boxes": [list(box) for box in cleaned.boxes],
        "removed": list(cleaned.removed),
        "faces": _faces(cleaned.preview),
        "facts": file_facts(
            data,
            settings.facts,
            key,
            patient,
            keep_dates=settings.dicom.dates,
            max_megapixels=settings.max_megapixels,
        ),
    }


def _faces(pixels: NDArray[np.uint8]) -> int:
    """How many faces a colour picture shows; gray ones are not photographs."""
    coloured = not np.array_equal(pixels[:, :, 0], pixels[:, :, 1]) and min(pixels.shape[:2]) > 0
    return len(faces(pixels) or []) if coloured else 0


def clean_file(data: bytes, key: Linkage, patient: str, settings: CleaningSettings, stem: str) -> Cleaned:
    """One file of any kind, cleaned.

    Raises:
        UnreadableImage: it cannot be read, or not be cleaned.
    """
    kind = sniff(data)
    limit = settings.max_megapixels

    def find(views: Sequence[NDArray[np.uint8]], names: Iterable[str] = ()) -> list[Box]:
        return settings.finder.boxes(views, [patient, *names])

    if kind == "dicom":
        return clean_dicom(data, find, key, patient, settings.dicom, max_megapixels=limit, stem=stem)
    if kind == "tiff":
        return clean_tiff(data, find, max_megapixels=limit)
    if kind in {"jpeg", "png", "webp", "bmp", "gif"}:
        return clean_raster(data, kind, find, max_megapixels=limit)
    raise UnreadableImage("the content is not an image of a kind that can be cleaned")


def _store_thumbnail(out: Path, stem: str, encoded: str) -> None:
    folder = out / WORK_FOLDER / "thumbs"
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / f"{stem.rpartition('/')[2]}.txt") as temporary:
        temporary.write_text(encoded, encoding="ascii")


def _finish(
    study: Study,
    out: Path,
    work: Path,
    key: Linkage,
    frame: pd.DataFrame,
    records: dict[str, dict[str, Any]],
    settings: CleaningSettings,
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
    for stem in shown_unmasked(stem for stem, r in good.items() if not r["boxes"]):
        try:
            preview = read_image((out / "raw" / good[stem]["file"]).read_bytes()).pixels
        except UnreadableImage:
            continue  # the sheet then shows its name without a picture
        _store_thumbnail(out, stem, thumbnail(preview, ()))
    for old in out.glob("review*.html"):
        old.unlink()
    write_review(out, records, _facts(settings), work / "thumbs")
    lines = [f"{r['sha256']}  raw/{r['file']}" for r in good.values()]
    lines += [f"{sha256_file(p)}  {p.name}" for p in sorted(out.iterdir()) if p.is_file() and p.name != SUMS]
    with atomic_path(out / SUMS) as temporary:
        temporary.write_text("\n".join(sorted(lines, key=lambda line: line[66:])) + "\n", encoding="utf-8")


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
