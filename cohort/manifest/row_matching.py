"""Which row of the table belongs to which image, and which patient to which image, however files are named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.cell_values import as_ids, as_text, cleaned
from pellucid.cohort.manifest.image_names import ImageNames, Resolution, resolve_rows
from pellucid.cohort.path_pattern import patients_in_paths
from pellucid.cohort.study import FromDicom, FromPath, Study


def patients_of_images(study: Study, images: pd.DataFrame, problems: list[str]) -> pd.Series:
    """The patient of each image by a rule that needs no table; None everywhere where the table's column names them.

    Raises:
        UserError: the rule fits no image.
    """
    rule = study.config.patient
    if isinstance(rule, FromPath):
        by_path = patients_in_paths(rule.from_path, images["file"].tolist())
        found = as_text(pd.Series(by_path, index=images.index, dtype=object))
        _say_unmatched(found, images["image_id"], f"patient: {{from_path: {rule.from_path!r}}} fits", problems)
        return found
    if isinstance(rule, FromDicom):
        column = as_text(images["header_patient_id"])
        _say_unmatched(column[images["status"] == "ok"], images["image_id"], "a DICOM PatientID is in", problems)
        return column
    if rule == "none":
        frames = " (the frames of one file as one)" if (images["frame"] != "").any() else ""
        problems.append(
            f"patient: none — every image counts as its own patient{frames}; results cannot be generalised to patients"
        )
        return images["file"].copy()  # the frames of one file are of one patient, whoever it is
    return pd.Series([None] * len(images), index=images.index, dtype=object)


def _say_unmatched(found: pd.Series, ids: pd.Series, what: str, problems: list[str]) -> None:
    lost = found[found.isna()]
    if len(lost) == len(found):
        raise UserError(f"study.yaml: {what} none of the {len(found)} images (first: `{ids.iloc[0]}`)")
    if len(lost):
        problems.append(
            f"{what} all but {len(lost)} of {len(found)} images (first: `{ids[lost.index[0]]}`): these are left out"
        )


def match_images(
    names: pd.Series,
    images: pd.DataFrame,
    study: Study,
    table_path: Path,
    problems: list[str],
    fate: str,
    hints: pd.DataFrame | None = None,
) -> pd.Series:
    """For each image the label of its table row (−1: none); which file a row names is decided for each row
    (`pellucid.cohort.manifest.image_names`).

    A row names a file, and so all its frames, or one frame by its full id (`scan.dcm#3`), which goes before the file.

    Args:
        names: the table's column.
        images: `image_id`, `file` and `frame` ("" for a file's only picture) of each image.
        study: whose folders the names may be relative to.
        table_path: for messages.
        problems: gets a sentence for rows without image and images without row.
        fate: what becomes of images without a row.
        hints: columns of the same rows that may name the folder of a file, the patient's first.

    Raises:
        UserError: no row names an image, or two rows name one.
    """
    text = as_text(names)
    framed = images[images["frame"] != ""]
    frames = {str(file): set(of_file) for file, of_file in framed.groupby("file")["frame"]}
    known = ImageNames((str(file) for file in images["file"].unique()), str(study.image_root))
    found = resolve_rows(text, known, frames, hints)
    where = f"{table_path}: no row of column `{names.name}` names an image below {study.image_root}"
    if not found.targets:
        if found.unclear:
            raise UserError(f"{where} without doubt: {_unclear_sentence(found, text)}")
        raise UserError(
            f"{where} (first row: `{text.iloc[0] or ''}`, first image: `{images['image_id'].iloc[0]}`): correct "
            "`image` or `images`"
        )
    if found.twice:
        first, second, *_ = sorted(label for label in found.twice[0])
        raise UserError(
            f"{table_path}: rows {first + 2} and {second + 2} both name `{text[first]}` ({len(found.twice)} image(s) "
            "are named twice): keep one row per image"
        )
    row = {target: label for label, target in found.targets.items()}
    of_frame = [row.get((file, frame)) if frame else None for file, frame in _pairs(images)]
    of_file = [row.get((file, "")) for file, _ in _pairs(images)]
    chosen = [b if a is None else a for a, b in zip(of_frame, of_file, strict=True)]
    row_of = pd.Series([-1 if label is None else label for label in chosen], index=images.index, dtype=int)
    problems.extend(_row_problems(found, text, names, table_path))
    without = images.loc[(row_of < 0).to_numpy(), "file"].drop_duplicates()
    if len(without):
        problems.append(
            f"images: {len(without)} file(s) have no row in {table_path.name} (first: `{without.iloc[0]}`): {fate}; "
            "add a row for each, or remove the files"
        )
    return row_of


def _pairs(images: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(images["file"].astype(str), images["frame"].astype(str), strict=True))


def _unclear_sentence(found: Resolution, text: pd.Series) -> str:
    label, files = next(iter(found.unclear.items()))
    shown = ", ".join(f"`{file}`" for file in files[:3]) + (" …" if len(files) > 3 else "")
    return (
        f"{len(found.unclear)} row(s) name a file of which several are in different folders (first: row "
        f"{label + 2}, `{text[label]}`: {shown}): write the folder before the name, or the "
        "patient as the folder is named"
    )


def _row_problems(found: Resolution, text: pd.Series, names: pd.Series, table_path: Path) -> list[str]:
    """Sentences for rows that name no image, or one of several."""
    problems = []
    if found.unclear:
        problems.append(f"{table_path.name}: {_unclear_sentence(found, text)}; these rows are left out")
    if found.elsewhere:
        label, file = next(iter(found.elsewhere.items()))
        problems.append(
            f"{table_path.name}: {len(found.elsewhere)} row(s) name a file that is not where the row says, or that "
            f"another row names more exactly (first: row {label + 2}, `{text[label]}`; there is `{file}`): "
            f"they are left out; correct `{names.name}`"
        )
    if found.absent:
        label = found.absent[0]
        problems.append(
            f"{table_path.name}: {len(found.absent)} row(s) name an image that is not there (first: row "
            f"{label + 2}, `{text[label] or ''}`): they are left out; add the file or correct "
            f"`{names.name}`"
        )
    return problems


def match_patients(keys: pd.Series, patients: pd.Series, table_path: Path, problems: list[str]) -> pd.Series:
    """For each image the label of its patient's row in a table with one row per patient (−1: none).

    Raises:
        UserError: a patient has two rows, or no row is the patient of an image.
    """
    text = as_ids(keys)
    twice = text[text.notna() & text.duplicated(keep=False)]
    if len(twice):
        raise UserError(
            f"{table_path}: patient `{twice.iloc[0]}` has more than one row in `{keys.name}`; name the column with the "
            "image files as `image`, or keep one row per patient"
        )
    patients = patients.map(cleaned, na_action="ignore")
    row_of = patients.map(pd.Series(text.index, index=text)).fillna(-1).astype(int)
    if (row_of < 0).all():
        raise UserError(f"{table_path}: no value of `{keys.name}` is the patient of an image")
    absent = int((~text.isin(set(patients.dropna()))).sum())
    if absent:
        problems.append(f"{table_path.name}: {absent} patient row(s) have no image: they are left out")
    lost = patients[(row_of < 0).to_numpy()].nunique()
    if lost:
        problems.append(f"images: {lost} patient(s) have no row in {table_path.name}: their variables are missing")
    return row_of
