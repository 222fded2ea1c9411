"""Whose picture each file is, and what the table says of it and of its frames, by the same rules as a scan."""

from __future__ import annotations

import re
import warnings
from pathlib import Path, PurePosixPath

import pandas as pd
import pydicom

from pellucid.cohort.deidentify.dicom.defined_terms import is_defined
from pellucid.cohort.deidentify.personal_columns import is_personal
from pellucid.cohort.deidentify.text_masking import plain_text
from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.intake.file_listing import Listing
from pellucid.cohort.manifest.cell_values import as_text
from pellucid.cohort.manifest.column_words import names_staff
from pellucid.cohort.manifest.join import join_table
from pellucid.cohort.manifest.row_matching import patients_of_images
from pellucid.cohort.manifest.table_file import study_table
from pellucid.cohort.study import FromDicom, Study

_SHORTEST_PATH_WORD = 4
UNKNOWN_PATIENT = "its patient is not known"
SEVERAL_PATIENTS = "the table gives its frames to different patients: correct it, or divide the file"


def who_and_what(study: Study, listing: Listing) -> tuple[pd.DataFrame, list[str]]:
    """Patient and declared columns of each file, and of each frame that has a row of its own (`cine.dcm#3`).

    Returns:
        One row for each file (`frame` empty) and named frame: image_id, file, frame, patient_source_id, the declared
        columns; and sentences on what did not fit together.

    Raises:
        UserError: whatever a scan would refuse about the table.
    """
    problems: list[str] = []
    frames = _named_frames(study, listing)
    pairs = [(file, frame) for file in listing.image_ids for frame in ("", *sorted(frames.get(file, ())))]
    frame = pd.DataFrame(
        {
            "image_id": [f"{file}#{number}" if number else file for file, number in pairs],
            "file": [file for file, _ in pairs],
            "frame": [number for _, number in pairs],
        }
    ).assign(status="ok", reason="", header_patient_id="")
    if isinstance(study.config.patient, FromDicom):
        header = {name: _header_patient(listing.root / name) for name in listing.image_ids}
        frame["header_patient_id"] = frame["file"].map(header)
    frame["patient_source_id"] = patients_of_images(study, frame, problems)
    if study.table is not None:
        frame = join_table(study, frame, problems)
    return frame, problems


def _named_frames(study: Study, listing: Listing) -> dict[str, set[str]]:
    """The frames of each file that rows of the table name, whichever way the table names files."""
    if study.table is None or study.config.image is None:
        return {}
    column = study_table(study, [study.config.image]).frame[study.config.image]
    named: dict[str, set[str]] = {}
    for text in as_text(column).dropna():
        file, hash_sign, frame = str(text).replace("\\", "/").removeprefix("./").rpartition("#")
        if hash_sign and frame.isdigit():
            named.setdefault(PurePosixPath(file).name, set()).add(frame)
    found = {}
    for file in listing.image_ids if named else ():
        path = PurePosixPath(file)
        numbers = named.get(path.name, set()) | named.get(path.stem, set())
        if numbers:
            found[file] = numbers
    return found


def patients_of_files(frame: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
    """The patient of each file ("": not known), and why those have none.

    Args:
        frame: of `who_and_what`.
    """
    patients: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for file, ids in frame.groupby("file", sort=False)["patient_source_id"]:
        known = sorted(set(ids.dropna().astype(str)))
        patients[str(file)] = known[0] if len(known) == 1 else ""
        if len(known) != 1:
            reasons[str(file)] = SEVERAL_PATIENTS if known else UNKNOWN_PATIENT
    return patients, reasons


def texts_of_patients(study: Study) -> dict[str, tuple[str, ...]]:
    """What the table says of each patient in columns of names, numbers, birth dates, addresses and staff.

    Whether a column is declared does not matter.

    Returns:
        Cells by the patient's id; empty where the table has no column of patients.
    """
    rule = study.config.patient
    column = rule if isinstance(rule, str) else getattr(rule, "column", None)
    if study.table is None or not column or column == "none":
        return {}
    table = study_table(study, [column]).frame
    personal = [c for c in table.columns if c != column and (is_personal(str(c)) or names_staff(str(c), strict=True))]
    found: dict[str, set[str]] = {}
    for name in personal:
        for patient, cell in zip(as_text(table[column]), as_text(table[name]), strict=True):
            if patient is not None and cell is not None:
                found.setdefault(str(patient), set()).add(str(cell))
    return {patient: tuple(sorted(cells)) for patient, cells in found.items()}


def known_identifiers(image_id: str, patient: str, texts: tuple[str, ...]) -> Identifiers:
    """The patient's own id, what the table says of the patient, and the words of the file's path."""
    folders = re.split(r"[/._\s-]+", image_id.rpartition(".")[0])
    words = [word for word in folders if len(word) >= _SHORTEST_PATH_WORD and not is_defined(word)]
    return Identifiers.of([patient, *texts, *words], texts)


def _header_patient(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"], force=True)
            return str(dataset.get("PatientID", "")).strip()
        except Exception:  # the pass over the files says what is wrong with it
            return ""


def all_ids(frame: pd.DataFrame) -> frozenset[str]:
    """Words of all patients' ids, and the ids without what separates their words."""
    plain = [plain_text(str(p)) for p in frame["patient_source_id"].dropna()]
    words = {word for text in plain for word in (*text.split(), text.replace(" ", ""))}
    return frozenset(word for word in words if len(word) >= 4)
