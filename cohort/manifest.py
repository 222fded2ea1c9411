"""Images ⨝ table → manifest: one row per image with patient, split and every variable, and a sentence per problem."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pandas as pd

from cohort.config import did_you_mean
from cohort.errors import UserError
from cohort.splits import assign_splits, research_ids
from cohort.study import FromDicom, FromPath, Study, Variable
from cohort.table import as_text, read_table

_OWN_COLUMNS = {"patient", "split", "duplicate_of"}  # made after the join


def build_manifest(study: Study, images: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Join the rows of the one pass with the study's table.

    Args:
        study: whose table, columns and split rule are used.
        images: one row per file, as `cohort.onepass` writes it.

    Returns:
        The manifest (image order kept), and sentences on what did not fit together.

    Raises:
        UserError: the table or a column is missing, a value does not fit its declared kind, or no row fits an image.
    """
    problems: list[str] = []
    manifest = images.copy()
    manifest["patient_source_id"] = _patients_of_images(study, manifest, problems)
    if study.table is not None:
        manifest = _join(study, manifest, problems)
    unknown = (manifest["status"] == "ok") & manifest["patient_source_id"].isna()
    manifest.loc[unknown & (manifest["reason"] == ""), "reason"] = "its patient is not known"
    manifest.loc[unknown, "status"] = "no_row"
    usable = manifest["status"] == "ok"
    if not usable.any():
        raise UserError(f"{study.path}: no readable image has a patient; nothing can be studied")
    patients = manifest["patient_source_id"].fillna("").astype(str)
    rule = study.config.split
    given = _given_split(study, manifest[usable], problems) if rule.column else None
    names = research_ids(patients[usable].tolist(), rule.seed)
    manifest["patient"] = patients.map(names).fillna("")
    manifest["split"] = ""
    manifest.loc[usable, "split"] = assign_splits(
        patients[usable].tolist(),
        test=rule.test,
        seed=rule.seed,
        column=given,
        column_name=rule.column or "",
        external=_held_out(study, manifest[usable]),
    )
    problems.extend(_duplicates(manifest))
    return manifest.drop(columns="header_patient_id"), problems


def _given_split(study: Study, usable: pd.DataFrame, problems: list[str]) -> list[str]:
    """The table's own split, lower case; an image without a row goes where its patient's others go."""
    name = str(study.config.split.column)
    given = as_text(usable[name])
    given = given.fillna(given.groupby(usable["patient_source_id"]).transform("first"))
    if given.isna().any():
        raise UserError(
            f"split column `{name}`: is empty for {int(given.isna().sum())} image(s): give each row a split"
        )
    return [str(value).lower() for value in given]


def _held_out(study: Study, usable: pd.DataFrame) -> dict[str, tuple[list[str | None], list[str]]]:
    """For each external factor the level of each image and the levels held out, both as text.

    Raises:
        UserError: a level that no image has; held out in name only, it would be trained on.
    """
    found = {}
    for name, levels in study.config.external.items():
        values = as_text(usable[name])
        wanted = [str(level) for level in as_text(pd.Series(levels, dtype=object))]
        known = sorted(set(values.dropna()))
        for level in wanted:
            if level not in known:
                raise UserError(
                    f"{study.path}: external: no image has `{name}` = `{level}`{did_you_mean(level, known)}; "
                    f"there are: {', '.join(known[:12])}"
                )
        found[name] = (values.tolist(), wanted)
    return found


def _patients_of_images(study: Study, images: pd.DataFrame, problems: list[str]) -> pd.Series:
    rule = study.config.patient
    if isinstance(rule, FromPath):
        pattern = re.compile(rule.from_path)
        found = images["image_id"].map(lambda path: (m.group(1) or None) if (m := pattern.search(path)) else None)
        _say_unmatched(found, images["image_id"], f"patient: {{from_path: {rule.from_path!r}}} fits", problems)
        return found
    if isinstance(rule, FromDicom):
        column = images["header_patient_id"].replace("", None)
        _say_unmatched(column[images["status"] == "ok"], images["image_id"], "a DICOM PatientID is in", problems)
        return column
    if rule == "none":
        problems.append(
            "patient: none — every image counts as its own patient; results cannot be generalised to patients"
        )
        return images["image_id"].copy()
    return pd.Series([None] * len(images), index=images.index, dtype=object)


def _say_unmatched(found: pd.Series, ids: pd.Series, what: str, problems: list[str]) -> None:
    lost = found[found.isna()]
    if len(lost) == len(found):
        raise UserError(f"study.yaml: {what} none of the {len(found)} images (first: `{ids.iloc[0]}`)")
    if len(lost):
        problems.append(
            f"{what} all but {len(lost)} of {len(found)} images (first: `{ids[lost.index[0]]}`): these are left out"
        )


def _join(study: Study, manifest: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    config, table_path = study.config, study.table
    assert table_path is not None
    rule = config.patient
    patient_column = rule if isinstance(rule, str) and rule != "none" else None
    key_column = config.image or (None if isinstance(rule, str) else rule.column)
    if key_column is None:
        raise UserError(
            f"{study.path}: `image` is missing: name the column with the image files, or, for a table with one row per "
            "patient, patient: {from_path: '(…)', column: COLUMN} with the column that holds the same ids"
        )
    wanted = [key_column, *([patient_column] if patient_column else []), *(v.name for v in study.variables)]
    wanted += [*config.external, *([config.split.column] if config.split.column else [])]
    wanted = list(dict.fromkeys(wanted))
    table = read_table(table_path, wanted)[wanted]
    table = table.assign(**{v.name: _typed_column(table[v.name], v, table_path) for v in study.variables})
    if config.image:
        fate = "they are left out" if patient_column else "their variables are missing"
        row_of = _match_images(table[key_column], manifest["image_id"], study, table_path, problems, fate)
    else:
        row_of = _match_patients(table[key_column], manifest["patient_source_id"], table_path, problems)
    joined = table.drop(columns=[key_column]).reindex(row_of).set_index(manifest.index)
    if patient_column:
        ids = as_text(joined[patient_column])
        manifest["patient_source_id"] = ids
        nameless = int((ids.isna() & (row_of >= 0)).sum())
        if nameless:
            problems.append(
                f"{table_path.name}: {nameless} row(s) have no `{patient_column}`: their images are left out, because "
                "a patient who is not known could stand on both sides of a split"
            )
        without = manifest.loc[(row_of < 0).to_numpy()]
        if len(without):
            manifest.loc[without.index, "reason"] = without["reason"].where(
                without["reason"] != "", "no row of the table names this image"
            )
    columns = [c for c in wanted if c not in {key_column, patient_column}]
    clash = [c for c in columns if c in manifest.columns or (c in _OWN_COLUMNS and c != config.split.column)]
    if clash:
        raise UserError(f"{table_path}: the column name `{clash[0]}` is one that the manifest uses itself: rename it")
    manifest[columns] = joined[columns]  # the split column, if it is called `split`, is settled and overwritten later
    return manifest


def _match_images(
    names: pd.Series, image_ids: pd.Series, study: Study, table_path: Path, problems: list[str], fate: str
) -> pd.Series:
    """For each image the label of its table row (−1: none), by the first way of naming files that fits most rows."""
    text = as_text(names).fillna("").map(lambda name: name.replace("\\", "/").removeprefix("./"))
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
    best: tuple[int, pd.Series] | None = None
    for way in ways.values():
        keys = image_ids.map(way)
        hits = int(text.isin(set(keys[~keys.duplicated(keep=False)])).sum())
        if best is None or hits > best[0]:
            best = (hits, keys)
    assert best is not None
    hits, keys = best
    if hits == 0:
        raise UserError(
            f"{table_path}: no row of column `{names.name}` names an image below {study.image_root} (first row: "
            f"`{text.iloc[0]}`, first image: `{image_ids.iloc[0]}`): correct `image` or `images`"
        )
    twice = text[(text != "") & text.duplicated(keep=False)]
    if len(twice):
        where = [int(i) + 2 for i in twice.index[twice == twice.iloc[0]]][:2]
        raise UserError(
            f"{table_path}: rows {where[0]} and {where[1]} both name `{twice.iloc[0]}` ({twice.nunique()} image(s) are "
            "named twice): keep one row per image"
        )
    lookup = pd.Series(text.index, index=text)
    row_of = keys.where(~keys.duplicated(keep=False)).map(lookup).fillna(-1).astype(int)
    absent = text[~text.isin(set(keys))]
    if len(absent):
        problems.append(
            f"{table_path.name}: {len(absent)} row(s) name an image that is not there (first: "
            f"row {int(absent.index[0]) + 2}, `{absent.iloc[0]}`): they are left out; add the file or correct `{names.name}`"
        )
    without = image_ids[(row_of < 0).to_numpy()]
    if len(without):
        problems.append(
            f"images: {len(without)} file(s) have no row in {table_path.name} (first: `{without.iloc[0]}`): {fate}; "
            "add a row for each, or remove the files"
        )
    return row_of


def _match_patients(keys: pd.Series, patients: pd.Series, table_path: Path, problems: list[str]) -> pd.Series:
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


def _typed_column(column: pd.Series, variable: Variable, table_path: Path) -> pd.Series:
    text = as_text(column)
    if variable.kind in {"continuous", "ordinal"}:
        numbers = pd.to_numeric(text, errors="coerce")
        wrong = text[text.notna() & numbers.isna()]
        if len(wrong):
            raise UserError(
                f"{table_path}: column `{variable.name}` is declared {variable.kind}, but row {int(wrong.index[0]) + 2} "
                f"has `{wrong.iloc[0]}`: correct it, or declare the column categorical"
            )
        return numbers.astype(float)
    if variable.kind == "binary" and text.nunique() > 2:
        raise UserError(
            f"{table_path}: column `{variable.name}` is declared binary but has {text.nunique()} values "
            f"({', '.join(sorted(text.dropna().unique())[:4])} …): declare it categorical"
        )
    return text


def _duplicates(manifest: pd.DataFrame) -> list[str]:
    """Mark byte-identical files (`duplicate_of`: the first of them) and say where they cross a patient or a split."""
    usable = manifest[manifest["status"] == "ok"]
    first = usable.drop_duplicates("sha256").set_index("sha256")["image_id"]
    original = manifest["sha256"].map(first).fillna("")
    manifest["duplicate_of"] = original.where((original != manifest["image_id"]) & (manifest["status"] == "ok"), "")
    copies = int((manifest["duplicate_of"] != "").sum())
    if not copies:
        return []
    groups = usable.groupby("sha256")
    crossing = int((groups["patient"].nunique() > 1).sum())
    sides = int((groups["split"].nunique() > 1).sum())
    sentence = f"images: {copies} file(s) are byte-identical copies of another"
    if crossing:
        sentence += f"; {crossing} of these groups lie across different patients"
        sentence += (
            f", {sides} of them across train and test: look at them, one of the two has the wrong patient"
            if sides
            else ""
        )
    return [sentence + " (`duplicate_of` in manifest.parquet)"]
