"""Privacy findings of the scan, counted: what may name a person, and text burned into the pixels, per device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pellucid.cohort.identifiers.findings import IDENTITY
from pellucid.cohort.source_audit.columns import MAX_LEVELS_SHOWN, Column, SourceColumns
from pellucid.cohort.source_audit.permutation_tests import MIN_PATIENTS

_NAMING = IDENTITY | {"exif_gps", "exif_owner", "face"}
_WORD = re.compile(r"[^\W\d_]{3,}")
_WORDS_SHOWN = 12
DETECTORS = {"lines": "found by its form, not read", "ocr": "read by text recognition (OCR)"}


def privacy(cohort: SourceColumns, faces: bool = False) -> dict[str, Any]:
    """Images and patients with each kind of finding; `faces`: whether faces were looked for."""
    if "findings" not in cohort.images:
        return {"findings": [], "n_images": 0, "n_patients": 0, "faces_looked_for": faces, "sentences": []}
    text = cohort.images["findings"].astype(object).where(cohort.images["findings"].notna(), "").astype(str)
    codes, combinations = pd.factorize(text)
    words = sorted({word for combination in combinations for word in combination.split()})
    found = []
    for word in words:
        rows = np.isin(codes, [i for i, combination in enumerate(combinations) if word in combination.split()])
        found.append({"finding": word, "images": int(rows.sum()), "patients": cohort.patients.count(rows)})
    found.sort(key=lambda entry: (-entry["images"], entry["finding"]))
    some = (text.str.strip() != "").to_numpy()
    naming = np.isin(codes, [i for i, combination in enumerate(combinations) if _NAMING & set(combination.split())])
    report = {
        "findings": found,
        "n_images": int(some.sum()),
        "n_patients": cohort.patients.count(some),
        "n_images_naming": int(naming.sum()),
        "n_patients_naming": cohort.patients.count(naming),
        "faces_looked_for": faces,
    }
    said = []
    if naming.any():
        said.append(
            f"{report['n_images_naming']} image(s) of {report['n_patients_naming']} patient(s) name a person, or lead "
            f"to one, in header, file name or picture ({_listed([f for f in found if f['finding'] in _NAMING])}): "
            "de-identify before sharing."
        )
    others = [f for f in found if f["finding"] not in _NAMING]
    if others:
        also = " also" if said else ""
        said.append(f"What may name a person, or narrow down who it is,{also} stands in: {_listed(others)}.")
    said.append("Faces were looked for." if faces else "Faces were not looked for (scan.faces=true does).")
    return report | {"sentences": said}


def _listed(found: Sequence[dict[str, Any]]) -> str:
    shown = ", ".join(f"{f['finding'].replace('_', ' ')} {f['images']}" for f in found[:5])
    return shown + (" …" if len(found) > 5 else "")


def burned_in(cohort: SourceColumns, detector: str) -> dict[str, Any]:
    """Share of images with text in the pixels, overall and per level of each acquisition factor."""
    marked = np.zeros(len(cohort.images), dtype=bool)
    if "text_like" in cohort.images:
        marked = cohort.images["text_like"].fillna(False).to_numpy(dtype=bool)
    by_factor = []
    for column in cohort.with_role("acquisition"):
        if 0 < len(column.shown_levels) <= MAX_LEVELS_SHOWN:
            by_factor.append({"factor": column.name, "levels": _shares(cohort, column, marked)})
    report = {
        "detector": DETECTORS.get(detector, detector),
        "images": int(marked.sum()),
        "patients": cohort.patients.count(marked),
        "share": float(marked.mean()),
        "by_factor": by_factor,
        "words": _words(cohort),
    }
    return report | {"sentences": _burned_sentences(report, len(marked))}


def _words(cohort: SourceColumns) -> list[dict[str, Any]]:
    """Words that OCR read on images of at least ten patients, most patients first; rarer ones may be names.

    They are in source.json only: a word that all images share may still be the name of an operator or a hospital.
    """
    if "text_read" not in cohort.images:
        return []
    read = cohort.images["text_read"].fillna("").astype(str).str.upper()
    each = pd.DataFrame(
        {"patient": cohort.images["patient"], "word": read.map(lambda t: sorted(set(_WORD.findall(t))))}
    )
    each = each.explode("word").dropna(subset="word")
    counts = each.groupby("word").agg(images=("patient", "size"), patients=("patient", "nunique"))
    counts = counts[counts["patients"] >= MIN_PATIENTS].sort_values(["patients", "images"], ascending=False)
    return [
        {"word": str(word), "images": int(row["images"]), "patients": int(row["patients"])}
        for word, row in counts.head(_WORDS_SHOWN).iterrows()
    ]


def _shares(cohort: SourceColumns, column: Column, marked: np.ndarray[Any, np.dtype[np.bool_]]) -> list[dict[str, Any]]:
    levels = []
    for code, level in enumerate(column.shown_levels):
        rows = column.shown == code
        n, with_text = int(rows.sum()), int(marked[rows].sum())
        levels.append({"level": level, "images": n, "marked": with_text, "share": with_text / n})
    return levels


def _burned_sentences(report: dict[str, Any], n: int) -> list[str]:
    if not report["images"]:
        return []
    said = [
        f"Text-like marks are burned into about {report['share']:.0%} of the images ({report['images']} of {n}; "
        f"{report['detector']}); a model can read the device or the view from them."
    ]
    if report["images"] >= MIN_PATIENTS:
        for entry in report["by_factor"]:
            said += _differing(entry["factor"], [level for level in entry["levels"] if level["images"] >= 10])
    return said


def _differing(factor: str, levels: Sequence[dict[str, Any]]) -> list[str]:
    shares = [level["share"] for level in levels]
    if len(shares) < 2 or max(shares) - min(shares) < 0.1:
        return []
    shown = ", ".join(f"{level['level']} {level['share']:.0%}" for level in levels)
    return [f"The share of images with burned-in marks differs by {factor}: {shown}."]
