"""What the study takes from the originals' own headers goes into the new table: the headers themselves are stripped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from pellucid.cohort.deidentify.dicom.defined_terms import is_defined
from pellucid.cohort.deidentify.dicom.dicom_headers import header_identifiers
from pellucid.cohort.deidentify.linkage_file import Linkage
from pellucid.cohort.deidentify.technical_texts import is_version, may_stay
from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers.patient_identifiers import Identifiers
from pellucid.cohort.manifest.cell_values import as_text
from pellucid.cohort.manifest.staff_names import NAMED_FACTS, staff_word
from pellucid.cohort.readers import UnreadableImage, read_image
from pellucid.cohort.study import Study, is_header_fact

# Makes and settings name nobody. Everything else (station, serial, operator, institution, protocol …) gets a keyed
# name.
_PLAIN = frozenset(
    {
        *("format", "width", "height", "bits", "header_manufacturer", "header_model", "header_software", "header_lens"),
        *("header_year", "header_modality", "header_body_part", "header_view", "header_laterality", "header_kernel"),
        *("header_kvp", "header_slice_thickness", "header_magnification", "header_um_per_px", "header_exposure_time"),
        *("header_f_number", "header_iso", "header_focal_length", "header_flash"),
    }
)


def declared_facts(study: Study) -> list[str]:
    """Names of what the study takes from headers.

    Raises:
        UserError: a date is held out, which no image has any more once dates are shifted.
    """
    if "header_date" in study.config.external:
        raise UserError(
            f"{study.path}: external: dates are shifted when the study is de-identified, and no level of `header_date` "
            "can be held out: take it out of `external`"
        )
    names = [v.name for v in study.variables if v.role == "acquisition"] + list(study.config.external)
    return list(dict.fromkeys(name for name in names if is_header_fact(name)))


def fact_column(name: str) -> str:
    """Its column in the new table: `header_model` → `file_model`, `width` → `file_width`."""
    return f"file_{name.removeprefix('header_')}"


def new_level(name: str, level: Any, key: Linkage) -> Any:
    """A level that the study holds out, as the new table has it."""
    text = str(as_text(pd.Series([level], dtype=object)).iloc[0])
    word = staff_word(name, "acquisition", "categorical")
    if word:
        return key.staff([text], word)[text]
    return level if not is_header_fact(name) or name in _PLAIN else key.name(name, text, "N")


def file_facts(
    data: bytes,
    names: Sequence[str],
    key: Linkage,
    patient: str,
    known: Identifiers,
    *,
    dates: bool,
    megapixels: float,
) -> dict[str, str]:
    """Those facts of one original; what could name somebody by a keyed name, dates shifted or left out.

    Args:
        data: the original.
        names: of the facts.
        key: gives keyed names and the shift of dates.
        patient: own id of the patient.
        known: identifiers from the table and the path; those of a DICOM header are added here.
        dates: keep dates, shifted.
        megapixels: a larger image is not decoded.
    """
    if not names:
        return {}
    try:
        picture = read_image(data, max_megapixels=megapixels)
    except UnreadableImage:
        return {}
    if picture.format == "dicom":
        known = known.also(header_identifiers(data))
    facts = {}
    for name in names:
        text = str(getattr(picture, name, "")) if name in _PLAIN else ""
        text = picture.header.get(name.removeprefix("header_"), "") if name.startswith("header_") else text
        if not text:
            continue
        if name == "header_date":
            text = (date.fromisoformat(text) + timedelta(key.shift_days(patient))).isoformat() if dates else ""
        elif name in NAMED_FACTS:
            text = key.staff([text], NAMED_FACTS[name])[text]
        elif not _names_nobody(name, text, known):
            text = key.name(name, text, "N")
        facts[fact_column(name)] = text
    return facts


def _names_nobody(name: str, text: str, known: Identifiers) -> bool:
    """By the same rules as the texts of a DICOM header; numbers and what the file itself shows are kept."""
    if name not in _PLAIN:
        return False
    if name in {"header_software", "header_kernel"}:
        return is_version(text, known)
    if name in {"header_modality", "header_body_part", "header_view", "header_laterality"}:
        return is_defined(text)
    return may_stay(text, known) if name in {"header_manufacturer", "header_model", "header_lens"} else _is_plain(text)


def _is_plain(text: str) -> bool:
    """A number, or a short word of ours such as `jpeg` or `yes`."""
    return bool(re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?(/\d+)?|[a-z]{1,9}", text))
