"""What the audit says of each pair beyond the verdict: a change of level, what neighbours share, remedies. As tables.

Between audit.json and the pages; report and explorer show the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.explore import wording

_REMEDIES = {
    "leace": "LEACE",
    "residual": "Linear residuals",
    "combat": "ComBat",
    "reweighted": "Reweighted patients",
    "matched": "Matched patients",
}
Pair = Mapping[str, Any]


@dataclass(frozen=True)
class FurtherTable:
    """One table: what it asks, how to read it, and its rows."""

    key: str
    title: str
    lead: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def further_tables(pairs: Sequence[Pair], text_masked: Mapping[str, Any] | None = None) -> list[FurtherTable]:
    """Those of the five that have a row; none for an audit that was asked to leave them out.

    Args:
        pairs: of audit.json.
        text_masked: its `text_masked`, where the pictures were also read without their burned-in text.
    """
    masked = text_masked or {"variables": [], "n_images": 0, "n_marked": 0}
    tables = (
        FurtherTable(
            "text",
            "Is it read from what is written in the pictures?",
            f"{masked['n_marked']:,} of {masked['n_images']:,} images show lines of text. The same backbone read all of them again with these "
            "lines painted over, and the same probe was fitted anew. A change below 0 is what the writing told. Lines are found by "
            "their form, so that some stay; and where something was painted may still be seen.",
            ("Variable", "Role", "Measure", "As they are", "Text painted over", "Change (95 % interval)"),
            tuple(_text(row) for row in masked["variables"]),
        ),
        FurtherTable(
            "transfer",
            "Does it survive a change of level?",
            "Trained on patients of the other levels, against trained on as many patients of the same level; both judged on the same "
            "patients. A drop whose interval lies above 0 means that what was learnt does not carry over.",
            (
                "Clinical variable",
                "Acquisition factor",
                "Measure",
                "Same level",
                "Other levels",
                "Drop (95 % interval)",
            ),
            tuple(_transfer(pair) for pair in pairs if pair.get("transfer")),
        ),
        FurtherTable(
            "confounded",
            "What would a confounded training cohort have cost?",
            "Probes taught by patients in whom class and level go together not at all … entirely, all judged on the same balanced "
            "patients. An embedding that keeps the two apart loses little.",
            (
                "Clinical variable",
                "Acquisition factor",
                "Levels",
                "Balanced",
                "Half confounded",
                "Entirely",
                "Average drop (95 % interval)",
            ),
            tuple(
                _confounded(pair)
                for pair in pairs
                if (pair.get("confounded_training") or {}).get("average_drop") is not None
            ),
        ),
        FurtherTable(
            "neighbours",
            "What do neighbours share?",
            "Robustness Index: of the most similar other patients that share only one of the two, the part that shares the clinical "
            "variable (1: the disease across devices, 0: the device across diseases). Mixing and kBET: whether neighbourhoods hold the "
            "levels of the factor as the cohort does. Hold each against its chance.",
            (
                "Clinical variable",
                "Acquisition factor",
                "Robustness Index",
                "by chance",
                "Mixing (iLISI)",
                "by chance",
                "Unmixed (kBET)",
                "by chance",
                "Clusters and clinical",
                "Clusters and factor",
            ),
            tuple(_neighbours(pair) for pair in pairs if pair.get("neighbours")),
        ),
        FurtherTable(
            "remedies",
            "What would taking the factor out cost?",
            "Each remedy is learnt on training patients and judged on others. A remedy is worth something where the factor falls towards "
            "chance, for neighbours too, and the clinical variable stays. What it loses may be what it had from the factor.",
            (
                "Acquisition factor",
                "Clinical variable",
                "Remedy",
                "Factor, linear",
                "Factor, kNN",
                "Clinical, linear",
                "Clinical, kNN",
            ),
            tuple(row for pair in pairs for row in _remedies(pair)),
        ),
    )
    return [table for table in tables if table.rows]


def _names(pair: Pair) -> tuple[str, str]:
    return wording.humane(str(pair["clinical"])), wording.humane(str(pair["acquisition"]))


def _text(row: Mapping[str, Any]) -> tuple[str, ...]:
    head = wording.humane(str(row["name"])), str(row["role"])
    if row["change"] is None:
        return (*head, "", "–", "–", "too few patients")
    change = f"{_three(row['change'])} ({_three(row['ci_low'])} to {_three(row['ci_high'])})"
    return (*head, wording.metric_label(row["metric"]), _two(row["before"]), _two(row["after"]), change)


def _transfer(pair: Pair) -> tuple[str, ...]:
    found = pair["transfer"]
    if found["drop"] is None:
        return (*_names(pair), "", "–", "–", str(found["note"]).rstrip("."))
    drop = _two(found["drop"])
    if found["ci_low"] is not None:
        drop += f" ({_two(found['ci_low'])} to {_two(found['ci_high'])})"
    return (*_names(pair), wording.metric_label(found["metric"]), _two(found["within"]), _two(found["across"]), drop)


def _confounded(pair: Pair) -> tuple[str, ...]:
    found = pair["confounded_training"]
    scores = dict(zip(found["confounding"], found["scores"], strict=True))
    drop = f"{100 * found['average_drop']:.0f} % ({100 * found['ci_low']:.0f} to {100 * found['ci_high']:.0f})".replace(
        "-", "−"
    )
    return (*_names(pair), " / ".join(found["levels"]), *(_two(scores[share]) for share in (0.0, 0.5, 1.0)), drop)


def _neighbours(pair: Pair) -> tuple[str, ...]:
    found = pair["neighbours"]
    index = _two(found["robustness_index"])
    if found["ci_low"] is not None:
        index += f" ({_two(found['ci_low'])} to {_two(found['ci_high'])})"
    rest = ("chance", "ilisi", "ilisi_chance", "kbet_rejection", "kbet_chance", "ami_clinical", "ami_acquisition")
    return (*_names(pair), index, *(_two(found[key]) for key in rest))


def _remedies(pair: Pair) -> list[tuple[str, ...]]:
    tried = pair.get("remedies") or []
    if not tried or not tried[0]["clinical"]:
        return []
    clinical, acquisition = _names(pair)
    before = tried[0]
    rows = []
    for one in tried[1:]:
        if not one["clinical"]:
            continue
        cells = [
            _change(before[role].get(probe), one[role].get(probe))
            for role in ("acquisition", "clinical")
            for probe in ("linear", "knn")
        ]
        rows.append((acquisition, clinical, _REMEDIES[one["name"]], *cells))
    return rows


def _change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    if before is None or after is None:
        return "not touched"
    return f"{_two(before['score'])} → {_two(after['score'])} ({_two(after['ci_low'])} to {_two(after['ci_high'])})"


def _three(value: float | None) -> str:
    """Of changes, which may be small and sure."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
