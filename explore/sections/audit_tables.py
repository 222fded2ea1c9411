"""The audit's further questions about each pair as tables: transfer, confounded training, neighbours, remedies, burned-in text.

Read from audit.json; report and explorer show the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """One table: its question, how to read it, and its rows."""

    key: str
    title: str
    lead: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def further_tables(pairs: Sequence[Pair], text_masked: Mapping[str, Any] | None = None) -> list[FurtherTable]:
    """The tables of `_TABLES` that have a row; none for an audit without `audit.further`.

    Args:
        pairs: of audit.json.
        text_masked: its `text_masked`, where images were also embedded without their burned-in text.
    """
    masked = text_masked or {"variables": [], "n_images": 0, "n_marked": 0}
    tables = [_text_table(masked)]
    for key, title, lead, columns, rows in _TABLES:
        tables.append(FurtherTable(key, title, lead, columns, tuple(row for pair in pairs for row in rows(pair))))
    return [table for table in tables if table.rows]


def _text_table(masked: Mapping[str, Any]) -> FurtherTable:
    return FurtherTable(
        "text",
        "Is it predicted from text in the images?",
        f"{masked['n_marked']:,} of {masked['n_images']:,} images show lines of text. All of them were embedded again with the same "
        "backbone after the text was painted over, and the same probe was fitted again. A change below 0 is what the text "
        "contributed. Text is detected by its shape, so some is missed, and painting over it may leave traces.",
        ("Variable", "Role", "Measure", "Unchanged", "Text painted over", "Change (95 % interval)"),
        tuple(_text(row) for row in masked["variables"]),
    )


def _names(pair: Pair) -> tuple[str, str]:
    return wording.readable_name(str(pair["clinical"])), wording.readable_name(str(pair["acquisition"]))


def _text(row: Mapping[str, Any]) -> tuple[str, ...]:
    head = wording.readable_name(str(row["name"])), str(row["role"])
    if row["change"] is None:
        return (*head, "", "–", "–", "too few patients")
    change = f"{_three(row['change'])} ({_three(row['ci_low'])} to {_three(row['ci_high'])})"
    return (*head, wording.metric_label(row["metric"]), _two(row["before"]), _two(row["after"]), change)


def _transfer(pair: Pair) -> Iterator[tuple[str, ...]]:
    found = pair.get("transfer")
    if not found:
        return
    if found["drop"] is None:
        yield (*_names(pair), "", "–", "–", str(found["note"]).rstrip("."))
        return
    drop = _two(found["drop"])
    if found["ci_low"] is not None:
        drop += f" ({_two(found['ci_low'])} to {_two(found['ci_high'])})"
    yield (*_names(pair), wording.metric_label(found["metric"]), _two(found["within"]), _two(found["across"]), drop)


def _confounded(pair: Pair) -> Iterator[tuple[str, ...]]:
    found = pair.get("confounded_training") or {}
    if found.get("average_drop") is None:
        return
    scores = dict(zip(found["confounding"], found["scores"], strict=True))
    drop = f"{100 * found['average_drop']:.0f} % ({100 * found['ci_low']:.0f} to {100 * found['ci_high']:.0f})".replace(
        "-", "−"
    )
    yield (*_names(pair), " / ".join(found["levels"]), *(_two(scores[share]) for share in (0.0, 0.5, 1.0)), drop)


def _neighbours(pair: Pair) -> Iterator[tuple[str, ...]]:
    found = pair.get("neighbours")
    if not found:
        return
    index = _two(found["robustness_index"])
    if found["ci_low"] is not None:
        index += f" ({_two(found['ci_low'])} to {_two(found['ci_high'])})"
    rest = ("chance", "ilisi", "ilisi_chance", "kbet_rejection", "kbet_chance", "ami_clinical", "ami_acquisition")
    yield (*_names(pair), index, *(_two(found[key]) for key in rest))


def _remedies(pair: Pair) -> Iterator[tuple[str, ...]]:
    tried = pair.get("remedies") or []
    if not tried or not tried[0]["clinical"]:
        return
    clinical, acquisition = _names(pair)
    before = tried[0]
    for remedy in tried[1:]:
        if not remedy["clinical"]:
            continue
        cells = [
            _change(before[role].get(probe), remedy[role].get(probe))
            for role in ("acquisition", "clinical")
            for probe in ("linear", "knn")
        ]
        yield (acquisition, clinical, _REMEDIES[remedy["name"]], *cells)


def _change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    if before is None or after is None:
        return "not applied"
    return f"{_two(before['score'])} → {_two(after['score'])} ({_two(after['ci_low'])} to {_two(after['ci_high'])})"


def _three(value: float | None) -> str:
    """Three decimals, for changes: they may be small but precise."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


# key, title, lead, columns, and the rows of one pair
_TABLES: tuple[tuple[str, str, str, tuple[str, ...], Callable[[Pair], Iterator[tuple[str, ...]]]], ...] = (
    (
        "transfer",
        "Does it still work on another device, operator or site?",
        "The probe is trained on patients of the other levels of the factor (for example the other devices) and compared with "
        "training on as many patients of the same level. Both are tested on the same patients. A drop whose interval is above 0 "
        "means that the prediction does not carry over.",
        ("Clinical variable", "Acquisition factor", "Measure", "Same level", "Other levels", "Drop (95 % interval)"),
        _transfer,
    ),
    (
        "confounded",
        "What does training on a confounded cohort cost?",
        "Probes are trained on patients in whom class and level of the factor are not associated, partly associated or fully "
        "associated. All are tested on the same balanced patients. The less the score drops, the better the embedding "
        "separates the two.",
        (
            "Clinical variable",
            "Acquisition factor",
            "Levels",
            "Balanced",
            "Half confounded",
            "Fully confounded",
            "Average drop (95 % interval)",
        ),
        _confounded,
    ),
    (
        "neighbours",
        "What do the most similar images share?",
        "Robustness Index: among the most similar other patients that share only one of the two variables, the share that has the "
        "clinical variable in common (1: always the clinical variable, 0: always the factor). iLISI (integration local inverse "
        "Simpson’s index) and kBET (k-nearest-neighbour batch-effect test) measure whether neighbourhoods contain the levels of "
        "the factor in the same proportions as the cohort. AMI (adjusted mutual information) is the agreement of clusters with "
        "each variable (0: none, 1: complete). Compare each value with its chance level.",
        (
            "Clinical variable",
            "Acquisition factor",
            "Robustness Index",
            "chance level",
            "iLISI (mixing)",
            "chance level",
            "kBET (not mixed)",
            "chance level",
            "AMI with clinical variable",
            "AMI with factor",
        ),
        _neighbours,
    ),
    (
        "remedies",
        "What does removing the factor cost?",
        "Scores before → after each remedy, with the 95 % interval after it. Remedies are fitted on training patients and tested "
        "on others. A remedy is useful if the score of the factor falls to chance, for the linear probe and for kNN (the 20 most "
        "similar other patients), and the score of the clinical variable stays. A loss in the clinical variable may be the part "
        "that came from the factor. LEACE is least-squares concept erasure; ComBat is the batch correction of that name.",
        (
            "Acquisition factor",
            "Clinical variable",
            "Remedy",
            "Factor, linear",
            "Factor, kNN",
            "Clinical, linear",
            "Clinical, kNN",
        ),
        _remedies,
    ),
)
