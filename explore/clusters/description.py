"""Description of clusters for a clinician: typical images, appearance, patients, associations with variables.

Arrays and frames in, plain dicts out; the patient is the unit throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pellucid.cohort.identifiers import shareable
from pellucid.cohort.statistics import Patients, assign_q_values, associate, forget_orders
from pellucid.cohort.study import Variable
from pellucid.explore.wording import level_text, listing, phenotype_words, readable_name

_SEEN = 0.5  # standardised difference that is likely to be visible


def medoids(
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    patients: pd.Series,
    n: int = 6,
    allowed: NDArray[np.bool_] | None = None,
) -> list[int]:
    """The most typical images of a cluster, each of another patient: rows nearest to its mean direction.

    Args:
        vectors: (images, d) of length 1.
        rows: rows of the cluster.
        patients: patient of each image.
        n: at most so many.
        allowed: (images,) which images may be chosen; None: all.
    """
    centre = vectors[rows].mean(axis=0)
    nearest = rows[np.argsort(-(vectors[rows] @ centre), kind="stable")]
    if allowed is not None:
        nearest = nearest[allowed[nearest]]
    first = ~patients.iloc[nearest].duplicated().to_numpy()
    return [int(row) for row in nearest[first][:n]]


def looks(frame: pd.DataFrame, inside: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How a cluster differs from the rest in each phenotype: standardised difference of patient means (Cohen's d).

    Args:
        frame: `patient` and the `phenotype_*` columns, one row per image.
        inside: (n,) whether the image belongs to the cluster.

    Returns:
        `{phenotype, difference, mean, mean_rest, words}`, the largest difference first; `words` is "" where the
        difference is too small to be visible.
    """
    names = [c for c in frame.columns if str(c).startswith("phenotype_")]
    numbers = frame[names].apply(pd.to_numeric, errors="coerce")
    within = numbers[inside].groupby(frame.loc[inside, "patient"]).mean()
    rest = numbers[~inside].groupby(frame.loc[~inside, "patient"]).mean()
    found: list[dict[str, Any]] = []
    for name in names:
        a, b = within[name].dropna(), rest[name].dropna()
        if len(a) < 3 or len(b) < 3:
            continue
        pooled = ((len(a) - 1) * a.var() + (len(b) - 1) * b.var()) / (len(a) + len(b) - 2)
        if not pooled > 0:
            continue
        d = float((a.mean() - b.mean()) / np.sqrt(pooled))
        found.append(
            {
                "phenotype": name.removeprefix("phenotype_"),
                "difference": d,
                "mean": float(a.mean()),
                "mean_rest": float(b.mean()),
                "words": phenotype_words(name, d) if abs(d) >= _SEEN else "",
            }
        )
    return sorted(found, key=lambda item: -abs(item["difference"]))


def top_levels(frame: pd.DataFrame, inside: NDArray[np.bool_], variables: Sequence[Variable]) -> list[dict[str, Any]]:
    """For each variable with levels, the most frequent level of the cluster, with its share inside and overall.

    Shares weigh patients, not images: within the cluster each patient counts once.
    """
    found = []
    for variable in variables:
        if variable.kind == "continuous" or variable.name not in frame:
            continue
        shares = _patient_shares(frame[inside], variable.name)
        if shares.empty:
            continue
        level = str(shares.idxmax())
        overall = _patient_shares(frame, variable.name)
        found.append(
            {
                "variable": variable.name,
                "role": variable.role,
                "level": level,
                "share": float(shares[level]),
                "share_overall": float(overall[level]),
            }
        )
    return found


def _patient_shares(frame: pd.DataFrame, name: str) -> pd.Series:
    known = frame[frame[name].notna()]
    weight = 1 / known.groupby("patient")["patient"].transform("size")
    total = weight.groupby(known[name].map(level_text)).sum()
    return total / total.sum() if len(total) else total


def associations(
    frame: pd.DataFrame, cluster: NDArray[np.int64], variables: Sequence[Variable]
) -> list[dict[str, Any]]:
    """Whether the clusters are associated with each variable, each patient weighing 1; q over all variables tested.

    The test is that of source audit and audit (`pellucid.cohort.statistics.associate`). Images without a cluster count
    as one more group, so that a device whose images fit nowhere is seen.

    Args:
        frame: `patient` and the variables, one row per image.
        cluster: (n,) cluster numbers, -1 for none.
    """
    patients = Patients.from_ids(frame["patient"].to_numpy(str))
    numbers, groups = np.unique(cluster, return_inverse=True)
    found: list[dict[str, Any]] = []
    for variable in variables:
        if variable.name not in frame:
            continue
        values = frame[variable.name]
        numeric = pd.to_numeric(values, errors="coerce").to_numpy(float)
        ranked = variable.kind == "continuous" or (
            variable.kind == "ordinal" and not np.isnan(numeric[values.notna()]).any()
        )
        item: dict[str, Any] = {"variable": variable.name, "role": variable.role, "kind": variable.kind}
        if ranked and not np.isfinite(numeric[values.notna()]).all():
            item |= {
                "measure": "",
                "value": None,
                "p_value": None,
                "n_patients": patients.count(values.notna().to_numpy()),
            }
            found.append(item | {"note": "some values are not numbers"})
            continue
        codes, levels = pd.factorize(values.map(level_text, na_action="ignore"))
        named = () if ranked else tuple(map(str, levels))
        strength = associate(numeric if ranked else codes, named, groups, tuple(map(str, numbers)), patients)
        item |= {key: getattr(strength, key) for key in ("measure", "value", "p_value", "n_patients", "note")}
        found.append(item)
    assign_q_values(found)
    forget_orders()
    return found


def describe(
    frame: pd.DataFrame,
    vectors: NDArray[np.float32],
    cluster: NDArray[np.int64],
    variables: Sequence[Variable],
) -> list[dict[str, Any]]:
    """One dict per cluster: size, patients, the largest share of one patient, medoids, appearance and most frequent
    levels. Medoids are chosen among the images that may be shown.

    Args:
        frame: image_id, patient, phenotypes and variables; one row per image, in the order of `vectors`.
        vectors: (n, d) of length 1.
        cluster: (n,) cluster numbers, -1 for none.
    """
    found = []
    allowed = shareable(frame).to_numpy()
    for number in sorted(set(cluster[cluster >= 0].tolist())):
        inside = cluster == number
        rows = np.flatnonzero(inside)
        per_patient = frame["patient"].iloc[rows].value_counts()
        typical = medoids(vectors, rows, frame["patient"], allowed=allowed)
        look = looks(frame, inside)
        seen = [item["words"] for item in look if item["words"]][:3]
        found.append(
            {
                "cluster": int(number),
                "n_images": len(rows),
                "n_patients": len(per_patient),
                "largest_patient_share": float(per_patient.iloc[0] / len(rows)),
                "medoids": frame["image_id"].iloc[typical].astype(str).tolist(),
                "looks": seen,
                "phenotypes": look,
                "top_levels": top_levels(frame, inside, variables),
            }
        )
    return found


def association_sentences(tested: Sequence[dict[str, Any]]) -> list[str]:
    """Variables with and without an association with the clusters; untested variables are named."""
    groups: dict[str, list[str]] = {}
    for item in sorted(tested, key=lambda item: -(item["value"] or 0)):
        groups.setdefault(_strength_word(item), []).append(readable_name(str(item["variable"])))
    found = [
        f"Clusters are {how} associated with {listing(groups[how])}."
        for how in ("strongly", "moderately", "weakly")
        if how in groups
    ]
    if "not" in groups:
        found.append(f"No association between clusters and {listing(groups['not'])} was found.")
    untested = [
        f"{readable_name(str(item['variable']))} ({item['note']})" for item in tested if item["p_value"] is None
    ]
    return found + ([f"Not tested: {listing(untested)}."] if untested else [])


def _strength_word(item: dict[str, Any]) -> str:
    if item["p_value"] is None:
        return "untested"
    if item["q_value"] is None or item["q_value"] > 0.05:
        return "not"
    strong, moderate = (0.5, 0.2) if item["measure"] == "cramers_v" else (0.26, 0.06)  # Cohen 1988, rounded
    return "strongly" if item["value"] >= strong else "moderately" if item["value"] >= moderate else "weakly"
