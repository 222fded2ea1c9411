"""`run` and `demo`: every stage of a study in the order of the stage table, finished stages reused.

This is the only place where the names of `pellucid.cohort.runs.stages` are bound to the functions that do the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.phantom import PhantomConfig, write_phantom
from pellucid.cohort.runs import RunFolder, newest_runs
from pellucid.cohort.runs.stages import SECTIONS, STAGES, find_stage
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.study import Study, load_study
from pellucid.embed.extract import EmbedConfig, embed
from pellucid.embed.near_duplicates import NearConfig, near
from pellucid.embed.store import choose_vectors, newest_vectors
from pellucid.explore.clusters import ClusterConfig, cluster
from pellucid.explore.report import report
from pellucid.pretrain.recipe import load_recipe
from pellucid.pretrain.stage import pretrain
from pellucid.probes.stage import AuditConfig, audit_study, probe_study

Say = Callable[[str], None]
_MUCH_TEXT = 0.05  # share of the images

# A third of what the recipe would see: enough to learn something in the few minutes that a demo may take.
_DEMO_SECTION = """\
pretrain: {recipe: lejepa-tiny-cpu, augmentation: endoscopy, images_seen: 4800}
"""


@dataclass
class _StudyRun:
    """One pass through the stages of a study, with the runs made so far."""

    study: Study
    device: str
    say: Say
    progress: bool
    n_steps: int
    number: int = 0
    runs: dict[str, list[RunFolder]] = field(default_factory=dict)  # stage → its runs, in order

    def step(self, stage: str, work: Callable[[], RunFolder], detail: str = "", *, counted: bool = True) -> RunFolder:
        """Announce a step, do it, and say where its run is."""
        self.number += counted
        self.say(f"step {self.number} of {self.n_steps}: {stage}{detail and ' '}{detail}")
        run = work()
        self.say(f"{stage}: {'already done' if run.done else 'done'} → {run.path}")
        self.runs.setdefault(stage, []).append(run)
        return run

    @property
    def scanned(self) -> RunFolder:
        return self.runs["scan"][0]

    @property
    def trained(self) -> RunFolder:
        return self.runs["pretrain"][0]

    def vectors(self) -> dict[str, RunFolder]:
        """{backbone: its newest vectors}, oldest first."""
        return newest_vectors(self.study.analysis, self.scanned)

    def own_vectors(self) -> RunFolder:
        """Vectors of the study's own backbone."""
        return self.vectors()[f"run:{self.trained.path.name}"]


# ---------------------------------------------------------------------------------------- what each stage does


def _scan(state: _StudyRun) -> None:
    scanned = state.step("scan", lambda: scan(state.study, progress=state.progress))
    for sentence in scanned.read_json("source.json")["problems"]:
        state.say(f"  note: {sentence}")


def _pretrain(state: _StudyRun) -> None:
    work = partial(pretrain, state.study, state.scanned, device=state.device, progress=state.progress)
    state.step("pretrain", work)


def _embed(state: _StudyRun) -> None:
    preprocess = json.loads((state.trained.path / "preprocess.json").read_text(encoding="utf-8"))
    random = f"timm-random:{preprocess['timm_name']}@{preprocess['img_size']}"
    others = state.study.section("embed", EmbedConfig).backbones
    own = f"run:{state.trained.path}"
    names = list(dict.fromkeys(["pixels", random, *others, own]))
    state.n_steps -= 3 + len(others) - len(names)  # a backbone may be named twice
    for name in names:
        shown = f"run:{state.trained.path.name}" if name == own else name
        state.step("embed", partial(_embed_with, state, state.study, name), shown)


def _embed_with(state: _StudyRun, study: Study, name: str) -> RunFolder:
    return embed(study, state.scanned, name, device=state.device, progress=state.progress)


def _near(state: _StudyRun) -> None:
    run = state.step("near", lambda: near(state.study, state.own_vectors(), state.scanned, progress=state.progress))
    for sentence in run.read_json("near.json")["sentences"]:
        state.say(f"  {sentence}")


def _cluster(state: _StudyRun) -> None:
    state.step("cluster", lambda: cluster(state.study, state.own_vectors(), state.scanned, progress=state.progress))


def _probe(state: _StudyRun) -> None:
    vectors = list(state.vectors().values())
    state.step("probe", lambda: probe_study(state.study, state.scanned, vectors, progress=state.progress))


def _audit(state: _StudyRun) -> None:
    if shows_text(state.scanned):  # burned-in text may reveal the device, so the audit also needs vectors without it
        config = state.study.config
        masked = replace(state.study, config=config.model_copy(update={"embed": {**config.embed, "text": "mask"}}))
        work = partial(_embed_with, state, masked, f"run:{state.trained.path}")
        state.step("embed", work, "without burned-in text", counted=False)
    state.step("audit", lambda: audit_study(state.study, state.scanned, state.own_vectors(), progress=state.progress))


def _report(state: _StudyRun) -> None:
    vectors = list(state.vectors().values())
    clusters, probes, audits, alike = (state.runs.get(s, [None])[-1] for s in ("cluster", "probe", "audit", "near"))
    state.step(
        "report", lambda: report(state.study, state.scanned, vectors, clusters, probes, audits, state.trained, alike)
    )


# `read` has no function here: `scan` reads the originals, if need be, before it joins the table.
_WORK: dict[str, Callable[[_StudyRun], None]] = {
    "scan": _scan,
    "pretrain": _pretrain,
    "embed": _embed,
    "near": _near,
    "cluster": _cluster,
    "probe": _probe,
    "audit": _audit,
    "report": _report,
}

# The section `scan` is checked when study.yaml is loaded.
_CHECKS: dict[str, Callable[[Study], object]] = {
    "pretrain": lambda study: load_recipe(study.config.pretrain, "pretrain", study.path.parent, study.config.specialty),
    "embed": lambda study: study.section("embed", EmbedConfig),
    "near": lambda study: study.section("near", NearConfig),
    "cluster": lambda study: study.section("cluster", ClusterConfig),
    "audit": lambda study: study.section("audit", AuditConfig),
}


# ------------------------------------------------------------------------------------------- the whole pipeline


def check_sections(study: Study) -> None:
    """Check the sections of all stages before the first image is read.

    Raises:
        UserError: all mistakes at once.
    """
    mistakes = []
    for section in SECTIONS:
        if section in _CHECKS:
            try:
                _CHECKS[section](study)
            except UserError as error:
                mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))


def run_stages(study: Study, *, device: str = "auto", say: Say = print, progress: bool = True) -> RunFolder:
    """Compute every stage of a study in order; a finished stage is reused.

    Args:
        device: auto, cpu or cuda; for pretraining and embedding.
        say: receives each message for the user.
        progress: show progress bars.

    Returns:
        The run of the stage `report`.

    Raises:
        UserError: a mistake in study.yaml, or whatever a stage refuses.
    """
    check_sections(study)
    if not study.variables:
        say(
            "study.yaml names no variables: images are prepared, embedded and clustered, but nothing is probed or "
            "audited"
        )
    names = [stage.name for stage in STAGES if stage.name in _WORK and (study.variables or not stage.needs_variables)]
    # Three backbones are always embedded: pixels, random weights, the study's own.
    n_steps = len(names) - 1 + 3 + len(study.section("embed", EmbedConfig).backbones)
    state = _StudyRun(study, device, say, progress, n_steps)
    for name in names:
        _WORK[name](state)
    return state.runs["report"][-1]


def shows_text(scanned: RunFolder) -> bool:
    """Whether at least 5 % of the usable images have burned-in text."""
    manifest = pd.read_parquet(scanned.path / "manifest.parquet", columns=["status", "text_like"])
    marked = manifest[manifest["status"] == "ok"]["text_like"].fillna(False).astype(bool)
    return bool(marked.mean() >= _MUCH_TEXT)


def run_demo(
    folder: str | Path = "demo",
    overrides: Sequence[str] = (),
    *,
    patients: int = 160,
    seed: int = 0,
    say: Say = print,
    progress: bool = True,
) -> RunFolder:
    """Write a phantom study with known truth into `folder` (unless it holds one) and run every stage on it.

    Args:
        folder: gets images, `clinical.csv`, `study.yaml` and `truth.json`, which lists the planted effects.
        overrides: `KEY=VALUE` items that replace keys of its study.yaml, e.g. `pretrain.images_seen=1000`.
        patients: number of patients, with 2 to 5 images each.
        seed: of the phantom cohort.
        say: receives each message for the user.

    Returns:
        The run of the stage `report`.
    """
    folder = Path(folder)
    if not (folder / "study.yaml").is_file():
        write_phantom(folder, PhantomConfig(patients=patients, seed=seed), sections=_DEMO_SECTION)
        say(f"phantom cohort of {patients} patients written to {folder} (planted effects: {folder / 'truth.json'})")
    return run_stages(load_study(folder, list(overrides)), say=say, progress=progress)


def report_newest(study: Study) -> RunFolder:
    """Write the report from the newest finished runs on the current scan.

    Raises:
        UserError: the study has not been scanned, or has changed since.
    """
    scanned = current_scan(study)
    vectors = newest_vectors(study.analysis, scanned)
    own = choose_vectors(study.analysis, scanned) if vectors else None
    newest: dict[str, RunFolder | None] = {}
    for name in find_stage("report").parent_stages:
        if name in {"scan", "embed"}:
            continue
        # Clusters and audit belong to the vectors shown; near duplicates count whichever backbone found them.
        parent = own if find_stage(name).per_backbone and name != "near" else scanned
        runs = newest_runs(study.analysis, name, parent) if parent is not None else []
        newest[name] = runs[-1] if runs else None
    return report(
        study,
        scanned,
        list(vectors.values()),
        newest["cluster"],
        newest["probe"],
        newest["audit"],
        newest["pretrain"],
        newest["near"],
    )
