"""What duplicates mean for patients: which patients the split keeps together, and what a person should check."""

from __future__ import annotations

import pandas as pd

from pellucid.cohort.duplicates.duplicate_groups import Duplicates

MAX_BOUND = 10  # patients; a picture of more is not a patient's
_WORDS = {
    "exact": "byte-identical copies of",
    "pixels": "in their pixels identical to",
    "near": "nearly the same picture as",
}


def shared_pictures(manifest: pd.DataFrame) -> dict[str, list[str]]:
    """Duplicate group → the patients (column `patient_source_id`) who share its picture; only groups of several."""
    usable = manifest[(manifest["status"] == "ok") & (manifest["duplicate_group"] != "")]
    of_group = usable.groupby("duplicate_group")["patient_source_id"].unique()
    return {str(g): sorted(map(str, patients)) for g, patients in of_group.items() if len(patients) > 1}


def binding(manifest: pd.DataFrame, found: Duplicates) -> list[list[str]]:
    """Groups of patients (`patient_source_id`) whom a shared picture binds to one side of the split.

    A blank picture binds nobody, and neither does one that more than ten patients share: that is a test chart or
    a logo, and binding hundreds of patients by it would leave no split. Equal images bind without limit. A near
    duplicate binds only as long as not more than ten patients come together by it; the pairs that are left out are
    likely not copies. `duplicate_sentences` reports all of these.
    """
    return _bound(manifest, found)[0]


def _bound(manifest: pd.DataFrame, found: Duplicates) -> tuple[list[list[str]], list[str]]:
    """The groups of patients, and the duplicate groups that would bind too many."""
    shared = {
        group: who
        for group, who in shared_pictures(manifest).items()
        if group not in found.blank and len(who) <= MAX_BOUND
    }
    near = set(manifest.loc[manifest["duplicate_kind"] == "near", "duplicate_group"])
    equal = _equal_links(manifest[manifest["duplicate_group"].isin([group for group in shared if group in near])])
    bound = [who for group, who in shared.items() if group not in near] + equal
    unit_of: dict[str, set[str]] = {}
    for who in bound:
        _merge(unit_of, who)
    refused = []
    for group in (group for group in shared if group in near):
        together = set().union(*(unit_of.get(patient, {patient}) for patient in shared[group]))
        if len(together) > MAX_BOUND:
            refused.append(group)
        else:
            bound.append(shared[group])
            _merge(unit_of, shared[group])
    return bound, refused


def _merge(unit_of: dict[str, set[str]], who: list[str]) -> None:
    together = set().union(*(unit_of.get(patient, {patient}) for patient in who))
    unit_of.update(dict.fromkeys(together, together))


def _equal_links(rows: pd.DataFrame) -> list[list[str]]:
    """Pairs of patients with an equal image, inside groups that have near duplicates too."""
    patient_of = dict(zip(rows["image_id"], rows["patient_source_id"].astype(str), strict=True))
    copies = rows[rows["duplicate_kind"].isin(["exact", "pixels"])]
    pairs = zip(copies["patient_source_id"].astype(str), copies["duplicate_of"].map(patient_of), strict=True)
    return sorted({tuple(sorted((a, b))): [a, b] for a, b in pairs if isinstance(b, str) and a != b}.values())


def duplicate_sentences(manifest: pd.DataFrame, found: Duplicates, split_column: str | None) -> list[str]:
    """What must be looked at, in sentences; patients by research id, files only as an example in parentheses.

    Args:
        manifest: with `patient`, `split` and the columns of `found`.
        found: as `find_duplicates` gave it.
        split_column: name of the table's own split column, where one decided.
    """
    usable = manifest[manifest["status"] == "ok"]
    shared = shared_pictures(manifest)
    wide = [group for group, who in shared.items() if group not in found.blank and len(who) > MAX_BOUND]
    refused = [] if split_column else _bound(manifest, found)[1]
    said = [
        *_copies(usable, found, [group for group in shared if group not in found.blank], bool(split_column)),
        *_questions(usable, found),
    ]
    blank = usable[usable["duplicate_group"].isin(found.blank)]
    if len(blank):
        said.append(
            f"images: {len(blank)} file(s) of {blank['patient'].nunique()} patient(s) are blank pictures that repeat "
            f"one another{_example(usable, str(blank['duplicate_group'].iloc[0]))}: they say nothing of a patient; "
            "remove them"
        )
    if wide and not split_column:
        said.append(
            f"images: {len(wide)} image(s) are shared by more than {MAX_BOUND} patients each (up to "
            f"{max(len(shared[group]) for group in wide)}){_example(usable, wide[0])}: test charts or logos, it seems, "
            "so these patients are not kept on one side of the split for their sake; remove such pictures"
        )
    if refused:
        said.append(
            f"images: {len(refused)} group(s) of near duplicates{_patients(usable, refused)} would bind more than "
            f"{MAX_BOUND} patients to one side of the split, one through another, and do not: please check whether "
            f"they are copies{_example(usable, refused[0])}"
        )
    sides = usable[usable["duplicate_group"] != ""].groupby("duplicate_group")["split"].nunique()
    ignored = {*found.blank, *wide, *refused}
    torn = [str(group) for group in sides.index[sides > 1] if group not in ignored]
    if torn:
        said.append(
            f"split column `{split_column}`: {len(torn)} group(s) of duplicates are on two sides"
            f"{_patients(usable, torn, sides=True)}: the column is kept as it is, so what is tested there was seen in "
            f"training; correct the column, or read the results with that in mind{_example(usable, torn[0])}"
        )
    if found.capped:
        said.append(
            f"images: near duplicates of {found.capped} image(s) were not looked for among all others, because too "
            "many different pictures share their perceptual hash"
        )
    return said


def _copies(usable: pd.DataFrame, found: Duplicates, telling: list[str], fixed_split: bool) -> list[str]:
    """How many images are duplicates, and which groups lie across patients."""
    copies = usable[usable["duplicate_of"] != ""]
    if not len(copies):
        return []
    counts = copies["duplicate_kind"].value_counts()
    parts = [f"{counts[kind]} file(s) are {words} another" for kind, words in _WORDS.items() if kind in counts]
    sentence = "images: " + ", ".join(parts)
    if telling:
        kept = "" if fixed_split else ", who are kept on one side of the split"
        sentence += (
            f"; {len(telling)} of these groups lie across different patients{_patients(usable, telling)}{kept}: "
            f"please check whether an image was stored twice or two ids are one person{_example(usable, telling[0])}"
        )
    return [sentence + " (`duplicate_of` in manifest.parquet)"]


def _questions(usable: pd.DataFrame, found: Duplicates) -> list[str]:
    asked = usable[usable["duplicate_question"] != ""]
    if not len(asked):
        return []
    pairs = asked.assign(question=asked["duplicate_question"].str.split()).explode("question").groupby("question")
    names = [" and ".join(map(str, rows["patient"].unique())) for _, rows in pairs]
    example = " = ".join(next(iter(pairs))[1]["image_id"])
    shown = "; ".join(names[:3]) + ("; …" if len(names) > 3 else "")
    return [
        f"images: {len(names)} pair(s) of images of different patients are very alike, but not clearly copies "
        f"({shown}): are they the same image? They bind no patients (first: `{example}`) (`duplicate_question` in "
        "manifest.parquet)"
    ]


def _patients(usable: pd.DataFrame, groups: list[str], sides: bool = False) -> str:
    """` (P0001 and P0007; P0003 and P0004; …)`, by research id."""
    shown = []
    for group in groups[:3]:
        rows = usable[usable["duplicate_group"] == group].drop_duplicates("patient").head(3)
        names = [f"{p} in {s}" if sides else str(p) for p, s in zip(rows["patient"], rows["split"], strict=True)]
        shown.append(" and ".join(names))
    return f" ({'; '.join(shown)}{'; …' if len(groups) > 3 else ''})"


def _example(usable: pd.DataFrame, group: str) -> str:
    """For the terminal only: the form that `pellucid.explore.study_findings` takes out."""
    rows = usable[usable["duplicate_group"] == group].drop_duplicates("patient")["image_id"].head(2)
    return f" (first: `{' = '.join(rows)}`)"
