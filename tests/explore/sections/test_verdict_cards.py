"""Verdict cards: possible confounding is never shown as harmless."""

from __future__ import annotations

from pellucid.explore.sections import verdict_cards
from pellucid.probes.verdicts import ACCUSING


def test_an_unknown_verdict_is_never_shown_as_harmless() -> None:
    assert verdict_cards.tone_of({"verdict": "something new"})[0] == "caution"
    assert verdict_cards.tone_of({})[0] == "caution"


def test_every_verdict_of_confounding_is_shown_as_one() -> None:
    for verdict in ACCUSING:
        assert verdict_cards.tone_of({"verdict": verdict})[0] in verdict_cards.CONFOUNDED


def test_a_factor_flagged_once_is_not_cleared_by_another_pair() -> None:
    found = verdict_cards.verdicts(
        {
            "pairs": [
                {"clinical": "age", "acquisition": "device", "verdict": "encoded_not_confounded"},
                {"clinical": "grade", "acquisition": "device", "verdict": "explained_by_acquisition"},
                {"clinical": "age", "acquisition": "site", "verdict": "too_few_patients"},
            ]
        }
    )
    assert verdict_cards.headline(found) == [
        "Possible confounding: device is associated with grade.",
        "Inconclusive: site.",
    ]
