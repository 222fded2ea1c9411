"""The pipeline as data: every stage of a study with its parents, configuration section, files and rule on withdrawal.

`run`, `status`, the checks of study.yaml, `forget`, the report's provenance and docs/study.md read this table, so that
the order of the stages is written down once. The functions that do the work are bound to the names in
`pellucid.pipeline`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Withdrawal = Literal["rewrite", "mark", "delete"]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: folder below `analysis/`, and `stage` in `run.json`.
        parents: stages whose runs it is made from; `?` optional, `+` one or more.
        section: section of study.yaml that configures it.
        artefacts: files of a finished run; the last one is written last.
        per_backbone: one run per backbone instead of one per study.
        needs_variables: skipped where study.yaml names no variables.
        on_withdrawal: what happens to its runs when a patient withdraws consent: the patient's images are removed
            (`rewrite`), the weights stay and their card records the withdrawal (`mark`), or the run is deleted.
    """

    name: str
    parents: tuple[str, ...]
    section: str | None
    artefacts: tuple[str, ...]
    per_backbone: bool
    needs_variables: bool
    on_withdrawal: Withdrawal

    @property
    def parent_stages(self) -> tuple[str, ...]:
        """Names of the parent stages without `?` and `+`, each once, in order."""
        return tuple(dict.fromkeys(parent.rstrip("?+") for parent in self.parents))

    def accepts(self, recorded: Sequence[str]) -> bool:
        """Whether a run may have parents of these stages, as `run.json` records them."""
        if not set(recorded) <= set(self.parent_stages):
            return False
        for name in self.parent_stages:
            rules = [parent for parent in self.parents if parent.rstrip("?+") == name]
            least = sum(not rule.endswith("?") for rule in rules)
            most = math.inf if any(rule.endswith("+") for rule in rules) else len(rules)
            if not least <= list(recorded).count(name) <= most:
                return False
        return True


# In the order in which `pellucid run` computes them: parents before children.
# Two commands write runs of the stage `embed` from other embed runs: vectors per patient (parent: the image vectors)
# and `take-out` (parents: scan and vectors). A withdrawal deletes these derived runs.
STAGES = (
    Stage("read", (), "scan", ("images.parquet",), False, False, "rewrite"),
    Stage("scan", ("read",), None, ("manifest.parquet", "source.json"), False, False, "rewrite"),
    Stage("pretrain", ("scan",), "pretrain", ("backbone.safetensors", "preprocess.json"), False, False, "mark"),
    Stage(
        "embed", ("scan?", "pretrain?", "embed?"), "embed", ("vectors.npy", "images.parquet", "spec.json"),
        True, False, "rewrite",
    ),
    Stage("near", ("embed", "scan"), "near", ("near.json",), True, False, "delete"),
    Stage("cluster", ("embed", "scan"), "cluster", ("clusters.parquet", "clusters.json"), True, False, "delete"),
    Stage("probe", ("scan", "embed+"), "audit", ("probes.json",), False, True, "delete"),
    Stage("audit", ("scan", "embed", "embed?"), "audit", ("audit.json",), True, True, "delete"),
    Stage(
        "report", ("scan", "embed+", "cluster?", "probe?", "audit?", "pretrain?", "near?"), None, ("report.html",),
        False, False, "delete",
    ),
)  # fmt: skip

SECTIONS = tuple(dict.fromkeys(stage.section for stage in STAGES if stage.section is not None))

_ON_WITHDRAWAL: dict[Withdrawal, str] = {
    "rewrite": "the patient's images are removed",
    "mark": "the weights stay; the model card records the withdrawal",
    "delete": "deleted; `pellucid run` makes it again",
}


def find_stage(name: str) -> Stage:
    """The stage of that name; KeyError if there is none."""
    return _BY_NAME[name]


def position(name: str) -> int:
    """Place of a stage in the pipeline, from 0; an unknown stage comes last."""
    return _POSITION.get(name, len(STAGES))


def stage_table() -> str:
    """The pipeline as a Markdown table, as docs/study.md shows it."""
    head = ("stage", "made from", "section", "files", "runs", "when consent is withdrawn")
    rows = [
        (
            f"`{stage.name}`",
            ", ".join(map(_parent_phrase, stage.parents)) or "originals",
            f"`{stage.section}`" if stage.section else "–",
            ", ".join(f"`{name}`" for name in stage.artefacts),
            ("one per backbone" if stage.per_backbone else "one per study")
            + ("; needs variables" if stage.needs_variables else ""),
            _ON_WITHDRAWAL[stage.on_withdrawal],
        )
        for stage in STAGES
    ]
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _parent_phrase(parent: str) -> str:
    name = parent.rstrip("?+")
    return f"{name} (optional)" if parent.endswith("?") else f"{name} (one or more)" if parent.endswith("+") else name


_BY_NAME = {stage.name: stage for stage in STAGES}
_POSITION = {stage.name: place for place, stage in enumerate(STAGES)}
