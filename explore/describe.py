"""What a cluster is, in a clinician's words: its typical images, how it looks, who is in it, what it goes with.

Between the map (`clusters.py`) and the eyes. Arrays and frames in, plain dicts out; the patient is the unit throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from cohort.study import Variable
from explore.words import humane, phenotype_words, plain
from probes.patients import PatientPermutations, Patients

FEWEST_PATIENTS = 10  # under this an association is not a number (DESIGN §6.3)
_SEEN = 0.5  # standardised difference from which the eye is likely to notice
_CHUNK_ELEMENTS = 2_000_000


def medoids(vectors: NDArray[np.float32], rows: NDArray[np.int64], patients: pd.Series, n: int = 6) -> list[int]:
    """The most typical images of a cluster, each of another patient: rows nearest to its mean direction."""
    centre = vectors[rows].mean(axis=0)
    nearest = rows[np.argsort(-(vectors[rows] @ centre), kind="stable")]
    first = ~patients.iloc[nearest].duplicated().to_numpy()
    return [int(row) for row in nearest[first][:n]]


def looks(frame: pd.DataFrame, inside: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How a cluster differs from the rest in each phenotype: standardised difference of patient means (Cohen's d).

    Args:
        frame: `patient` and the `phenotype_*` columns, one row per image.
        inside: (n,) whether the image belongs to the cluster.

    Returns:
        `{phenotype, difference, mean, mean_rest, words}`, the largest difference first; `words` is "" where the
        difference is too small for the eye.
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
    """For each variable with levels, the level that most of the cluster has, beside its share of everything.

    Shares weigh patients, not images: within the cluster each patient counts once.
    """
    found = []
    for variable in variables:
        if variable.kind == "continuous" or variable.name not in frame:
            continue
        shares = _patient_shares(frame[inside], variable.name)
        if shares.empty:
            continue
        level = shares.idxmax()
        overall = _patient_shares(frame, variable.name)
        found.append(
            {
                "variable": variable.name,
                "role": variable.role,
                "level": plain(level),
                "share": float(shares[level]),
                "share_overall": float(overall[level]),
            }
        )
    return found


def _patient_shares(frame: pd.DataFrame, name: str) -> pd.Series:
    known = frame[frame[name].notna()]
    weight = 1 / known.groupby("patient")["patient"].transform("size")
    total = weight.groupby(known[name].astype(str)).sum()
    return total / total.sum() if len(total) else total


def associations(
    frame: pd.DataFrame,
    cluster: NDArray[np.int64],
    variables: Sequence[Variable],
    permutations: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Whether clusters go with each variable: Cramér's V or η², p by permutation of whole patients, q over all of them.

    Every patient weighs 1, however many images she has. V is corrected for bias (Bergsma, J Korean Stat Soc 2013);
    η² is 1 − within / total sum of squares, with its expectation under no association taken off (ε²). Images without
    a cluster count as one more group, so that a device whose images fit nowhere is seen.
    """
    found: list[dict[str, Any]] = []
    for number, variable in enumerate(variables):
        if variable.name not in frame:
            continue
        known = frame[variable.name].notna().to_numpy()
        item: dict[str, Any] = {
            "variable": variable.name,
            "role": variable.role,
            "kind": variable.kind,
            "measure": "",
            "value": None,
            "p_value": None,
            "q_value": None,
            "n_patients": int(frame.loc[known, "patient"].nunique()),
            "note": "",
        }
        found.append(item)
        values = frame.loc[known, variable.name]
        if item["n_patients"] < FEWEST_PATIENTS:
            item["note"] = f"too few patients ({item['n_patients']})"
        elif values.nunique() < 2:
            item["note"] = "one level only"
        elif len(np.unique(cluster[known])) < 2:
            item["note"] = "fewer than two groups"
        else:
            numeric = variable.kind == "continuous" or (
                variable.kind == "ordinal" and pd.to_numeric(values, errors="coerce").notna().all()
            )
            patients = Patients.of(frame.loc[known, "patient"].to_numpy(str))
            groups = np.unique(cluster[known], return_inverse=True)[1].astype(np.int64)
            coded = (
                pd.to_numeric(values, errors="coerce").to_numpy(float)
                if numeric
                else np.unique(values.astype(str).to_numpy(), return_inverse=True)[1].astype(float)
            )
            if not np.isfinite(coded).all():
                item["note"] = "some values are not numbers"
                continue
            item["measure"] = "eta_squared" if numeric else "cramers_v"
            item["value"], item["p_value"] = _strength(coded, groups, patients, numeric, permutations, seed + number)
    tested = [item for item in found if item["p_value"] is not None]
    if tested:
        q_values = false_discovery_control([item["p_value"] for item in tested])
        for item, q in zip(tested, q_values, strict=True):
            item["q_value"] = float(q)
    return found


def _strength(
    values: NDArray[np.float64],
    groups: NDArray[np.int64],
    patients: Patients,
    numeric: bool,
    permutations: int,
    seed: int,
) -> tuple[float, float]:
    """(measure, p) of one variable. The null permutes the very statistic that is reported."""
    weights = patients.weights
    n_groups = int(groups.max()) + 1
    n_levels = 0 if numeric else int(values.max()) + 1

    def statistic(drawn: NDArray[np.float64]) -> NDArray[np.float64]:  # (draws, n) → (draws,)
        draws = len(drawn)
        offset = np.arange(draws)[:, None] * n_groups
        if numeric:
            repeated = np.broadcast_to(weights, drawn.shape)
            cell = (offset + groups).ravel()
            sums = np.bincount(cell, (repeated * drawn).ravel(), draws * n_groups).reshape(draws, n_groups)
            mass = np.bincount(groups, weights, n_groups)
            total = (repeated * drawn**2).sum(axis=1) - sums.sum(axis=1) ** 2 / mass.sum()
            between = (sums**2 / mass).sum(axis=1) - sums.sum(axis=1) ** 2 / mass.sum()
            return np.asarray(between / np.maximum(total, 1e-12))
        cell = ((offset + groups) * n_levels + drawn.astype(np.int64)).ravel()
        table = np.bincount(cell, np.broadcast_to(weights, drawn.shape).ravel(), draws * n_groups * n_levels)
        table = table.reshape(draws, n_groups, n_levels)
        rows, columns = table.sum(axis=2, keepdims=True), table.sum(axis=1, keepdims=True)
        expected = rows * columns / table.sum(axis=(1, 2), keepdims=True)
        return np.asarray(((table - expected) ** 2 / np.maximum(expected, 1e-12)).sum(axis=(1, 2)) / patients.n_patients)

    observed = float(statistic(values[None, :])[0])
    block = np.zeros(patients.n_patients, dtype=np.int64)
    plan = PatientPermutations.plan(patients, values, block, np.zeros(len(values), dtype=np.int64))
    chunk = max(1, _CHUNK_ELEMENTS // len(values))
    null = np.concatenate([statistic(values[source]) for source in plan.draw(permutations, seed, chunk)])
    p = (1 + int((null >= observed - 1e-9).sum())) / (permutations + 1)
    n = patients.n_patients
    if numeric:
        free = n - n_groups
        epsilon = 1 - (1 - observed) * (n - 1) / free if free > 0 else 0.0
        return max(0.0, epsilon), p
    corrected = max(0.0, observed - (n_groups - 1) * (n_levels - 1) / (n - 1))
    side = min(n_groups - (n_groups - 1) ** 2 / (n - 1), n_levels - (n_levels - 1) ** 2 / (n - 1)) - 1
    return (float(np.sqrt(min(1.0, corrected / side))) if side > 0 else 0.0), p


def describe(
    frame: pd.DataFrame,
    vectors: NDArray[np.float32],
    cluster: NDArray[np.int64],
    variables: Sequence[Variable],
) -> list[dict[str, Any]]:
    """One dict per cluster: size, patients, the largest share of one patient, medoids, looks, and who it consists of.

    Args:
        frame: image_id, patient, phenotypes and variables; one row per image, in the order of `vectors`.
        vectors: (n, d) of length 1.
        cluster: (n,) cluster numbers, -1 for none.
    """
    found = []
    for number in sorted(set(cluster[cluster >= 0].tolist())):
        inside = cluster == number
        rows = np.flatnonzero(inside)
        per_patient = frame["patient"].iloc[rows].value_counts()
        look = looks(frame, inside)
        seen = [item["words"] for item in look if item["words"]][:3]
        found.append(
            {
                "cluster": int(number),
                "n_images": len(rows),
                "n_patients": len(per_patient),
                "largest_patient_share": float(per_patient.iloc[0] / len(rows)),
                "medoids": [str(frame["image_id"].iloc[row]) for row in medoids(vectors, rows, frame["patient"])],
                "looks": seen,
                "phenotypes": look,
                "top_levels": top_levels(frame, inside, variables),
            }
        )
    return found


def association_sentence(item: dict[str, Any]) -> str:
    """One association in a sentence, never stronger than its numbers."""
    name = humane(str(item["variable"]))
    if item["p_value"] is None:
        return f"{name}: {item['note']}."
    strength = float(item["value"])
    strong = 0.5 if item["measure"] == "cramers_v" else 0.26
    weak = 0.1 if item["measure"] == "cramers_v" else 0.01
    if item["q_value"] is not None and item["q_value"] > 0.05:
        return f"No association between clusters and {name} was found in {item['n_patients']} patients."
    how = "strongly" if strength >= strong else "moderately" if strength >= 2 * weak else "weakly"
    return f"Clusters go {how} with {name}."
