"""The audit's verdicts as a reader meets them: what is accused first, what is acquitted plainly.

Between audit.json and the pages; the sentences themselves are the audit's (probes/verdicts.py), never rewritten here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pellucid.explore import wording

Tone = Literal["accused", "caution", "neutral", "acquitted"]
TONES: tuple[Tone, ...] = ("accused", "caution", "neutral", "acquitted")

_SHOWN: dict[str, tuple[Tone, str]] = {  # verdict → how it is shown; the order is the audit's own, worst first
    "explained_by_acquisition": ("accused", "Explained by the factor"),
    "confounded_survives": ("caution", "Confounded, but it survives"),
    "cannot_be_separated": ("caution", "Cannot be told apart"),
    "associated_not_encoded": ("neutral", "Goes together, but not seen in the embedding"),
    "clinical_not_encoded": ("neutral", "Clinical variable not seen in the embedding"),
    "too_few_patients": ("neutral", "Too few patients"),
    "encoded_not_confounded": ("acquitted", "No confounding found"),
    "acquisition_read_through_clinical": ("acquitted", "Factor read through the clinical variable"),
    "not_associated_not_encoded": ("acquitted", "No concern found"),
}
_GRAVITY: tuple[Tone, ...] = ("neutral", "acquitted", "caution", "accused")
COLOURS: dict[Tone, str] = {"accused": "#c2410c", "caution": "#b7791f", "neutral": "#64748b", "acquitted": "#0f766e"}


@dataclass(frozen=True)
class Verdict:
    """One pair of the audit, ready to be shown."""

    clinical: str
    acquisition: str
    tone: Tone
    label: str
    sentence: str
    note: str
    pair: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.label}: {wording.readable_name(self.clinical)} and {wording.readable_name(self.acquisition)}"

    @property
    def strength(self) -> float:
        return abs(float((self.pair.get("association") or {}).get("value") or 0.0))


def tone_of(pair: Mapping[str, Any]) -> tuple[Tone, str]:
    """How a verdict is shown; one that is not known here is never shown as harmless."""
    return _SHOWN.get(str(pair.get("verdict", "")), ("caution", "Look closer"))


def verdicts(audit: Mapping[str, Any]) -> list[Verdict]:
    """The pairs of an audit, the worst first; among equals the stronger association first."""
    found = [
        Verdict(
            str(pair["clinical"]),
            str(pair["acquisition"]),
            *tone_of(pair),
            _capital(str(pair.get("sentence") or "No sentence was recorded for this pair.")),
            str(pair.get("note") or ""),
            pair,
        )
        for pair in audit.get("pairs") or []
    ]
    rank = {name: i for i, name in enumerate(_SHOWN)}
    return sorted(found, key=lambda v: (TONES.index(v.tone), rank.get(str(v.pair.get("verdict")), 0), -v.strength))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def worth_drawing(found: Sequence[Verdict], most: int) -> list[Mapping[str, Any]]:
    """Pairs for a figure: those that something is held against, or, if there are none, the first ones."""
    against = [v for v in found if v.tone in {"accused", "caution"}]
    return [verdict.pair for verdict in (against or list(found))[:most]]


def by_factor(found: Sequence[Verdict]) -> list[tuple[str, str]]:
    """(factor, the clinical variables it was held against), for a list of verdicts that all say the same."""
    grouped: dict[str, list[str]] = {}
    for verdict in sorted(found, key=lambda v: (v.acquisition, v.clinical)):
        grouped.setdefault(wording.readable_name(verdict.acquisition), []).append(
            wording.readable_name(verdict.clinical)
        )
    return [(factor, wording.listing(names)) for factor, names in grouped.items()]


def headline(found: Sequence[Verdict]) -> list[str]:
    """Who is accused and of what, who is not: one short sentence each."""
    if not found:
        return ["No pair of a clinical variable and an acquisition factor has been audited yet."]
    worst: dict[str, Tone] = {}  # the worst that is said of each factor; neutral says nothing against or for it
    for tone in _GRAVITY:
        worst |= {v.acquisition: tone for v in found if v.tone == tone}
    said = []
    for factor in [name for name, its in worst.items() if its in {"accused", "caution"}]:
        against = [v for v in found if v.acquisition == factor and v.tone in {"accused", "caution"}]
        names = [wording.readable_name(v.clinical) for v in sorted(against, key=lambda v: -v.strength)]
        said.append(
            f"Read with suspicion: {wording.readable_name(factor)}, which goes together with {wording.listing(names)}."
        )
    clear = [wording.readable_name(name) for name, its in worst.items() if its == "acquitted"]
    if clear:
        said.append(f"No concern found: {wording.listing(clear)}.")
    untold = [wording.readable_name(name) for name, its in worst.items() if its == "neutral"]
    if untold:
        said.append(f"Nothing can be said for or against: {wording.listing(untold)}.")
    return said


def card(verdict: Verdict) -> str:
    """A verdict as a piece of HTML for the explorer; every text in it is escaped."""
    note = f'<div style="color:#52606d;font-size:.92rem">{html.escape(verdict.note)}</div>' if verdict.note else ""
    colour = COLOURS[verdict.tone]
    return (
        f'<div style="border:1px solid #dde2e8;border-left:6px solid {colour};border-radius:4px;padding:.7rem 1.1rem">'
        f'<div style="color:{colour};font-weight:700;font-size:.9rem">{html.escape(verdict.title)}</div>'
        f'<div style="font-size:1.06rem;margin:.2rem 0">{html.escape(verdict.sentence)}</div>'
        f"{note}</div>"
    )
