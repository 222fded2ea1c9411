"""Duplicates as the scan marked them: how many, and which lie across patients or splits and must be looked at."""

from __future__ import annotations

from typing import Any

import pandas as pd

KINDS = ("exact", "pixels", "near")
_MOST_GROUPS = 50
_WORDS = {"exact": "byte-identical", "pixels": "identical in their pixels", "near": "nearly the same"}


def duplicates(usable: pd.DataFrame) -> dict[str, Any]:
    """Counts by kind, and every group that crosses patients or sides of the split, by research id."""
    marked = _grouped(usable)
    groups = marked.groupby("group", sort=True).agg(
        images=("patient", "size"),
        patients=("patient", lambda s: sorted(set(s))),
        sides=("split", lambda s: sorted(set(s))),
        kind=("kind", lambda s: max(s, key=lambda kind: (*KINDS, "").index(kind) if kind else -1)),
    )
    groups = groups[groups["images"] > 1]
    crossing = groups[groups["patients"].map(len) > 1]
    torn = groups[groups["sides"].map(len) > 1]
    copies = marked[marked["copy"]]
    report: dict[str, Any] = {
        "copies": {kind: int((copies["kind"] == kind).sum()) for kind in KINDS},
        "n_copies": len(copies),
        "n_groups": len(groups),
        "largest_group": int(groups["images"].max()) if len(groups) else 0,
        "n_across_patients": len(crossing),
        "n_across_splits": len(torn),
        "to_look_at": [
            {
                "patients": row["patients"][:10],
                "splits": row["sides"],
                "images": int(row["images"]),
                "kind": row["kind"],
            }
            for _, row in pd.concat([crossing, torn.drop(crossing.index, errors="ignore")])
            .head(_MOST_GROUPS)
            .iterrows()
        ],
        **_questions(usable),
    }
    return report | {"sentences": _sentences(report)}


def _questions(usable: pd.DataFrame) -> dict[str, Any]:
    """Pairs of two patients that may or may not be copies: their number, and the first ones by research id."""
    if "duplicate_question" not in usable:  # a scan of an earlier version
        return {"n_questions": 0, "to_ask": []}
    asked = usable[["patient", "duplicate_question"]].fillna("").astype(str)
    asked = asked[asked["duplicate_question"] != ""]
    pairs = asked.assign(pair=asked["duplicate_question"].str.split()).explode("pair").groupby("pair")["patient"]
    whose = [sorted(set(who)) for _, who in pairs if who.nunique() > 1]  # one of a pair may have been withdrawn
    return {"n_questions": len(whose), "to_ask": whose[:_MOST_GROUPS]}


def _grouped(usable: pd.DataFrame) -> pd.DataFrame:
    """Rows that belong to a duplicate group: group, kind, patient, split, and whether the row is a copy of another."""

    def text(name: str) -> pd.Series:
        if name not in usable:
            return pd.Series("", index=usable.index, dtype=object)
        return usable[name].astype(object).where(usable[name].notna(), "").astype(str)

    original, kind, group = text("duplicate_of"), text("duplicate_kind"), text("duplicate_group")
    if "duplicate_group" not in usable:  # the group is all that copy one image, and that image
        copied = usable["image_id"].astype(str)
        group = original.where(original != "", copied.where(copied.isin(set(original) - {""}), ""))
    kind = kind.where(kind != "", (original != "").map({True: "exact", False: ""}))
    frame = pd.DataFrame({"group": group, "kind": kind, "copy": original != ""})
    frame["patient"], frame["split"] = usable["patient"], usable["split"]
    return frame[frame["group"] != ""]


def _sentences(report: dict[str, Any]) -> list[str]:
    said = []
    if report["n_across_patients"]:
        first = report["to_look_at"][0]
        said.append(
            f"{report['n_across_patients']} group(s) of duplicate images lie across different patients (the first: "
            f"{', '.join(first['patients'][:3])}). Please check whether an image was stored twice or two ids are one "
            "person."
        )
    if report["n_across_splits"]:
        said.append(
            f"{report['n_across_splits']} group(s) of duplicate images lie on both sides of the split: what is tested "
            "there was seen in training."
        )
    if report["n_questions"]:
        said.append(
            f"{report['n_questions']} pair(s) of images of different patients are very alike, but not clearly copies "
            f"(the first: {' and '.join(report['to_ask'][0])}). Are they the same image? They bind no patients to one "
            "side of the split."
        )
    if report["n_groups"]:
        kinds = ", ".join(f"{n} {_WORDS[kind]}" for kind, n in report["copies"].items() if n)
        said.append(
            f"{report['n_copies']} image(s) are duplicates of another ({kinds}), in {report['n_groups']} group(s); "
            "none was dropped."
        )
    return said
