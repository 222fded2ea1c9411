"""Writes docs/dicom-conformance.md from the lists that `deidentify` uses (`python -m` with this module's name)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword

from pellucid.cohort.deidentify.dicom import dicom_attributes
from pellucid.cohort.deidentify.dicom.colour_tables import TABLES
from pellucid.cohort.deidentify.dicom.dicom_headers import OPTION_CODES, RULES

_INTRODUCTION = """# DICOM conformance statement of `pellucid deidentify`

This statement is written from the program's own lists (`python -m
pellucid.cohort.deidentify.dicom.conformance_statement`); a test compares the two. It follows DICOM PS3.15 Annex E,
edition 2026c.

## Profile and options

| code (CID 7050) | profile or option | claimed |
|---|---|---|
{options}

No other option is claimed: not Clean Graphics (graphics, overlays and curves are removed), not Clean Structured
Content and Clean Descriptors (structured reports are refused, descriptors are removed), not Clean Recognizable Visual
Features (a face in a photograph or in a head CT or MR remains), not Retain UIDs, Retain Institution Identity or
Retain Safe Private.

## How it is done

- **A list of what stays.** An attribute that is not in the table below is removed, at every level of nesting: all
  private attributes, all unknown ones, and all that later editions of Table E.1-1 will add. Table E.1-1 lists what
  must go; actions X, Z and D are therefore all carried out as X, except for the attributes below.
- **Sequences** are walked with the same list. A code stays only if the tables of the standard have it, with the
  meaning from there.
- **Another value representation** than the dictionary's: the attribute is removed.
- **File meta information** is rewritten; the preamble is zero.
- **Pixel data**: burned-in text that is found is masked in all frames; bits above BitsStored are cleared; comments,
  unused tables and bytes that affect no pixel are removed from coded streams. `BurnedInAnnotation NO` and code 113101
  are written only after a person has been recorded as having looked through the review sheet (`--reviewed-by`).
- **Refused**, and not copied: whole slides, documents wrapped in DICOM, files without an image or whose patient is
  unknown, and files that would be displayed differently afterwards.
- **What the file states**: PatientIdentityRemoved YES, DeidentificationMethod, DeidentificationMethodCodeSequence,
  LongitudinalTemporalInformationModified (MODIFIED or REMOVED), PatientID and PatientName (the research id),
  SpecificCharacterSet (ISO_IR 192), and new StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID where the file has
  none.

## Attribute by attribute

Actions in the terms of PS3.15 Table E.1-1a: K keep, C clean, U replace by a consistent UID, Z empty, X remove, D
replace by a dummy value.

| tag | keyword | VR | action | rule |
|---|---|---|---|---|
"""
_OPTIONS = {
    "113100": "always",
    "113101": "only after a recorded review, and for the files on the review sheet",
    "113107": "by default; not with `--dates remove`",
    "113108": "by default; not with `--no-retain-patient`",
    "113109": "only with `--retain-device`",
}


def statement() -> str:
    """The whole document as Markdown."""
    options = "\n".join(f"| {code} | {meaning} | {_OPTIONS[code]} |" for code, meaning in OPTION_CODES.items())
    rows = "\n".join(f"| {tag} | {keyword} | {vr} | {action} | {rule} |" for tag, keyword, vr, action, rule in _rows())
    return _INTRODUCTION.format(options=options) + rows + "\n"


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Tag, keyword, value representation, action and rule of each attribute that may be in a cleaned file."""
    actions = {
        **{keyword: _kept(keyword) for keyword in dicom_attributes.KEPT},
        **dict.fromkeys(dicom_attributes.UIDS, ("U", "keyed UID; UIDs of the standard stay")),
        **dict.fromkeys(dicom_attributes.DATES, ("C (X)", "shifted, the same for all dates of a patient; or empty")),
        **dict.fromkeys(dicom_attributes.PATIENT, ("K (X)", "kept with 113108")),
        "PatientAge": ("K (X)", "kept with 113108; ages over 89 become 90"),
        **dict.fromkeys(dicom_attributes.DEVICE_IDENTITY, ("D (K)", "keyed name; kept with 113109")),
        **dict.fromkeys(dicom_attributes.EMPTY, ("Z", "empty")),
        "PatientID": ("D", "research id"),
        "PatientName": ("D", "research id"),
    }
    tags = {int(tag_for_keyword(keyword) or 0): keyword for keyword in actions}
    for tag, keyword in sorted(tags.items()):
        shown = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        yield shown, f"{keyword} ({dictionary_description(tag)})", dictionary_VR(tag), *actions[keyword]


def _kept(keyword: str) -> tuple[str, str]:
    """Action and rule of an attribute of the list `KEPT`, by the rules of `dicom_headers`."""
    vr = dictionary_VR(keyword)
    if vr == "SQ":
        return "C", RULES["SQ"]
    if vr == "UI":
        return "U", RULES["UI"]
    if keyword in TABLES:
        return "C", RULES.get(keyword, RULES["table"])
    rule = RULES.get(keyword) or RULES.get(vr)
    return ("K", RULES["number"]) if rule is None else ("X" if rule == "removed" else "C", rule)


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/dicom-conformance.md").write_text(statement(), encoding="utf-8")
