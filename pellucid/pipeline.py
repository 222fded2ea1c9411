"""`run` and `demo`: every step of a study in order, each skipped where it is done, from originals to report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import RunFolder, newest_runs
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.study import Study
from pellucid.embed.extract import EmbedConfig, embed
from pellucid.embed.near_duplicates import NearConfig, near
from pellucid.embed.store import choose_vectors, newest_vectors
from pellucid.explore.clusters import ClusterConfig, cluster
from pellucid.explore.report import report
from pellucid.explore.study_findings import newest_near
from pellucid.pretrain.recipe import load_recipe
from pellucid.pretrain.stage import pretrain
from pellucid.probes.stage import AuditConfig, audit_study, probe_study

Say = Callable[[str], None]
_MUCH_TEXT = 0.05  # of the images

# A third of what the recipe would see: enough to learn something in the minutes that a newcomer gives a demo.
_DEMO_SECTION = """\
pretrain: {recipe: lejepa-tiny-cpu, augmentation: endoscopy, images_seen: 4800}
"""


def check_sections(study: Study) -> None:
    """Refuse a mistake in any verb's section before the first image is read, all of them at once."""
    mistakes = []
    checks: list[Callable[[], object]] = [
        lambda: study.section("embed", EmbedConfig),
        lambda: study.section("near", NearConfig),
        lambda: study.section("cluster", ClusterConfig),
        lambda: study.section("audit", AuditConfig),
        lambda: load_recipe(study.config.pretrain, "pretrain", study.path.parent, study.config.specialty),
    ]
    for check in checks:
        try:
            check()
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))


def run_study(study: Study, *, device: str = "auto", say: Say = print, progress: bool = True) -> RunFolder:
    """All steps of a study; what is done already is said and kept.

    Returns:
        The report's run.
    """
    check_sections(study)
    if not study.variables:
        say(
            "no variables are named in study.yaml: images will be prepared, embedded and clustered, but nothing audited"
        )

    others = study.section("embed", EmbedConfig).backbones
    # scan, pretrain, near, cluster and report; pixels, random weights and the study's own; probe and audit
    n_steps, number = 5 + 3 + len(others) + (2 if study.variables else 0), 0

    def step(what: str, work: Callable[[], RunFolder], *, counted: bool = True) -> RunFolder:
        nonlocal number
        number += counted
        say(f"step {number} of {n_steps}: {what}")
        run = work()
        say(f"{what.partition(' ')[0]}: {'already done' if run.done else 'done'} → {run.path}")
        return run

    scanned = step("scan", lambda: scan(study, progress=progress))
    for sentence in scanned.read_json("source.json")["problems"]:
        say(f"  note: {sentence}")
    trained = step("pretrain", lambda: pretrain(study, scanned, device=device, progress=progress))
    preprocess = json.loads((trained.path / "preprocess.json").read_text(encoding="utf-8"))
    random = f"timm-random:{preprocess['timm_name']}@{preprocess['img_size']}"
    own_name = f"run:{trained.path}"
    names = list(dict.fromkeys(["pixels", random, *others, own_name]))
    n_steps -= 3 + len(others) - len(names)  # one of the study's own was named twice
    for name in names:
        shown = f"run:{trained.path.name}" if name == own_name else name
        step(f"embed {shown}", partial(embed, study, scanned, name, device=device, progress=progress))
    vectors = newest_vectors(study.analysis, scanned)
    own = vectors[f"run:{trained.path.name}"]
    alike = step("near", lambda: near(study, own, scanned, progress=progress))
    for sentence in alike.read_json("near.json")["sentences"]:
        say(f"  {sentence}")
    clusters = step("cluster", lambda: cluster(study, own, scanned, progress=progress))
    probes = audits = None
    if study.variables:
        probes = step("probe", lambda: probe_study(study, scanned, list(vectors.values()), progress=progress))
        if shows_text(scanned):  # what is written in the pictures may tell the device: read them without it, too
            config = study.config.model_copy(update={"embed": {**study.config.embed, "text": "mask"}})
            masked = partial(embed, replace(study, config=config), scanned, own_name, device=device, progress=progress)
            step("embed without burned-in text", masked, counted=False)
        audits = step("audit", lambda: audit_study(study, scanned, own, progress=progress))
    return step(
        "report", lambda: report(study, scanned, list(vectors.values()), clusters, probes, audits, trained, alike)
    )


def shows_text(scanned: RunFolder) -> bool:
    """Whether enough pictures have burned-in text for the question what it tells."""
    manifest = pd.read_parquet(scanned.path / "manifest.parquet", columns=["status", "text_like"])
    marked = manifest[manifest["status"] == "ok"]["text_like"].fillna(False).astype(bool)
    return bool(marked.mean() >= _MUCH_TEXT)


def demo(folder: Path, *, patients: int, seed: int, say: Say = print, progress: bool = True) -> RunFolder:
    """Write a phantom study into `folder` (unless one is there) and run it."""
    from pellucid.cohort.phantom import PhantomConfig, write_phantom
    from pellucid.cohort.study import load_study

    if not (folder / "study.yaml").is_file():
        write_phantom(folder, PhantomConfig(patients=patients, seed=seed), sections=_DEMO_SECTION)
        say(f"phantom cohort of {patients} patients written to {folder} (what was planted: {folder / 'truth.json'})")
    return run_study(load_study(folder), say=say, progress=progress)


def report_newest(study: Study) -> RunFolder:
    """The report of what has been run so far on the scan as it is now."""
    scanned = current_scan(study)
    vectors = newest_vectors(study.analysis, scanned)

    def last(stage: str, parent: RunFolder) -> RunFolder | None:
        runs = newest_runs(study.analysis, stage, parent)
        return runs[-1] if runs else None

    own = choose_vectors(study.analysis, scanned) if vectors else None
    return report(
        study,
        scanned,
        list(vectors.values()),
        last("cluster", own) if own else None,
        last("probe", scanned),
        last("audit", own) if own else None,
        last("pretrain", scanned),
        newest_near(study, scanned),
    )
