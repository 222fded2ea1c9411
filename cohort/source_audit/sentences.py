"""The source audit in plain sentences: each section's own, and of all of them the few that a reader must see first."""

from __future__ import annotations

from typing import Any

from pellucid.cohort.source_audit.permutation_tests import MIN_PATIENTS, is_significant

MOST_SENTENCES = 18
_MOST_PER_SECTION = 4  # of those that stand first


def most_important(report: dict[str, Any]) -> dict[str, Any]:
    """`sections` (name → all its sentences, in reading order) and `sentences` (at most 18, the most important
    first)."""
    sections = {
        "images": _images(report),
        "sample_size": _sample_size(report),
        "factors": _factors(report),
        "associations": _associations(report),
        "images_per_patient": report["images_per_patient"]["sentences"],
        "quality": report["quality"]["sentences"],
        "calendar": report["calendar"]["sentences"],
        "missing": _missing(report),
        "duplicates": report["duplicates"]["sentences"],
        "privacy": [*report["privacy"]["sentences"], *report["burned_in"]["sentences"]],
        "splits": report["split_balance"]["sentences"],
    }
    first = [*sections["images"]]
    for name in ("sample_size", "duplicates", "associations", "quality", "images_per_patient", "privacy", "factors",
                 "missing", "calendar", "splits"):  # fmt: skip
        first += sections[name][:_MOST_PER_SECTION]
    shown = first[:MOST_SENTENCES]
    left = sum(len(said) for said in sections.values()) - len(shown)
    if left:
        shown.append(f"… and {left} more in the report and in source.json.")
    return {"sections": sections, "sentences": shown}


def _images(report: dict[str, Any]) -> list[str]:
    per = report["images_per_patient"]
    said = [
        f"{report['n_images']} images of {report['n_patients']} patients can be used ({per['min']} to {per['max']} "
        f"images a patient, median {per['median']:g})."
    ]
    if report["n_unreadable"]:
        n_files = report.get("n_unreadable_files", report["n_unreadable"])
        if n_files == report["n_unreadable"]:
            said.append(f"{n_files} of {report['n_files']} files could not be read and were quarantined.")
        else:
            said.append(
                f"{n_files} of {report['n_files']} files could not be read, or not all of their frames: "
                f"{report['n_unreadable']} images were quarantined."
            )
    if report["n_left_out"]:
        said.append(f"{report['n_left_out']} readable image(s) were left out because their patient is not known.")
    return said


def _sample_size(report: dict[str, Any]) -> list[str]:
    """Choices of the event come first, as one entry: a reader of the few first sentences must see them too."""
    chosen = " ".join(entry["sentence"] for entry in report["events"] if entry["sentence"])
    return [*([chosen] if chosen else []), *(size["sentence"] for size in report["sample_size"] if size["sentence"])]


def _factors(report: dict[str, Any]) -> list[str]:
    said, n = [], report["n_images"]
    apart = [f["name"] for f in report["factors"] if f["n_levels"] > 1 and f["patients_with_two_levels"] == 0]
    if apart:
        of_what = "it" if len(apart) == 1 else "any of these"
        said.append(
            f"{', '.join(apart)}: no patient was imaged at two levels of {of_what}. What differs between levels may be "
            "the patients as well as the way they were imaged, and this data set cannot tell the two apart."
        )
    for factor in report["factors"]:
        name = factor["name"]
        if factor["n_levels"] < 2:
            said.append(f"{name}: all images have the same level, so nothing can be said about it.")
            continue
        rare = [level["level"] for level in factor["levels"] if level["patients"] < MIN_PATIENTS]
        if rare:
            shown = ", ".join(rare[:4]) + (" …" if len(rare) > 4 else "")
            said.append(f"{name}: {len(rare)} level(s) have fewer than 10 patients ({shown}).")
        if factor["missing_images"]:
            said.append(f"{name}: not known for {factor['missing_images']} of {n} images.")
    new = [c["name"] for c in report["candidates"] if not c["same_as"]]
    if new:
        said.append(
            f"Headers also hold {', '.join(new[:6])}{' …' if len(new) > 6 else ''}, which study.yaml does not name: "
            "declare under `acquisition` what matters, and it is audited."
        )
    return said


def _associations(report: dict[str, Any]) -> list[str]:
    pairs = report["associations"]
    told = sorted(
        (p for p in pairs if is_significant(p)), key=lambda p: (p["role"] != "outcome", p["q_value"], -abs(p["value"]))
    )
    return [pair["sentence"] for pair in told]


def _missing(report: dict[str, Any]) -> list[str]:
    said = list(report["missingness"]["sentences"])
    for gap in report["missing"]:
        if gap["n_images"] and gap["role"] != "acquisition":
            said.append(
                f"{gap['variable']}: missing for {gap['n_images']} of {report['n_images']} images ({gap['n_patients']} "
                "patient(s))."
            )
    return said
