"""Finished runs of a study, read once: the report and the explorer show these findings and nothing else.

Identifiers end here: the original patient ids are dropped on reading, images are captioned by research id, and file
names and paths are removed from texts (`scrub`).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pellucid.cohort.errors import UserError
from pellucid.cohort.identifiers import shareable
from pellucid.cohort.manifest import with_captions
from pellucid.cohort.runs import DamagedRun, RunFolder, finished_runs, newest_runs, require_intact
from pellucid.cohort.scan import current_scan
from pellucid.cohort.study import Study, Variable
from pellucid.embed.store import newest_vectors
from pellucid.explore.wording import backbone_label, is_baseline, without_backticks

PRIVATE_COLUMNS = ("patient_source_id", "text_read")
_SHORTEST_NAME = 5  # shorter ids and names look like counts and years
_EXAMPLE = re.compile(r" ?\(first: (?:row \d+, )?`[^`]*`\)")  # the file name in a message of the command line


@dataclass(frozen=True)
class EmbeddedBackbone:
    """One set of vectors and, where it exists, its clusters."""

    name: str  # as given to `embed`: `run:…`, `timm:…`, `pixels`
    vectors: RunFolder
    clusters: RunFolder | None

    @property
    def label(self) -> str:
        return backbone_label(self.name)

    @property
    def baseline(self) -> bool:
        return is_baseline(self.name)


@dataclass(frozen=True)
class NearDuplicateFindings:
    """What the vectors add to the scan's duplicates: the same image under two patients, and unusual images."""

    backbone: str  # label of the backbone of the vectors
    sentences: list[str]
    pairs: pd.DataFrame  # image_id, other_image_id, patient, other_patient, split, other_split, similarity, how, …
    unusual: pd.DataFrame  # image_id, patient, distance, percentile, times_usual; the most unusual first
    questions: pd.DataFrame  # like pairs: alike, but not clearly copies


@dataclass(frozen=True)
class Findings:
    """The current results of a study; stages without a run are empty."""

    study: Study
    scan: RunFolder
    images: pd.DataFrame  # the manifest without private columns; `key` numbers the rows, `caption` names them
    problem_images: pd.DataFrame  # status and reason of the images that could not be used
    source: dict[str, Any]
    backbones: list[EmbeddedBackbone]  # baselines last
    probes: dict[str, list[dict[str, Any]]]  # backbone → variables
    audits: dict[str, dict[str, Any]]  # backbone → content of its audit.json
    pretrain: RunFolder | None
    near: NearDuplicateFindings | None = None
    hidden: frozenset[str] = frozenset()  # image_ids with signs of text or a face: not shown in pages that are shared
    outdated: str = ""  # why the scan does not belong to the present study.yaml and files

    @property
    def variables(self) -> list[Variable]:
        return [v for v in self.study.variables if v.name in self.images]

    @property
    def audit(self) -> dict[str, Any]:
        """The audit of the first backbone that is not a baseline; empty if none was run."""
        named = sorted(self.audits, key=is_baseline)
        return self.audits[named[0]] if named else {}

    @property
    def audited(self) -> str:
        """Name of the backbone of `audit`."""
        return sorted(self.audits, key=is_baseline)[0] if self.audits else ""


def labelled(backbones: Sequence[EmbeddedBackbone]) -> dict[str, EmbeddedBackbone]:
    """Label → backbone, each label once."""
    found: dict[str, EmbeddedBackbone] = {}
    for backbone in backbones:
        label = backbone.label + (" (baseline)" if backbone.baseline else "")
        found[label if label not in found else f"{label} {backbone.vectors.key[:4]}"] = backbone
    return found


def study_title(study: Study) -> str:
    """Title of a study: the folder's name, or the file's name if it is not `study.yaml`."""
    name = study.path.parent.name if study.path.stem == "study" else study.path.stem
    return re.sub(r"[_-]+", " ", name).strip() or "study"


def captioned(manifest: pd.DataFrame) -> pd.DataFrame:
    """Usable images, without private columns, with `key` (row number) and `caption` (`image 2 of P00042`)."""
    usable = manifest[manifest["status"] == "ok"] if "status" in manifest else manifest
    usable = usable.drop(columns=[c for c in PRIVATE_COLUMNS if c in usable]).sort_values("image_id", ignore_index=True)
    return with_captions(usable.assign(key=range(len(usable))))


def gather(
    study: Study,
    scan: RunFolder,
    vectors_runs: Sequence[RunFolder],
    cluster_runs: Sequence[RunFolder] = (),
    probe_run: RunFolder | None = None,
    audit_runs: Sequence[RunFolder] = (),
    pretrain_run: RunFolder | None = None,
    near_run: RunFolder | None = None,
) -> Findings:
    """Read the runs given.

    Raises:
        DamagedRun: a file of one of them, or of one that they were made from, is not what was written.
    """
    given = [scan, *vectors_runs, *cluster_runs, probe_run, *audit_runs, pretrain_run, near_run]
    require_intact(*(run.path for run in given if run is not None))
    manifest = pd.read_parquet(scan.path / "manifest.parquet")
    unusable = manifest[manifest["status"] != "ok"] if "status" in manifest else manifest.iloc[:0]
    source = scan.read_json("source.json") if (scan.path / "source.json").is_file() else {}
    of_vectors = {parent["key"]: run for run in cluster_runs for parent in run.record["parents"]}
    backbones = [EmbeddedBackbone(_backbone_name(run), run, of_vectors.get(run.key)) for run in vectors_runs]
    backbones.sort(key=lambda backbone: backbone.baseline)
    names = {run.key: _backbone_name(run) for run in vectors_runs} | {
        run.path.name: _backbone_name(run) for run in vectors_runs
    }
    probes: dict[str, list[dict[str, Any]]] = {}
    if probe_run is not None:
        for name, content in probe_run.read_json("probes.json").get("backbones", {}).items():
            probes[names.get(name, name)] = content["variables"]
    audits = {}
    for run in audit_runs:
        parents = [names[p["key"]] for p in run.record["parents"] if p["key"] in names]
        audits[parents[0] if parents else run.name] = run.read_json("audit.json")
    return Findings(
        study=study,
        scan=scan,
        images=captioned(manifest),
        problem_images=unusable[["status", "reason"]].reset_index(drop=True)
        if len(unusable)
        else pd.DataFrame(columns=["status", "reason"]),
        source=scrub_all(
            source | {"problems": [without_example(text) for text in source.get("problems", [])]} if source else {},
            manifest,
        ),
        backbones=backbones,
        probes=probes,
        audits=scrub_all(audits, manifest),
        pretrain=pretrain_run,
        near=None if near_run is None else _near(near_run),
        hidden=frozenset(manifest["image_id"][~shareable(manifest)]),
    )


def gather_newest(study: Study) -> Findings:
    """The newest finished run of each stage (and, of `embed`, `cluster` and `audit`, of each backbone).

    Raises:
        UserError: the study has not been scanned.
    """
    try:
        scan, outdated = current_scan(study), ""
    except DamagedRun:
        raise
    except UserError as error:
        earlier = finished_runs(study.analysis, "scan")
        if not earlier:
            raise UserError(
                f"{study.path}: there is no scan yet; `pellucid run {shlex.quote(str(study.path))}` runs all stages"
            ) from None
        scan, outdated = earlier[-1], str(error)
    vectors = newest_vectors(study.analysis, scan)
    probes, trained = (newest_runs(study.analysis, stage, scan) for stage in ("probe", "pretrain"))

    def of_each(stage: str) -> list[RunFolder]:
        found = (newest_runs(study.analysis, stage, run) for run in vectors.values())
        return [runs[-1] for runs in found if runs]

    findings = gather(
        study,
        scan,
        list(vectors.values()),
        of_each("cluster"),
        probes[-1] if probes else None,
        of_each("audit"),
        trained[-1] if trained else None,
        newest_near(study, scan),
    )
    return replace(findings, outdated=outdated)


def newest_near(study: Study, scan: RunFolder) -> RunFolder | None:
    """The last run of `near` on vectors of this scan, of any backbone."""
    runs = newest_runs(study.analysis, "near", scan)
    return runs[-1] if runs else None


def _near(run: RunFolder) -> NearDuplicateFindings:
    content = run.read_json("near.json")
    pairs, unusual = (pd.read_parquet(run.path / f"{name}.parquet") for name in ("near", "unusual"))
    asked = run.path / "questions.parquet"  # runs of earlier versions have none
    questions = pd.read_parquet(asked) if asked.is_file() else pairs.iloc[:0]
    return NearDuplicateFindings(backbone_label(content["backbone"]), content["sentences"], pairs, unusual, questions)


def _backbone_name(run: RunFolder) -> str:
    spec = run.path / "spec.json"
    return str(json.loads(spec.read_text(encoding="utf-8")).get("backbone", run.name)) if spec.is_file() else run.name


def without_example(message: str) -> str:
    """A message of the command line without the file that it names as an example."""
    return _EXAMPLE.sub("", message)


def scrub(text: str, names: Mapping[str, str]) -> str:
    """`text` without file names and folders: each name in `names` is replaced, an absolute path too."""
    for name, instead in names.items():
        if name in text:
            text = text.replace(name, instead)
    return re.sub(r"(?<![\w<])(?:/[\w.@+ -]+){2,}/?|[A-Za-z]:\\\S+", "(a path)", text)


def scrub_all(content: Any, manifest: pd.DataFrame) -> Any:
    """Every text value of a JSON-like content, without the manifest's file names and the original patient ids."""
    return _scrubbed(content, private_names(manifest))


def private_names(manifest: pd.DataFrame) -> dict[str, str]:
    """Private name → replacement; longest first, so that no name is replaced in part."""
    names: dict[str, str] = {}
    images = captioned(manifest)
    shown = dict(zip(images["image_id"], images["caption"], strict=True))
    for image_id in manifest["image_id"].dropna().astype(str):
        for name in (image_id, image_id.rpartition("/")[2]):
            if len(name) >= _SHORTEST_NAME:
                names[name] = shown.get(image_id, "one image")
    if "patient_source_id" in manifest:
        pairs = manifest[["patient_source_id", "patient"]].dropna().astype(str).itertuples(index=False, name=None)
        names |= {own: research for own, research in pairs if len(own) >= _SHORTEST_NAME}
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def _scrubbed(content: Any, names: Mapping[str, str]) -> Any:
    if isinstance(content, str):
        return without_backticks(scrub(content, names))
    if isinstance(content, Mapping):
        return {key: _scrubbed(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [_scrubbed(value, names) for value in content]
    return content
