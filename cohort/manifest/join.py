"""Images ⨝ table → manifest: one row per image with patient, split and every variable, and a sentence per problem."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.duplicates.duplicate_groups import Thumbnails, find_duplicates
from pellucid.cohort.duplicates.shared_images import binding, duplicate_sentences
from pellucid.cohort.errors import UserError
from pellucid.cohort.manifest.cell_values import as_ids, as_text, taken_sentence, words_taken
from pellucid.cohort.manifest.declared_columns import header_facts, typed_from_table, without_patients
from pellucid.cohort.manifest.patient_sites import two_sites
from pellucid.cohort.manifest.patient_split import assign_splits
from pellucid.cohort.manifest.research_ids import research_ids
from pellucid.cohort.manifest.row_matching import match_images, match_patients, patients_of_images
from pellucid.cohort.manifest.staff_names import named_columns, with_keyed_names
from pellucid.cohort.manifest.table_file import study_table
from pellucid.cohort.study import FromDicom, FromPath, Study, Variable, is_header_fact
from pellucid.cohort.withdrawal_list import Withdrawn

# Made after the join.
_DUPLICATES = {"duplicate_of", "duplicate_kind", "duplicate_group", "duplicate_question"}
_OWN_COLUMNS = {"patient", "split", *_DUPLICATES, "file", "frame", "image_grade"}


class LateWithdrawal(UserError):
    """Pictures of somebody who withdrew consent were read, because only the join tells whose they are.

    Attributes:
        images: image_id, file, frame and patient_source_id of every picture.
        theirs: which of them are hers, (n,).
    """

    def __init__(self, images: pd.DataFrame, theirs: pd.Series) -> None:
        super().__init__("there are images of a patient who withdrew consent")
        self.images = images[["image_id", "file", "frame", "patient_source_id"]]
        self.theirs = theirs


def build_manifest(
    study: Study, images: pd.DataFrame, thumbnails: Thumbnails | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Join the rows of the one pass with the study's table.

    Args:
        study: whose table, columns and split rule are used.
        images: one row per image, as `pellucid.cohort.intake.read_pass` writes it.
        thumbnails: small gray copies of images by id; without it near duplicates are not looked for.

    Returns:
        The manifest (image order kept), and sentences on what did not fit together.

    Raises:
        UserError: the table or a column is missing, a value does not fit its declared kind, or no row fits an image.
        LateWithdrawal: there are pictures of somebody who withdrew.
    """
    withdrawn = Withdrawn.load(study.withdrawn)
    problems: list[str] = []
    staff = named_columns(study)
    manifest = _with_files(images)
    manifest["patient_source_id"] = patients_of_images(study, manifest, problems)
    _refuse_withdrawn(manifest, withdrawn)
    if study.table is not None:
        manifest = join_table(study, manifest, problems, withdrawn)
    if study.config.patient != "none":
        manifest = without_patients(manifest)
    facts = header_facts(study, manifest)
    manifest[facts.columns] = facts
    unknown = (manifest["status"] == "ok") & manifest["patient_source_id"].isna()
    manifest.loc[unknown & (manifest["reason"] == ""), "reason"] = "its patient is not known"
    manifest.loc[unknown, "status"] = "no_row"
    usable = manifest["status"] == "ok"
    if not usable.any():
        raise UserError(f"{study.path}: no readable image has a patient; nothing can be studied")
    copies = find_duplicates(manifest, thumbnails)
    manifest[copies.columns.columns] = copies.columns
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
        bound=binding(manifest, copies),
        stratify={name: manifest.loc[usable, name].tolist() for name in study.strata},
    )
    problems.extend(duplicate_sentences(manifest, copies, rule.column))
    return with_keyed_names(manifest.drop(columns="header_patient_id"), staff), problems


def _with_files(images: pd.DataFrame) -> pd.DataFrame:
    """A copy with `file` and `frame`: only the pass knows whether a `#` in an id begins a frame's name."""
    frame = images["frame"].fillna("").astype(str) if "frame" in images else pd.Series("", index=images.index)
    if "file" in images:
        return images.assign(frame=frame)
    tails = "#" + frame
    files = [str(i).removesuffix(tail) if tail != "#" else i for i, tail in zip(images["image_id"], tails, strict=True)]
    return images.assign(file=pd.Series(files, index=images.index, dtype=object), frame=frame)


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
    staff = named_columns(study)
    for name, levels in study.config.external.items():
        values = as_text(usable[name])
        wanted = [str(level) for level in as_text(pd.Series(levels, dtype=object))]
        known = sorted(set(values.dropna()))
        for level in wanted:
            if level not in known:
                near = "" if name in staff else f"{did_you_mean(level, known)}; there are: {', '.join(known[:12])}"
                raise UserError(f"{study.path}: external: no image has `{name}` = `{level}`{near}")
        found[name] = (values.tolist(), wanted)
    return found


def _refuse_withdrawn(manifest: pd.DataFrame, withdrawn: Withdrawn) -> None:
    known = manifest["patient_source_id"].astype(object)
    theirs = pd.Series(withdrawn.which_patients(known.where(known.notna(), None).tolist()), index=manifest.index)
    if theirs.any():
        raise LateWithdrawal(manifest, theirs)


def _without_withdrawn(
    table: pd.DataFrame, key_column: str, patient_column: str | None, withdrawn: Withdrawn, keyed_by_patient: bool
) -> pd.DataFrame:
    """The table without the rows of those who withdrew: no message shall name them, and no level be theirs alone."""

    def texts(name: str) -> list[str | None]:
        column = as_ids(table[name]) if name == patient_column or keyed_by_patient else as_text(table[name])
        return column.where(column.notna(), None).tolist()

    gone = withdrawn.which_patients(texts(key_column)) if keyed_by_patient else withdrawn.which_rows(texts(key_column))
    if patient_column:
        gone = gone | withdrawn.which_patients(texts(patient_column))
    return table[~gone] if gone.any() else table


def _rule_with_column(rule: str | FromPath | FromDicom) -> str:
    """What the study's own rule becomes for a table with one row per patient."""
    if isinstance(rule, FromDicom):
        return f"patient: {{from_dicom: {rule.from_dicom}, column: COLUMN}}"
    pattern = rule.from_path if isinstance(rule, FromPath) else "(…)"
    return f"patient: {{from_path: '{pattern}', column: COLUMN}}"


def require_key(study: Study) -> None:
    """Is it known which row of the table belongs to an image? Asked before hours of reading.

    Raises:
        UserError: study.yaml names no column by which the table is joined.
    """
    rule = study.config.patient
    if study.table is None or study.config.image or (not isinstance(rule, str) and rule.column):
        return
    if _from_table(study) or (isinstance(rule, str) and rule != "none"):
        raise UserError(
            f"{study.path}: `image` is missing: name the column with the image files, or, for a table with one row per "
            f"patient, {_rule_with_column(rule)} with the column that holds the same ids"
        )


def _declared(study: Study) -> list[Variable]:
    """Variables that are columns of the table."""
    return [v for v in study.variables if v.role != "acquisition" or not is_header_fact(v.name)]


def _from_table(study: Study) -> list[str]:
    """Columns of the table that study.yaml asks for, besides those of the image and the patient."""
    return [*(v.table_column for v in _declared(study)), *_without_kind(study)]


def _without_kind(study: Study) -> list[str]:
    """Columns of the table that only decide the split."""
    config = study.config
    factors = [name for name in config.external if not is_header_fact(name) and name not in study.derived]
    return [*factors, *([config.split.column] if config.split.column else [])]


def join_table(
    study: Study, manifest: pd.DataFrame, problems: list[str], withdrawn: Withdrawn | None = None
) -> pd.DataFrame:
    config, table_path = study.config, study.table
    assert table_path is not None
    rule = config.patient
    patient_column = rule if isinstance(rule, str) and rule != "none" else None
    declared, needed = _declared(study), _from_table(study)
    require_key(study)
    key_column = config.image or (None if isinstance(rule, str) else rule.column)
    if key_column is None:
        return manifest  # a table that nothing is asked of
    wanted = list(dict.fromkeys([key_column, *([patient_column] if patient_column else []), *needed]))
    read = study_table(study, wanted)
    table = read.frame
    problems.extend(read.notes)
    twice_given = [v.name for v in study.variables if v not in declared and v.name in table]
    if twice_given:
        raise UserError(_clash(study, twice_given[0]))
    whole = table
    hints = _folder_hints(table, key_column, patient_column or (None if isinstance(rule, str) else rule.column))
    table = table[wanted]
    if withdrawn is not None and withdrawn.entries:
        if patient_column and config.image:  # new images of hers are known by the table alone
            row_of = match_images(table[key_column], manifest, study, table_path, [], "", hints)
            own = as_ids(table[patient_column]).reindex(row_of).set_axis(manifest.index)
            _refuse_withdrawn(manifest.assign(patient_source_id=own), withdrawn)
        table = _without_withdrawn(table, key_column, patient_column, withdrawn, keyed_by_patient=not config.image)
    typed, said = typed_from_table(replace(read, frame=table), declared, table_path, config.missing)
    table = table.assign(**typed)
    problems.extend(said)
    if config.image:
        fate = "they are left out" if patient_column else "their variables are missing"
        row_of = match_images(table[key_column], manifest, study, table_path, problems, fate, hints)
    else:
        row_of = match_patients(table[key_column], manifest["patient_source_id"], table_path, problems)
    joined = table.drop(columns=[key_column]).reindex(row_of).set_index(manifest.index)
    if patient_column:
        question = two_sites(whole, patient_column)
        problems += [f"{table_path.name}: {question}"] if question else []
        _name_patients(manifest, table[patient_column], row_of, table_path.name, problems)
    columns = [
        c
        for c in dict.fromkeys([*(v.name for v in declared), *_without_kind(study)])
        if c not in {key_column, patient_column}
    ]
    clash = [
        c
        for c in columns
        if c in manifest.columns or ((c in _OWN_COLUMNS or c.startswith("image_grade_")) and c != config.split.column)
    ]
    if clash:
        raise UserError(_clash(study, clash[0]))
    manifest[columns] = joined[columns]  # the split column, if it is called `split`, is settled and overwritten later
    return manifest


def _name_patients(
    manifest: pd.DataFrame, column: pd.Series, row_of: pd.Series, table: str, problems: list[str]
) -> None:
    """The patient of each image from the table's column, and a sentence on rows that name none."""
    own = as_ids(column)
    ids = own.reindex(row_of).set_axis(manifest.index)
    manifest["patient_source_id"] = ids
    nameless = int((ids.isna() & (row_of >= 0)).sum())
    if nameless:
        words = taken_sentence(words_taken(column, own.isna()))
        shown = f" ({words})" if words else ""
        problems.append(
            f"{table}: {nameless} row(s) have no `{column.name}`{shown}: their images are left "
            "out, because a patient who is not known could stand on both sides of a split"
        )
    without = manifest.loc[(row_of < 0).to_numpy()]
    if len(without):
        manifest.loc[without.index, "reason"] = without["reason"].where(
            without["reason"] != "", "no row of the table names this image"
        )


def _folder_hints(table: pd.DataFrame, key_column: str, patient_column: str | None) -> pd.DataFrame | None:
    """Columns whose values may be the folders of the images: the patient's, then all others."""
    if patient_column is None or patient_column not in table:
        return None
    others = [name for name in table.columns if name not in {key_column, patient_column}]
    return table[[patient_column, *others]]


def _clash(study: Study, name: str) -> str:
    said = f"{study.table}: the column name `{name}` is one that the manifest uses itself: rename it"
    if is_header_fact(name):
        said += f" (in study.yaml `{name}` is what the files themselves say)"
    return said
