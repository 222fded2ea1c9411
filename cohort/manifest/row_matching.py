"""Which row of the table belongs to which image, and which patient to which image, however files are named."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.table_file import as_text
from pellucid.cohort.study import FromDicom, FromPath, Study


def patients_of_images(study: Study, images: pd.DataFrame, problems: list[str]) -> pd.Series:
    """The patient of each image by a rule that needs no table; None everywhere where the table's column names them.

    Raises:
        UserError: the rule fits no image.
    """
    rule = study.config.patient
    if isinstance(rule, FromPath):
        pattern = re.compile(rule.from_path)
        found = images["file"].map(lambda path: (m.group(1) or None) if (m := pattern.search(path)) else None)
        _say_unmatched(found, images["image_id"], f"patient: {{from_path: {rule.from_path!r}}} fits", problems)
        return found
    if isinstance(rule, FromDicom):
        column = images["header_patient_id"].replace("", None)
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


def _composed(name: str) -> str:
    """`ü` as one character: some systems write it as two into file names, and nobody sees the difference."""
    return unicodedata.normalize("NFC", name)


def match_images(
    names: pd.Series, images: pd.DataFrame, study: Study, table_path: Path, problems: list[str], fate: str
) -> pd.Series:
    """For each image the label of its table row (−1: none), by the first way of naming files that fits most rows.

    A row names a file, and so all its frames, or one frame by its full id (`scan.dcm#3`), which goes before the file.

    Args:
        names: the table's column.
        images: `image_id`, `file` and `frame` ("" for a file's only picture) of each image.
        study: whose folders the names may be relative to.
        table_path: for messages, and for names relative to the table's folder.
        problems: gets a sentence for rows without image and images without row.
        fate: what becomes of images without a row.

    Raises:
        UserError: no row names an image, or two rows name one.
    """
    text = as_text(names).fillna("").map(lambda name: _composed(name.replace("\\", "/").removeprefix("./")))
    prefix = ""
    if table_path.parent != study.image_root and study.image_root.is_relative_to(table_path.parent):
        prefix = study.image_root.relative_to(table_path.parent).as_posix() + "/"
    ways = {
        "path": lambda path: path,
        "path from the table's folder": lambda path: prefix + path,
        "path without ending": lambda path: str(PurePosixPath(path).with_suffix("")),
        "file name": lambda path: PurePosixPath(path).name,
        "file name without ending": lambda path: PurePosixPath(path).stem,
    }
    files = pd.Series(images["file"].unique(), dtype=object)
    framed = images["frame"] != ""
    best: tuple[int, pd.Series, pd.Series] | None = None
    for way in ways.values():
        key_of = pd.Series(files.map(way).map(_composed).to_numpy(), index=files)
        by_file = images["file"].map(key_of.where(~key_of.duplicated(keep=False)))  # a name of two files names neither
        by_frame = (by_file + "#" + images["frame"]).where(framed)
        hits = int(text.isin(set(by_file.dropna()) | set(by_frame.dropna())).sum())
        if best is None or hits > best[0]:
            best = (hits, by_file, by_frame)
    assert best is not None
    hits, by_file, by_frame = best
    if hits == 0:
        raise UserError(
            f"{table_path}: no row of column `{names.name}` names an image below {study.image_root} (first row: "
            f"`{text.iloc[0]}`, first image: `{images['image_id'].iloc[0]}`): correct `image` or `images`"
        )
    twice = text[(text != "") & text.duplicated(keep=False)]
    if len(twice):
        where = [int(i) + 2 for i in twice.index[twice == twice.iloc[0]]][:2]
        raise UserError(
            f"{table_path}: rows {where[0]} and {where[1]} both name `{twice.iloc[0]}` ({twice.nunique()} image(s) are "
            "named twice): keep one row per image"
        )
    lookup = pd.Series(text.index, index=text)
    row_of = by_frame.map(lookup).fillna(by_file.map(lookup)).fillna(-1).astype(int)
    absent = text[~text.isin(set(by_file.dropna()) | set(by_frame.dropna()))]
    if len(absent):
        problems.append(
            f"{table_path.name}: {len(absent)} row(s) name an image that is not there (first: row "
            f"{int(absent.index[0]) + 2}, `{absent.iloc[0]}`): they are left out; add the file or correct "
            f"`{names.name}`"
        )
    without = images.loc[(row_of < 0).to_numpy(), "file"].drop_duplicates()
    if len(without):
        problems.append(
            f"images: {len(without)} file(s) have no row in {table_path.name} (first: `{without.iloc[0]}`): {fate}; "
            "add a row for each, or remove the files"
        )
    return row_of


def match_patients(keys: pd.Series, patients: pd.Series, table_path: Path, problems: list[str]) -> pd.Series:
    """For each image the label of its patient's row in a table with one row per patient (−1: none).

    Raises:
        UserError: a patient has two rows, or no row is the patient of an image.
    """
    text = as_text(keys)
    twice = text[text.notna() & text.duplicated(keep=False)]
    if len(twice):
        raise UserError(
            f"{table_path}: patient `{twice.iloc[0]}` has more than one row in `{keys.name}`; name the column with the "
            "image files as `image`, or keep one row per patient"
        )
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
