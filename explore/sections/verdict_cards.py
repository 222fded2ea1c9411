"""The audit's verdicts in reading order: pairs with possible confounding first, cleared pairs in short.

From audit.json to the pages. The sentences come from probes/verdicts.py and are never rewritten here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pellucid.explore import wording
from pellucid.pretrain.monitor import PALETTE

Tone = Literal["flagged", "caution", "neutral", "cleared"]
TONES: tuple[Tone, ...] = ("flagged", "caution", "neutral", "cleared")
CONFOUNDED: frozenset[Tone] = frozenset({"flagged", "caution"})

_SHOWN: dict[str, tuple[Tone, str]] = {  # verdict → how it is shown; the order is the audit's own, worst first
    "explained_by_acquisition": ("flagged", "Explained by the acquisition factor"),
    "confounded_survives": ("caution", "Confounded, but still predicted"),
    "cannot_be_separated": ("caution", "Cannot be separated"),
    "associated_not_encoded": ("neutral", "Associated, but the factor is not predicted"),
    "clinical_not_encoded": ("neutral", "Clinical variable is not predicted"),
    "too_few_patients": ("neutral", "Too few patients"),
    "encoded_not_confounded": ("cleared", "No evidence of confounding"),
    "acquisition_read_through_clinical": ("cleared", "Factor predicted through the clinical variable"),
    "not_associated_not_encoded": ("cleared", "Neither associated nor predicted"),
}
_GRAVITY: tuple[Tone, ...] = ("neutral", "cleared", "caution", "flagged")
_OPEN_PAIRS = 4
_COLOURS: dict[Tone, str] = {
    "flagged": PALETTE["flagged"],
    "caution": PALETTE["caution"],
    "neutral": PALETTE["neutral"],
    "cleared": PALETTE["good"],
}


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
    """Tone and label of a verdict; an unknown verdict is shown as a caution, never as harmless."""
    return _SHOWN.get(str(pair.get("verdict", "")), ("caution", "Needs a closer look"))


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


def n_open(found: Sequence[Verdict]) -> int:
    """How many pairs to show at once: those with possible confounding or, if there are none, the first four."""
    return sum(v.tone in CONFOUNDED for v in found) or _OPEN_PAIRS


def worth_drawing(found: Sequence[Verdict], most: int) -> list[Mapping[str, Any]]:
    """Pairs for a figure: those with possible confounding or, if there are none, the first ones."""
    confounded = [v for v in found if v.tone in CONFOUNDED]
    return [verdict.pair for verdict in (confounded or list(found))[:most]]


def by_factor(found: Sequence[Verdict]) -> list[tuple[str, str]]:
    """(factor, its clinical variables) for verdicts of one tone."""
    grouped: dict[str, list[str]] = {}
    for verdict in sorted(found, key=lambda v: (v.acquisition, v.clinical)):
        names = grouped.setdefault(wording.readable_name(verdict.acquisition), [])
        names.append(wording.readable_name(verdict.clinical))
    return [(factor, wording.listing(names)) for factor, names in grouped.items()]


def headline(found: Sequence[Verdict]) -> list[str]:
    """One short sentence per factor with possible confounding, one for the cleared factors, one for the rest."""
    if not found:
        return ["No pair of a clinical variable and an acquisition factor has been audited yet."]
    worst: dict[str, Tone] = {}  # of each factor, over all its pairs
    for tone in _GRAVITY:
        worst |= {v.acquisition: tone for v in found if v.tone == tone}
    sentences = []
    for factor in [name for name, tone in worst.items() if tone in CONFOUNDED]:
        confounded = [v for v in found if v.acquisition == factor and v.tone in CONFOUNDED]
        names = [wording.readable_name(v.clinical) for v in sorted(confounded, key=lambda v: -v.strength)]
        sentences.append(
            f"Possible confounding: {wording.readable_name(factor)} is associated with {wording.listing(names)}."
        )
    for tone, opening in (("cleared", "No evidence of confounding"), ("neutral", "Inconclusive")):
        factors = [wording.readable_name(name) for name, its in worst.items() if its == tone]
        if factors:
            sentences.append(f"{opening}: {wording.listing(factors)}.")
    return sentences


def card(verdict: Verdict) -> str:
    """A verdict as HTML for the explorer; every text in it is escaped."""
    note = (
        f'<div style="color:{PALETTE["soft"]};font-size:.92rem">{html.escape(verdict.note)}</div>'
        if verdict.note
        else ""
    )
    colour = _COLOURS[verdict.tone]
    return (
        f'<div style="border:1px solid {PALETTE["line"]};border-left:6px solid '
        f'{colour};border-radius:4px;padding:.7rem 1.1rem">'
        f'<div style="color:{colour};font-weight:700;font-size:.9rem">{html.escape(verdict.title)}</div>'
        f'<div style="font-size:1.06rem;margin:.2rem 0">{html.escape(verdict.sentence)}</div>'
        f"{note}</div>"
    )
