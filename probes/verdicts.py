"""From numbers to a verdict and one plain sentence, by fixed rules that docs/audit.md repeats.

The last step of the audit. Reads finished numbers only; a sentence is never stronger than they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALPHA = 0.05
ACCUSING = ("explained_by_acquisition", "confounded_survives", "cannot_be_separated")

METRIC_NAMES = {
    "auroc": "AUROC",
    "macro_auroc": "macro AUROC",
    "spearman": "Spearman correlation",
    "concordance": "concordance",
}
MEASURE_NAMES = {"cramers_v": "Cramér's V", "eta_squared": "η²", "spearman": "Spearman correlation"}

Row = Mapping[str, Any]


def is_shown(row: Row) -> bool:
    """Predicted beyond chance: q ≤ 0.05 and the 95 % interval is above chance."""
    return row["score"] is not None and row["q_value"] <= ALPHA and row["ci_low"] > row["chance"]


def is_associated(association: Row) -> bool:
    return association["value"] is not None and association["q_value"] <= ALPHA


def is_gone(beyond: Row, whole: Row) -> bool:
    """Not shown within levels, and the interval excludes the score of the whole cohort, so lack of power is not the
    reason."""
    return beyond["score"] is not None and not is_shown(beyond) and beyond["ci_high"] < whole["score"]


def decide(clinical: Row, acquisition: Row, pair: Row) -> str:
    """The verdict of a pair from its finished rows (q-values assigned)."""
    if clinical["score"] is None or acquisition["score"] is None or pair["association"]["value"] is None:
        return "too_few_patients"
    associated = is_associated(pair["association"])
    if not is_shown(acquisition):
        return "associated_not_encoded" if associated else "not_associated_not_encoded"
    if not is_shown(clinical):
        return "clinical_not_encoded"
    if not associated:
        return "encoded_not_confounded"
    clinical_beyond, acquisition_beyond = pair["clinical_beyond_acquisition"], pair["acquisition_beyond_clinical"]
    if is_shown(clinical_beyond):
        if is_gone(acquisition_beyond, acquisition):
            return "acquisition_read_through_clinical"
        return "confounded_survives"
    if is_gone(clinical_beyond, clinical) and is_shown(acquisition_beyond):
        return "explained_by_acquisition"
    return "cannot_be_separated"


def figure(row: Row) -> str:
    """A score with its interval, for people: AUROC 0.81 (0.75 to 0.86)."""
    return f"{METRIC_NAMES[row['metric']]} {row['score']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"


def _strength(association: Row) -> str:
    return f"{MEASURE_NAMES[association['measure']]} {association['value']:.2f}, q {association['q_value']:.3f}"


def _beyond(row: Row) -> str:
    """The score within levels, or the reason why there is none."""
    if row["score"] is None:
        return str(row["note"])
    shown = f"{figure(row)}, q {row['q_value']:.3f}"
    return shown if is_shown(row) else f"{shown}; {_power(row)}"


def _power(row: Row) -> str:
    """How much a result that is not significant means."""
    if row["score"] >= row["detectable"]:
        return "inconclusive: a score this high is usually significant where there is an effect"
    return f"a score of at least {row['detectable']:.2f} would have been detected with about 80 % power"


def _unread(row: Row) -> str:
    return f"{figure(row)}, q {row['q_value']:.3f}; {_power(row)}"


def sentence(verdict: str, clinical: Row, acquisition: Row, pair: Row) -> str:
    """One plain sentence (two at most) for the verdict, with the numbers it rests on."""
    y, z = clinical["name"], acquisition["name"]
    beyond = pair["clinical_beyond_acquisition"]
    if verdict == "too_few_patients":
        which = next((row for row in (clinical, acquisition) if row["score"] is None), None)
        reason = f"{which['name']}: {which['note']}" if which else f"{y} with {z}: {pair['association']['note']}"
        return f"Inconclusive for {y} and {z}: {reason}"
    strength = _strength(pair["association"])
    if verdict == "not_associated_not_encoded":
        return (
            f"No evidence of an association between {z} and {y} ({strength}), and no evidence that {z} can be "
            f"predicted from the embedding ({_unread(acquisition)})."
        )
    if verdict == "associated_not_encoded":
        return (
            f"{z} is associated with {y} in this cohort ({strength}), but there is no evidence that it can be "
            f"predicted from the embedding ({_unread(acquisition)})."
        )
    if verdict == "clinical_not_encoded":
        return (
            f"The embedding encodes {z} ({figure(acquisition)}), but there is no evidence that {y} can be predicted "
            f"from it ({_unread(clinical)})."
        )
    if verdict == "encoded_not_confounded":
        return (
            f"The embedding encodes both {y} ({figure(clinical)}) and {z} ({figure(acquisition)}), but there is no "
            f"evidence that they are associated in this cohort ({strength}), and so none that {y} is predicted through "
            f"{z}. A weak association may have been missed."
        )
    opening = f"{z} is associated with {y} in this cohort ({strength}) and is encoded ({figure(acquisition)}). "
    if verdict == "confounded_survives":
        return (
            f"{opening}Among patients of the same {z}, {y} can still be predicted ({_beyond(beyond)}; "
            f"{clinical['score']:.2f} in the whole cohort)."
        )
    if verdict == "acquisition_read_through_clinical":
        return (
            f"{opening}But among patients of the same {y}, there is no evidence that {z} can be predicted "
            f"({_beyond(pair['acquisition_beyond_clinical'])}), while {y} can be predicted among patients of the same "
            f"{z} ({figure(beyond)}): {z} appears to be predicted through {y}."
        )
    if verdict == "explained_by_acquisition":
        return (
            f"{opening}Among patients of the same {z}, there is no evidence that {y} can be predicted "
            f"({_beyond(beyond)}), compared with {figure(clinical)} in the whole cohort: the prediction of {y} is "
            f"explained by {z}."
        )
    return (
        f"{opening}{y} can be predicted in the whole cohort ({figure(clinical)}), but these patients do not show "
        f"whether {y} or {z} is the reason: among patients of the same {z}, {_beyond(beyond)}."
    )
