"""Which of two levels is the event: one rule for the source audit, the probes and the figures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pellucid.cohort.errors import UserError

EVENT_WORDS = frozenset(
    {"1", "yes", "y", "true", "positive", "pos", "present", "event", "malignant", "case", "abnormal", "diseased"}
)
# YAML reads `positive: yes` as true, whatever the table writes.
_YAML_SWITCHES = (frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"}))


@dataclass(frozen=True)
class EventLevel:
    """The level that counts as the event, and the rule that chose it."""

    level: str
    rule: Literal["positive", "word", "larger number", "rarer level", "last in the alphabet"]

    def sentence(self, name: str, where: str = "") -> str:
        """What a reader must know of a choice that neither the study nor the names of the levels made; else "".

        Args:
            name: the variable.
            where: `positive` can be set, for example " in study.yaml".
        """
        if self.rule == "rarer level":
            why = "it is the rarer level"
        elif self.rule == "last in the alphabet":
            why = "both levels have equally many patients and it is the last in the alphabet"
        else:
            return ""
        return f"`{name}`: `{self.level}` is treated as the event because {why}; set `positive`{where} to choose."


def event_level(patients: Mapping[str, int], name: str, positive: str | EventLevel | None = None) -> EventLevel:
    """The event of a two-level variable.

    In this order: the declared level; the only level among `EVENT_WORDS`; of two numbers the larger; the level of fewer
    patients; of equally many, the last in the alphabet.

    Args:
        patients: the two levels, and how many patients have each.
        name: the variable, for messages.
        positive: the level that the user declared as the event; or what this function chose from all patients, where
            `patients` are some of them.

    Raises:
        UserError: there is no such level as `positive`.
    """
    levels = sorted(patients)
    if isinstance(positive, EventLevel) and positive.level in levels:
        return positive
    if isinstance(positive, str):
        return EventLevel(declared_level(positive, levels, name), "positive")
    words = [level for level in levels if level.strip().lower() in EVENT_WORDS]
    if len(words) == 1:
        return EventLevel(words[0], "word")
    try:
        return EventLevel(max(levels, key=float), "larger number")
    except ValueError:
        pass
    fewest = min(patients.values())
    rarest = [level for level in levels if patients[level] == fewest]
    return EventLevel(rarest[-1], "rarer level" if len(rarest) == 1 else "last in the alphabet")


def declared_level(positive: str, levels: Collection[str], name: str) -> str:
    """The level that `positive` means: the same text, or differing in capitals, as a number, or as YAML's yes and true.

    Raises:
        UserError: none of the levels is meant.
    """
    wanted = positive.strip()
    tests = (
        lambda level: level == wanted,
        lambda level: level.lower() == wanted.lower(),
        lambda level: float(level) == float(wanted),
        lambda level: any({level.lower(), wanted.lower()} <= words for words in _YAML_SWITCHES),
    )
    for same in tests:
        for level in levels:
            try:
                if same(level.strip()):
                    return level
            except ValueError:
                continue
    shown = ", ".join(f"`{level}`" for level in sorted(levels)[:4])
    raise UserError(f"`{name}`: no level `{positive}`, which `positive` names; the levels are {shown}")
