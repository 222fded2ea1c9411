"""What `init` takes for the patient where no column of the table names one: the header, a folder, or the file name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pellucid.cohort.draft.header_survey import Headers
from pellucid.cohort.manifest.cell_values import as_ids, cleaned

# Below this many folders with more than so many images each, folders are sites, devices or classes, not patients.
_FEW_FOLDERS = 10
_MANY_IMAGES = 100
_RULES = (
    (r"^([^/]+)/", "the first folder"),
    (r"^[^/]+/([^/]+)/", "the second folder"),
    (r"([^/_-]+)[_-][^/]*$", "the file name up to its last _ or -"),
)


@dataclass(frozen=True)
class PathRule:
    """A rule that finds a patient in the path of every image.

    Attributes:
        pattern: regular expression with one group.
        what: the part of the path, in words.
        n: number of patients.
        n_images: number of images.
    """

    pattern: str
    what: str
    n: int
    n_images: int

    @property
    def plausible(self) -> bool:
        """Are there not too few patients for so many images?"""
        return self.n >= _FEW_FOLDERS or self.n_images <= _MANY_IMAGES * self.n

    @property
    def line(self) -> str:
        """Of study.yaml."""
        return f"patient: {{from_path: '{self.pattern}'}}  # {self.what}: {self.n} patients for {self.n_images} images"


def path_rules(ids: Sequence[str]) -> list[PathRule]:
    """The rules that fit every image and give neither one patient nor one for each image."""
    rules = []
    for pattern, what in _RULES:
        found = _values(pattern, ids)
        if len(found) == len(ids) and 1 < len(set(found)) < len(ids):
            rules.append(PathRule(pattern, what, len(set(found)), len(ids)))
    return rules


def _values(pattern: str, ids: Sequence[str]) -> list[str]:
    """What the pattern finds, for each image that it fits."""
    search = re.compile(pattern).search
    return [cleaned(m.group(1)) for image_id in ids if (m := search(image_id))]


def rule_with_column(frame: pd.DataFrame, ids: Sequence[str]) -> tuple[str, str, str] | None:
    """A part of the path, and the column with one row for each of its values: pattern, part in words, column."""
    columns = {str(name): as_ids(frame[name]).dropna() for name in frame.columns}
    for pattern, what in _RULES:
        found = set(_values(pattern, ids))
        for name, values in columns.items():
            if len(found) > 1 and values.is_unique and 2 * len(found & set(values)) > len(found):
                return pattern, what, name
    return None


def patient_lines(ids: Sequence[str], headers: Headers) -> list[str]:
    """The line `patient:` with the other possibilities as comments."""
    rules = path_rules(ids)
    questions = [
        f"# QUESTION: {rule.n} values of {rule.what} for {rule.n_images} images: too few to be patients (sites, "
        "devices or classes?); name what tells the patients apart"
        for rule in rules
        if not rule.plausible
    ]
    fits = [rule for rule in rules if rule.plausible]
    if headers.names_patients:
        return [from_dicom(headers), *hints(fits)]
    if fits:
        return [fits[0].line, *questions, *hints(fits[1:])]
    if any(i.lower().endswith((".dcm", ".dicom", ".ima")) for i in ids) and any(headers.patients):
        return ["patient: {from_dicom: PatientID}  # the files look like DICOM", *questions]
    return [
        "patient: none  # NOT KNOWN: every image counts as its own patient, and every result will say so",
        *questions,
    ]


def hints(rules: Sequence[PathRule]) -> list[str]:
    """Other places that may name the patient, as comments."""
    return [f"# or {rule.line}" for rule in rules]


def header_column(frame: pd.DataFrame, headers: Headers) -> str | None:
    """The column with one row for each PatientID of the headers."""
    found = {cleaned(patient) for patient in headers.patients if patient}
    for name in frame.columns:
        values = as_ids(frame[name]).dropna()
        if len(found) > 1 and values.is_unique and 2 * len(found & set(values)) > len(found):
            return str(name)
    return None


def from_dicom(headers: Headers, column: str = "") -> str:
    """The line for the PatientID of the headers.

    Args:
        column: of the table, in quotes if it needs them; it has one row for each patient.
    """
    n = len(set(headers.patients) - {""})
    key = f", column: {column}" if column else ""
    return f"patient: {{from_dicom: PatientID{key}}}  # {n} patients in the headers of {headers.n} files looked at"


def other_sources(ids: Sequence[str], headers: Headers, n_patients: int) -> list[str]:
    """Folders and headers that give another number of patients than the column of the table, as comments."""
    rules = [rule for rule in path_rules(ids) if "folder" in rule.what and rule.plausible]
    # far fewer folders than patients are sites or days
    said = hints([rule for rule in rules if rule.n != n_patients and 2 * rule.n >= n_patients])
    if headers.names_patients and headers.n == len(ids) and len(set(headers.patients)) != n_patients:
        said.append(f"# or {from_dicom(headers)}")
    return said
