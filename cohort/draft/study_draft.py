"""`init`: a first draft of study.yaml from a look at the folder and the table, with every guess commented."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pandas as pd
import yaml

from pellucid.cohort.config import find_recipe
from pellucid.cohort.draft.column_guesses import guess_variable, image_column, patient_column
from pellucid.cohort.draft.header_survey import Headers, factor_lines, read_headers
from pellucid.cohort.draft.patient_guesses import (
    from_dicom,
    header_column,
    other_sources,
    patient_lines,
    rule_with_column,
)
from pellucid.cohort.errors import UserError
from pellucid.cohort.intake.file_listing import Listing, list_folder
from pellucid.cohort.manifest.cell_values import as_ids, as_text
from pellucid.cohort.manifest.patient_sites import two_sites
from pellucid.cohort.manifest.patient_split import SPLITS
from pellucid.cohort.manifest.table_file import ClinicalTable, is_lock_file, load_table, sheet_names
from pellucid.cohort.readers.sniff import HEIC_NEEDS, UNREAD_SUFFIXES
from pellucid.cohort.runs.atomic_files import atomic_path
from pellucid.cohort.study import load_study


def draft_study(folder: Path, table: Path | None = None) -> Path:
    """Write `folder/study.yaml` from what lies there.

    Args:
        folder: the study folder; the images lie in it or below.
        table: the clinical table; a single csv, tsv, xlsx or parquet file in the folder is taken if none is given.

    Returns:
        The path of the draft, which `scan` accepts as it is.

    Raises:
        UserError: no images, an unreadable table, or a study.yaml that is already there.
    """
    target = folder / "study.yaml"
    if target.exists():
        raise UserError(f"{target}: is already there; edit it, or move it away to draft a new one")
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name the folder that the images lie in")
    images, listing = _images_of(folder)
    ids = [i.removeprefix(f"{images}/") for i in listing.image_ids]
    lines = [
        "# Drafted by `pellucid init` from a look at the data. Every line is a guess: read each, correct it, then run",
        "#   pellucid scan study.yaml",
        f"images: {_quoted(images)}  # {len(ids)} image files lie below it",
        *(f"# note: {note}" for note in listing.notes(skipped=False)),
        *_unread_lines(ids),
    ]
    table = table or _only_table(folder)
    headers = read_headers(folder / images, ids)
    if table is None:
        lines += [
            "# No table was found: no diagnosis can be audited without one. Add `table: clinical.csv` and what its "
            "columns mean.",
            *patient_lines(ids, headers),
        ]
        lines += _acquisition([], headers)
        split = _SPLIT
    else:
        read = _read_for_draft(table, ids, str(folder.resolve() / images))
        split, split_column = _split_line(read.frame)
        lines += _TableLines(folder, table, read, images, ids, headers).lines(split_column)
    lines += [split, _specialty_line(headers)]
    with atomic_path(target) as temporary:
        temporary.write_text("\n".join(map(_one_line_comment, lines)) + "\n", encoding="utf-8")
        load_study(temporary)  # what is drafted must be readable, or it is not kept
    return target


def _images_of(folder: Path) -> tuple[str, Listing]:
    """The folder that all images lie in, relative to the study's, and the images; it may be a link to another disk.

    Raises:
        UserError: there is no image, or several linked folders hold images.
    """
    try:
        listing = list_folder(folder)
    except UserError as nothing:
        linked = [path for path in sorted(folder.iterdir()) if path.is_symlink() and path.is_dir()]
        found = []
        for path in linked:
            with suppress(UserError):
                found.append((path.name, list_folder(path)))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(name for name, _ in found)
            raise UserError(
                f"{folder}: several links lead to folders with images ({names}): name one of them on the command line, "
                "pellucid init FOLDER, or put all images into one folder"
            ) from None
        raise nothing
    tops = {PurePosixPath(image_id).parts[0] if "/" in image_id else "." for image_id in listing.image_ids}
    return tops.pop() if len(tops) == 1 else ".", listing


def _unread_lines(ids: Sequence[str]) -> list[str]:
    """Images that `scan` will not read, by their endings: to be known before the scan stops because of them."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in ids)
    n_heic = suffixes[".heic"] + suffixes[".heif"] if find_spec("pillow_heif") is None else 0
    lines = [f"# note: {n_heic} of {len(ids)} images end in .heic: {HEIC_NEEDS}"] if n_heic else []
    others = {suffix: count for suffix, count in suffixes.items() if suffix in UNREAD_SUFFIXES}
    if others:
        said = ", ".join(f"{count} × {suffix}" for suffix, count in sorted(others.items()))
        lines.append(f"# note: {said}: kinds of images that are not read (docs/reading.md)")
    return lines


def _only_table(folder: Path) -> Path | None:
    suffixes = {".csv", ".tsv", ".xlsx", ".xlsm", ".parquet"}
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not is_lock_file(p) and p.is_file())
    if len(tables) > 1:
        raise UserError(
            f"{folder}: holds {len(tables)} tables ({', '.join(p.name for p in tables[:4])}): say which, with --table"
        )
    return tables[0] if tables else None


_SPLIT = (
    "split: {test: 0.2, seed: 0}  # a fifth of the patients; add `stratify: [VARIABLE, …]` to balance it by more than "
    "the outcomes (docs/splits.md)"
)


def _split_line(frame: pd.DataFrame) -> tuple[str, str | None]:
    """The table's own split, and its column, where it has one that can be used as it is."""
    for name in frame.columns:
        if re.fullmatch(r"(split|set|subset|partition|fold)", name, re.I):
            counts = as_text(frame[name]).fillna("").str.lower().value_counts()
            if len(counts) > 1 and set(counts.index) <= set(SPLITS):
                shown = ", ".join(f"{n} {side}" for side, n in counts.items())
                return f"split: {{column: {_quoted(name)}}}  # the table's own: {shown} rows (docs/splits.md)", name
    return _SPLIT, None


def _specialty_line(headers: Headers) -> str:
    known, modality = headers.specialty
    if known:
        try:
            find_recipe("specialty", known)
            return f"specialty: {known}  # the headers say modality {modality}"
        except UserError:
            return f"# specialty: {known}  # the headers say modality {modality}"
    return "# specialty: ct | dermatology | endoscopy | fundus | oct | pathology | radiograph | ultrasound | wounds"


def _acquisition(of_table: list[str], headers: Headers) -> list[str]:
    kept, left_out = factor_lines(headers)
    lines = [*of_table, *kept]
    return ["acquisition:  # how the image came to be", *lines, *left_out] if lines else left_out


def _read_for_draft(table: Path, ids: Sequence[str], root: str) -> ClinicalTable:
    """The table; of several sheets the one that names most images, or else that of most rows.

    Raises:
        UserError: no sheet is a table.
    """
    sheets = sheet_names(table) if table.is_file() and not is_lock_file(table) else []
    if len(sheets) < 2:
        return load_table(table)
    read: list[tuple[int, int, ClinicalTable]] = []
    mistakes = []
    for sheet in sheets:
        try:
            found = load_table(table, sheet=sheet)
        except UserError as mistake:
            mistakes.append(str(mistake))
            continue
        _, hits, unclear = image_column(found.frame, ids, root)
        read.append((hits + unclear, len(found.frame), found))
    if not read:
        raise UserError("\n".join(mistakes))
    return max(read, key=lambda item: item[:2])[2]


class _TableLines:
    """The lines of the draft that come from the table."""

    def __init__(
        self, folder: Path, path: Path, table: ClinicalTable, images: str, ids: list[str], headers: Headers
    ) -> None:
        self._folder, self._path, self._table = folder, path, table
        self._frame, self._ids, self._headers = table.frame, ids, headers
        self._image, self._hits, self._unclear = image_column(table.frame, ids, str(folder.resolve() / images))
        self._patient = patient_column(table.frame, self._image)

    def lines(self, split_column: str | None) -> list[str]:
        try:
            shown = self._path.resolve().relative_to(self._folder.resolve()).as_posix()
        except ValueError:
            shown = str(self._path.resolve())
        lines = [f"table: {_quoted(shown)}  # {len(self._frame)} rows"]
        if len(self._table.sheets) > 1:
            lines.append(f"sheet: {_quoted(self._table.sheet)}  # of {', '.join(self._table.sheets)}")
        lines += [f"# note: {note}" for note in self._table.notes]
        patient = self._patient_lines()
        if self._image is None and "column:" in patient[0]:
            return [*lines, *patient, *self._variable_lines(split_column)]
        lines += [*self._image_lines(), *patient]
        return lines + self._variable_lines(split_column)

    def _image_lines(self) -> list[str]:
        if self._image is None:
            return [
                "# image: ???  # no column names the image files: write the one that does; or, for a table with one "
                "row per patient, add `column: NAME` to the rule below: the column with the ids that the rule gives"
            ]
        unclear = f"; {self._unclear} name one of several files of a name" if self._unclear else ""
        return [f"image: {_quoted(self._image)}  # {self._hits} of {len(self._frame)} rows name an image file{unclear}"]

    def _patient_lines(self) -> list[str]:
        if self._patient is not None and self._image is not None:
            n = as_ids(self._frame[self._patient]).nunique()
            others = other_sources(self._ids, self._headers, n)
            return [f"patient: {_quoted(self._patient)}  # {n} patients", *self._questions(), *others]
        rule = patient_lines(self._ids, self._headers)
        if self._image is None:
            keyed = rule_with_column(self._frame, self._ids)
            if keyed is not None:
                pattern, what, column = keyed
                return [
                    f"patient: {{from_path: '{pattern}', column: {_quoted(column)}}}  # {what} is the value of "
                    f"`{column}`: one row for each patient"
                ]
            of_headers = header_column(self._frame, self._headers)
            if of_headers is not None:
                line = from_dicom(self._headers, _quoted(of_headers))
                return [f"{line}; the table has one row for each in `{of_headers}`", *rule[1:]]
        if rule[0].startswith("patient: none"):
            return [
                "patient: none  # NOT FOUND in the table: every image counts as its own patient; name the column if "
                "there is one",
                *rule[1:],
            ]
        return rule

    def _questions(self) -> list[str]:
        """Is one id two people, because two sites count from 1?"""
        clash = two_sites(self._frame, str(self._patient))
        return [f"# QUESTION: {clash}"] if clash else []

    def _variable_lines(self, split_column: str | None) -> list[str]:
        used = {self._image, self._patient, split_column}
        guesses = [
            guess_variable(self._frame[c], self._table.uncomputed.get(c) or self._table.unclear.get(c, ""))
            for c in self._frame.columns
            if c not in used
        ]
        lines = []
        for role in ("clinical", "acquisition"):
            chosen = [
                f"  {_quoted(g.name)}: {g.kind}  # {g.why}"
                for g in guesses
                if g.role == role or (role, g.role) == ("clinical", "outcome")
            ]
            if role == "acquisition":
                lines += _acquisition(chosen, self._headers)
            elif chosen:
                lines += ["clinical:  # what is known of the patient or the lesion", *chosen]
        lines.append(_outcome_comment([g.name for g in guesses if g.role == "outcome"]))
        return lines + [f"# left out: {g.name}: {g.why}" for g in guesses if g.role == "skip"]


def _outcome_comment(names: Sequence[str]) -> str:
    """`outcome:` as a comment: what is to be predicted is for the user to decide."""
    if not names:
        return (
            "# outcome: {COLUMN: binary}  # what is to be predicted, such as recurrence: its column, not in `clinical`"
        )
    columns = ", ".join(f"{_quoted(name)}: binary" for name in names)
    return f"# outcome: {{{columns}}}  # if it is to be predicted: remove this # and the column from `clinical`"


def _quoted(text: str) -> str:
    """Text that YAML reads as this text: 2021_03, no and 1e5 need quotes."""
    if re.fullmatch(r"[^\W\d][\w./-]*( [\w./-]+)*", text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False) if "\n" in text else "'" + text.replace("'", "''") + "'"


def _one_line_comment(line: str) -> str:
    """A line of the draft as one line, whatever the table's cells hold."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", line)
