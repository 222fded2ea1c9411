"""`init`: a first draft of study.yaml from a look at the folder and the table, with every guess commented."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from pellucid.cohort.config import find_recipe
from pellucid.cohort.draft.header_survey import Headers, factor_lines, read_headers
from pellucid.cohort.errors import UserError
from pellucid.cohort.intake.file_listing import list_folder
from pellucid.cohort.manifest.patient_split import SPLITS
from pellucid.cohort.manifest.table_file import as_text, read_table
from pellucid.cohort.runs.atomic_files import atomic_path
from pellucid.cohort.study import is_header_fact, load_study

_PATIENT = re.compile(
    r"(patient|pat|subject|subj|case|person|participant|record|mrn|pid)[ _-]?(id|no|nr|code|key)?$", re.I
)
_ACQUISITION = re.compile(
    r"device|scanner|manufactur|vendor|model|probe|camera|phone|operator|examiner|reader|sonographer|site|cent(er|re)|"
    r"hospital|clinic|view|side|plane|protocol|kernel|kvp|contrast|sequence|field|version|format|software|serial|width|"
    r"height|spacing|thickness|magnification|stain|batch|year|date|region",
    re.I,
)
_OUTCOME = re.compile(r"recur|relapse|death|died|surviv|progress|outcome|pregnan|readmi|event", re.I)
_IDENTIFIER = re.compile(r"(^|[ _-])(id|serial|code|number|nr|no)($|[ _-])", re.I)  # numbers that only name something
_MAX_LEVELS = 30
_TAKEN = frozenset(  # what the manifest calls its own
    {"image_id", "file", "frame", "status", "reason", "sha256", "n_bytes", "shard", "shard_row", "pixel_hash"}
    | {"perceptual_hash", "prepared", "text_like", "text_read", "findings", "patient", "patient_source_id", "split"}
    | {"duplicate_of", "duplicate_kind", "duplicate_group"}
)


@dataclass(frozen=True)
class VariableGuess:
    name: str
    role: str  # clinical, acquisition, outcome or skip
    kind: str
    why: str


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
    listing = list_folder(folder)
    tops = {PurePosixPath(image_id).parts[0] if "/" in image_id else "." for image_id in listing.image_ids}
    images = tops.pop() if len(tops) == 1 else "."
    ids = [i.removeprefix(f"{images}/") for i in listing.image_ids]
    lines = [
        "# Drafted by `pellucid init` from a look at the data. Every line is a guess: read each, correct it, then run",
        "#   pellucid scan study.yaml",
        f"images: {_quoted(images)}  # {len(ids)} image files lie below it",
    ]
    table = table or _only_table(folder)
    headers = read_headers(folder / images, ids)
    if table is None:
        lines += [
            "# No table was found: no diagnosis can be audited without one. Add `table: clinical.csv` and what its "
            "columns mean.",
            *_patient_without_table(ids, headers),
        ]
        lines += _acquisition([], headers)
        split = _SPLIT
    else:
        frame = read_table(table)
        split, split_column = _split_line(frame)
        lines += _table_lines(folder, table, frame, split_column, ids, headers)
    lines += [split, _specialty_line(headers)]
    with atomic_path(target) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    load_study(target)  # what is drafted must be readable
    return target


def _only_table(folder: Path) -> Path | None:
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".csv", ".tsv", ".xlsx", ".parquet"})
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


def _patient_without_table(ids: list[str], headers: Headers) -> list[str]:
    if headers.names_patients:
        return [_from_dicom(headers)]
    for pattern, what in (
        (r"^([^/]+)/", "the first folder"),
        (r"([^/_-]+)[_-][^/]*$", "the file name up to its last _ or -"),
    ):
        found = [m.group(1) for i in ids if (m := re.search(pattern, i))]
        if len(found) == len(ids) and 1 < len(set(found)) < len(ids):
            return [f"patient: {{from_path: '{pattern}'}}  # {what}: {len(set(found))} patients for {len(ids)} images"]
    if any(i.lower().endswith((".dcm", ".dicom", ".ima")) for i in ids) and any(headers.patients):
        return ["patient: {from_dicom: PatientID}  # the files look like DICOM"]
    return ["patient: none  # NOT KNOWN: every image counts as its own patient, and every result will say so"]


def _from_dicom(headers: Headers) -> str:
    n = len(set(headers.patients))
    return f"patient: {{from_dicom: PatientID}}  # {n} patients in the headers of {headers.n} files looked at"


def _acquisition(of_table: list[str], headers: Headers) -> list[str]:
    kept, left_out = factor_lines(headers)
    lines = [*of_table, *kept]
    return ["acquisition:  # how the image came to be", *lines, *left_out] if lines else left_out


def _table_lines(
    folder: Path, table: Path, frame: pd.DataFrame, split_column: str | None, ids: list[str], headers: Headers
) -> list[str]:
    try:
        shown = table.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        shown = str(table.resolve())
    lines = [f"table: {_quoted(shown)}  # {len(frame)} rows"]
    image = _image_column(frame, ids)
    patient = _patient_column(frame, image)
    if image is None:
        lines.append("# image: ???  # no column names the image files: write the one that does")
    else:
        hits = _hits(frame[image], ids)
        lines.append(f"image: {_quoted(image)}  # {hits} of {len(frame)} rows name an image file")
    if patient is not None:
        lines.append(f"patient: {_quoted(patient)}  # {frame[patient].nunique()} patients")
    elif headers.names_patients:
        lines.append(_from_dicom(headers))
    else:
        lines.append(
            "patient: none  # NOT FOUND in the table: every image counts as its own patient; name the column if "
            "there is one"
        )
    guesses = [guess_variable(frame[c]) for c in frame.columns if c not in {image, patient, split_column}]
    for role, meaning in (
        ("clinical", "what is known of the patient or the lesion"),
        ("acquisition", ""),
        ("outcome", "what is to be predicted"),
    ):
        chosen = [f"  {_quoted(g.name)}: {g.kind}  # {g.why}" for g in guesses if g.role == role]
        if role == "acquisition":
            lines += _acquisition(chosen, headers)
        elif chosen:
            lines += [f"{role}:  # {meaning}", *chosen]
    for g in guesses:
        if g.role == "skip":
            lines.append(f"# left out: {g.name}: {g.why}")
    return lines


def _keys(path: str) -> set[str]:
    pure = PurePosixPath(path.strip().replace("\\", "/"))
    return {pure.name.lower(), pure.stem.lower()}


def _hits(column: pd.Series, ids: list[str]) -> int:
    known = {key for i in ids for key in _keys(i)}
    return int(column.dropna().astype(str).map(lambda v: bool(_keys(v) & known)).sum())


def _image_column(frame: pd.DataFrame, ids: list[str]) -> str | None:
    hits = {str(c): _hits(frame[c], ids) for c in frame.columns}
    best = max(hits, key=lambda c: hits[c])
    return best if hits[best] > 0.2 * min(len(frame), len(ids)) else None


def _patient_column(frame: pd.DataFrame, image: str | None) -> str | None:
    named = [c for c in frame.columns if c != image and _PATIENT.search(c) and 1 < frame[c].nunique() <= len(frame)]
    return (
        str(min(named, key=lambda c: (not re.search("patient|subject", c, re.I), frame[c].nunique())))
        if named
        else None
    )


def guess_variable(column: pd.Series) -> VariableGuess:
    name, text = str(column.name), as_text(column)  # what the scan takes for missing is missing here
    values = column[text.notna()] if pd.api.types.is_numeric_dtype(column) else text.dropna()
    levels = values.nunique()
    if is_header_fact(name) or name in _TAKEN or name.startswith(("phenotype_", "quality_")):
        return VariableGuess(name, "skip", "", "the scan has a column of this name: rename it in the table to use it")
    if levels < 2:
        return VariableGuess(name, "skip", "", "it has the same value everywhere" if levels else "it is empty")
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    numeric = numeric and not _IDENTIFIER.search(name)
    if numeric and values.between(19000101, 21001231).all():
        return VariableGuess(name, "skip", "", "it looks like a date: give the year as a column of its own")
    if levels == 2:
        kind, why = "binary", " / ".join(str(v) for v in sorted(values.unique(), key=str))
    elif numeric and levels <= 10 and (values == values.round()).all():
        kind, why = "ordinal", f"whole numbers {values.min():g} to {values.max():g}"
    elif numeric:
        kind, why = "continuous", f"numbers {values.min():g} to {values.max():g}"
    elif levels <= _MAX_LEVELS and levels < 0.5 * len(values):
        kind, why = "categorical", f"{levels} levels"
    else:
        return VariableGuess(name, "skip", "", f"{levels} different values: an id, a date or free text?")
    if not numeric and values.astype(str).str.casefold().nunique() < levels:
        why += "; SOME DIFFER ONLY IN CAPITALS: make them one in the table"
    gaps = len(column) - len(values)
    role = (
        "outcome"
        if _OUTCOME.search(name) and kind == "binary"
        else "acquisition"
        if _ACQUISITION.search(name)
        else "clinical"
    )
    return VariableGuess(name, role, kind, why + (f"; missing in {gaps} rows" if gaps else ""))


def _quoted(text: str) -> str:
    return (
        text
        if re.fullmatch(r"[\w./-]*[A-Za-z_./][\w./ -]*", text)
        and text.lower() not in {"yes", "no", "on", "off", "null", "true", "false", "y", "n"}
        else "'" + text.replace("'", "''") + "'"
    )
