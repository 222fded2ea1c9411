"""The audit's further questions about each pair as tables: transfer, confounded training, neighbours, remedies,
burned-in text.

Read from audit.json; report and explorer show the same rows.
"""

from __future__ import annotations

import itertools
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
    n_open: int  # rows to show at once; the others are folded


def further_tables(
    pairs: Sequence[Pair], text_masked: Mapping[str, Any] | None = None, n_open: int | None = None
) -> list[FurtherTable]:
    """The tables of `_TABLES` that have a row; none for an audit without `audit.further`.

    Args:
        pairs: of audit.json.
        text_masked: its `text_masked`, where images were also embedded without their burned-in text.
        n_open: the rows of the first `n_open` pairs are shown at once; None shows all rows.
    """
    masked = text_masked or {"variables": [], "n_images": 0, "n_marked": 0}
    tables = [_text_table(masked)]
    for key, title, lead, columns, rows in _TABLES:
        of_pairs = [tuple(rows(pair)) for pair in pairs]
        shown = sum(map(len, of_pairs[:n_open]))
        tables.append(FurtherTable(key, title, lead, columns, tuple(itertools.chain(*of_pairs)), shown))
    return [table for table in tables if table.rows]


def _text_table(masked: Mapping[str, Any]) -> FurtherTable:
    return FurtherTable(
        "text",
        "Is it predicted from text in the images?",
        f"{masked['n_marked']:,} of {masked['n_images']:,} images show lines of text. All of them were embedded again "
        "with the same backbone after the text was painted over, and the same probe was fitted again. A change below 0 "
        "is what the text contributed. Text is detected by its shape, so some is missed, and painting over it may "
        "leave traces.",
        ("Variable", "Role", "Measure", "Unchanged", "Text painted over", "Change (95 % interval)"),
        tuple(_text(row) for row in masked["variables"]),
        len(masked["variables"]),
    )


def _names(pair: Pair) -> tuple[str, str]:
    return wording.readable_name(str(pair["clinical"])), wording.readable_name(str(pair["acquisition"]))


def _text(row: Mapping[str, Any]) -> tuple[str, ...]:
    head = wording.readable_name(str(row["name"])), str(row["role"])
    if row["change"] is None:
        return (*head, "", "–", "–", "too few patients")
    change = (
        f"{wording.number(row['change'], 3)} ({wording.number(row['ci_low'], 3)} to "
        f"{wording.number(row['ci_high'], 3)})"
    )
    return (
        *head,
        wording.metric_label(row["metric"]),
        wording.number(row["before"]),
        wording.number(row["after"]),
        change,
    )


def _transfer(pair: Pair) -> Iterator[tuple[str, ...]]:
    found = pair.get("transfer")
    if not found:
        return
    if found["drop"] is None:
        yield (*_names(pair), "", "–", "–", str(found["note"]).rstrip("."))
        return
    drop = wording.number(found["drop"])
    if found["ci_low"] is not None:
        drop += f" ({wording.number(found['ci_low'])} to {wording.number(found['ci_high'])})"
    yield (
        *_names(pair),
        wording.metric_label(found["metric"]),
        wording.number(found["within"]),
        wording.number(found["across"]),
        drop,
    )


def _confounded(pair: Pair) -> Iterator[tuple[str, ...]]:
    found = pair.get("confounded_training") or {}
    if found.get("average_drop") is None:
        return
    scores = dict(zip(found["confounding"], found["scores"], strict=True))
    drop = f"{100 * found['average_drop']:.0f} % ({100 * found['ci_low']:.0f} to {100 * found['ci_high']:.0f})".replace(
        "-", "−"
    )
    yield (
        *_names(pair),
        " / ".join(found["levels"]),
        *(wording.number(scores[share]) for share in (0.0, 0.5, 1.0)),
        drop,
    )


def _neighbours(pair: Pair) -> Iterator[tuple[str, ...]]:
    found = pair.get("neighbours")
    if not found:
        return
    index = wording.number(found["robustness_index"])
    if found["ci_low"] is not None:
        index += f" ({wording.number(found['ci_low'])} to {wording.number(found['ci_high'])})"
    rest = ("chance", "ilisi", "ilisi_chance", "kbet_rejection", "kbet_chance", "ami_clinical", "ami_acquisition")
    yield (*_names(pair), index, *(wording.number(found[key]) for key in rest))


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
    return (
        f"{wording.number(before['score'])} → {wording.number(after['score'])} ({wording.number(after['ci_low'])} to "
        f"{wording.number(after['ci_high'])})"
    )


# key, title, lead, columns, and the rows of one pair
_TABLES: tuple[tuple[str, str, str, tuple[str, ...], Callable[[Pair], Iterator[tuple[str, ...]]]], ...] = (
    (
        "transfer",
        "Does it still work on another device, operator or site?",
        "The probe is trained on patients of the other levels of the factor (for example the other devices) and "
        "compared with training on as many patients of the same level. Both are tested on the same patients. A drop "
        "whose interval is above 0 means that the prediction does not carry over.",
        ("Clinical variable", "Acquisition factor", "Measure", "Same level", "Other levels", "Drop (95 % interval)"),
        _transfer,
    ),
    (
        "confounded",
        "What does training on a confounded cohort cost?",
        "Probes are trained on patients in whom class and level of the factor are not associated, partly associated or "
        "fully associated. All are tested on the same balanced patients. The less the score drops, the better the "
        "embedding separates the two.",
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
        "Robustness Index: among the most similar other patients that share only one of the two variables, the share "
        "that has the clinical variable in common (1: always the clinical variable, 0: always the factor). iLISI "
        "(integration local inverse Simpson’s index) and kBET (k-nearest-neighbour batch-effect test) measure whether "
        "neighbourhoods contain the levels of the factor in the same proportions as the cohort. AMI (adjusted mutual "
        "information) is the agreement of clusters with each variable (0: none, 1: complete). Compare each value with "
        "its chance level.",
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
        "Scores before → after each remedy, with the 95 % interval after it. Remedies are fitted on training patients "
        "and tested on others. A remedy is useful if the score of the factor falls to chance, for the linear probe and "
        "for kNN (the most similar other patients), and the score of the clinical variable stays. A loss in the "
        "clinical variable may be the part that came from the factor. LEACE is least-squares concept erasure; ComBat "
        "is the batch correction of that name.",
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
