"""The source audit: who was imaged with what, before any model — counts, gaps and associations in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from cohort.association import associate
from cohort.patients import Patients
from cohort.study import Study, Variable

SCHEMA = "pellucid.source/1"
MAX_LEVELS_SHOWN = 30
MIN_PATIENTS = 10  # fewer say nothing of an association
ALPHA = 0.05
_MEASURES = {"cramers_v": "Cramér's V", "eta_squared": "η²", "spearman": "Spearman's ρ"}


def source_audit(study: Study, manifest: pd.DataFrame, problems: Sequence[str]) -> dict[str, Any]:
    """Count images and patients by everything that is known of how the images came to be.

    Args:
        study: names the variables.
        manifest: as `cohort.manifest` builds it.
        problems: sentences that the join gave.

    Returns:
        The content of `source.json` (schema `pellucid.source/1`).
    """
    usable = manifest[manifest["status"] == "ok"]
    unreadable = manifest[manifest["status"] == "unreadable"]
    factors = [v for v in study.variables if v.role == "acquisition"]
    clinical = [v for v in study.variables if v.role != "acquisition"]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "n_files": len(manifest),
        "n_images": len(usable),
        "n_patients": int(usable["patient"].nunique()),
        "images_per_patient": _spread(usable.groupby("patient").size()),
        "n_unreadable": len(unreadable),
        "unreadable": unreadable[["image_id", "reason"]].to_dict("records"),
        "n_left_out": int((manifest["status"] == "no_row").sum()),
        "factors": [_factor(usable, v) for v in factors],
        "associations": [_association(usable, c, f, study.config.split.seed) for c in clinical for f in factors],
        "missing": [_missing(usable, v) for v in study.variables],
        "burned_in": _burned_in(usable, factors),
        "findings": usable["findings"].str.split().explode().value_counts().to_dict(),
        "splits": {
            str(side): {"images": len(part), "patients": int(part["patient"].nunique())}
            for side, part in usable.groupby("split")
        },
        "problems": list(problems),
    }
    _judge(report["associations"])
    report["sentences"] = _sentences(report, len(usable))
    return report


def _spread(counts: pd.Series) -> dict[str, float]:
    return {"min": int(counts.min()), "median": float(counts.median()), "max": int(counts.max())}


def levels_of(values: pd.Series, variable: Variable) -> pd.Series:
    """The variable as levels: continuous ones, and ordinal ones of many values, by quartile."""
    if variable.kind in {"categorical", "binary"} or values.nunique() <= 8:
        return values.map(lambda v: None if pd.isna(v) else f"{v:g}" if isinstance(v, float) else str(v))
    binned = pd.qcut(values, 4, duplicates="drop")
    return binned.map(lambda b: f"{b.left:.4g}–{b.right:.4g}", na_action="ignore").astype(object)


def _judge(associations: list[dict[str, Any]]) -> None:
    """Benjamini–Hochberg over all pairs of the table, and a sentence for each association that stands."""
    tested = [a for a in associations if a["p_value"] is not None]
    if not tested:
        return
    for association, q in zip(tested, multipletests([a["p_value"] for a in tested], method="fdr_bh")[1], strict=True):
        association["q_value"] = float(q)
        if q <= ALPHA:
            word = _MEASURES[association["measure"]]
            association["sentence"] = (
                f"{association['acquisition']} goes together with {association['clinical']} before any model is asked "
                f"({word} {association['value']:.2f}, q = {q:.3f}, {association['n_patients']} patients): a model that sees "
                "the one will seem to see the other."
            )


def _factor(usable: pd.DataFrame, variable: Variable) -> dict[str, Any]:
    levels = levels_of(usable[variable.name], variable)
    groups = usable.groupby(levels)
    counts = pd.DataFrame({"images": groups.size(), "patients": groups["patient"].nunique()})
    counts = counts.sort_values("images", ascending=False)
    per_patient = levels.groupby(usable["patient"]).nunique()
    return {
        "name": variable.name,
        "kind": variable.kind,
        "n_levels": len(counts),
        "levels": [
            {"level": str(level), "images": int(row["images"]), "patients": int(row["patients"])}
            for level, row in counts.head(MAX_LEVELS_SHOWN).iterrows()
        ],
        "missing_images": int(levels.isna().sum()),
        "patients_with_two_levels": int((per_patient > 1).sum()),
    }


def _association(usable: pd.DataFrame, clinical: Variable, factor: Variable, seed: int) -> dict[str, Any]:
    by_clinical, by_factor = levels_of(usable[clinical.name], clinical), levels_of(usable[factor.name], factor)
    frame = pd.DataFrame({"patient": usable["patient"], "c": by_clinical, "f": by_factor}).dropna()
    table = frame.groupby(["f", "c"])["patient"].nunique().unstack(fill_value=0)
    found: dict[str, Any] = {"measure": "", "value": None, "p_value": None, "n_patients": frame["patient"].nunique()}
    if min(table.shape, default=0) >= 2 and found["n_patients"] >= MIN_PATIENTS:
        known = usable.loc[frame.index]
        found |= asdict(
            associate(
                *_side(known[clinical.name], clinical),
                *_side(known[factor.name], factor),
                Patients.of(known["patient"].to_numpy()),
                seed=seed,
            )
        )
    return found | {
        "clinical": clinical.name,
        "acquisition": factor.name,
        "table": {
            str(f): {str(c): int(n) for c, n in row.items()} for f, row in table.head(MAX_LEVELS_SHOWN).iterrows()
        },
    }


def _side(values: pd.Series, variable: Variable) -> tuple[NDArray[Any], int]:
    """Codes and how many levels there are; numbers and 0 for a variable whose order counts."""
    if variable.kind in {"categorical", "binary"}:
        codes, levels = pd.factorize(values, sort=True)
        return codes.astype(np.int64), len(levels)
    return values.to_numpy(dtype=np.float64), 0


def _missing(usable: pd.DataFrame, variable: Variable) -> dict[str, Any]:
    gaps = usable[usable[variable.name].isna()]
    return {
        "variable": variable.name,
        "role": variable.role,
        "n_images": len(gaps),
        "n_patients": int(gaps["patient"].nunique()),
    }


def _burned_in(usable: pd.DataFrame, factors: Sequence[Variable]) -> dict[str, Any]:
    marked = usable["text_like"]
    by_factor = []
    for variable in factors:
        levels = levels_of(usable[variable.name], variable)
        if levels.nunique() > MAX_LEVELS_SHOWN:
            continue
        shares = marked.groupby(levels).agg(["mean", "sum", "size"])
        by_factor.append(
            {
                "factor": variable.name,
                "levels": [
                    {"level": str(k), "images": int(r["size"]), "marked": int(r["sum"]), "share": float(r["mean"])}
                    for k, r in shares.iterrows()
                ],
            }
        )
    return {
        "detector": "rows of drawn characters (no reading)",
        "images": int(marked.sum()),
        "share": float(marked.mean()),
        "by_factor": by_factor,
    }


def _sentences(report: dict[str, Any], n: int) -> list[str]:
    per = report["images_per_patient"]
    said = [
        f"{n} images of {report['n_patients']} patients can be used ({per['min']} to {per['max']} images a patient, "
        f"median {per['median']:g})."
    ]
    if report["n_unreadable"]:
        said.append(f"{report['n_unreadable']} of {report['n_files']} files could not be read and were set aside.")
    if report["n_left_out"]:
        said.append(f"{report['n_left_out']} readable image(s) were left out because their patient is not known.")
    apart = [f["name"] for f in report["factors"] if f["n_levels"] > 1 and f["patients_with_two_levels"] == 0]
    if apart:
        of_what = "it" if len(apart) == 1 else "any of these"
        said.append(
            f"{', '.join(apart)}: no patient was imaged at two levels of {of_what}. What differs between levels may be the "
            "patients as well as the way they were imaged, and this data set cannot tell the two apart."
        )
    for factor in report["factors"]:
        name = factor["name"]
        if factor["n_levels"] < 2:
            said.append(f"{name}: all images have the same level, so nothing can be said about it.")
            continue
        rare = [level["level"] for level in factor["levels"] if level["patients"] < 10]
        if rare:
            shown = ", ".join(rare[:4]) + (" …" if len(rare) > 4 else "")
            said.append(f"{name}: {len(rare)} level(s) have fewer than 10 patients ({shown}).")
        if factor["missing_images"]:
            said.append(f"{name}: not known for {factor['missing_images']} of {n} images.")
    for gap in report["missing"]:
        if gap["n_images"] and gap["role"] != "acquisition":
            said.append(
                f"{gap['variable']}: missing for {gap['n_images']} of {n} images ({gap['n_patients']} patient(s))."
            )
    burned = report["burned_in"]
    if burned["images"]:
        said.append(
            f"Text-like marks are burned into about {burned['share']:.0%} of the images ({burned['images']} of {n}); "
            "a model can read the device or the view from them."
        )
        for entry in burned["by_factor"] if burned["images"] >= MIN_PATIENTS else []:
            shares = [level["share"] for level in entry["levels"] if level["images"] >= 10]
            if len(shares) > 1 and max(shares) - min(shares) >= 0.1:
                shown = ", ".join(
                    f"{level['level']} {level['share']:.0%}" for level in entry["levels"] if level["images"] >= 10
                )
                said.append(f"The share of images with burned-in marks differs by {entry['factor']}: {shown}.")
    for association in report["associations"]:
        if association.get("sentence"):
            said.append(association["sentence"])
    return said
