"""A small phantom study with every stage that report and explorer show; its audit is hand-made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.atomic_files import write_json
from pellucid.cohort.runs.folder import RunFolder, begin_run
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study
from pellucid.embed.extract.stage import embed
from pellucid.embed.index import build_index
from pellucid.embed.near_duplicates.stage import near
from pellucid.embed.store.vectors import write_vectors
from pellucid.explore.clusters.stage import cluster
from pellucid.explore.report.stage import report

SCRIPT = "<script>alert(1)</script>"
LINK = "<a href='http://evil.example/'>x</a> ![p](http://evil.example/p.png)"


def _variable(name: str, role: str, score: float | None, **more: Any) -> dict[str, Any]:
    spread = 0.05
    return {
        "name": name,
        "role": role,
        "kind": "categorical",
        "levels": [],
        "n_images": 130,
        "n_patients": 60,
        "n_events": 24,
        "metric": "auroc",
        "score": score,
        "ci_low": None if score is None else max(0.0, score - spread),
        "ci_high": None if score is None else min(1.0, score + spread),
        "chance": 0.5,
        "p_value": None if score is None else (0.001 if score > 0.6 else 0.4),
        "q_value": None if score is None else (0.002 if score > 0.6 else 0.5),
        "detectable": 0.64,
        "probe": "ridge",
        "saturated": score is not None and score > 0.99,
        "note": "",
        **more,
    }


def variables(shift: float) -> list[dict[str, Any]]:
    return [
        _variable("diagnosis", "clinical", 0.84 - shift),
        _variable("severity", "clinical", 0.44 - shift, metric="spearman", chance=0.0),
        _variable("age", "clinical", 0.11, metric="spearman", chance=0.0),
        _variable("recurrence", "clinical", None, note="too few patients (7)"),
        _variable("device", "acquisition", 0.99 - shift / 2),
        _variable("operator", "acquisition", 0.55),
        _variable("site", "acquisition", 0.51),
        _variable("year", "acquisition", 0.02, metric="spearman", chance=0.0),
    ]


def _remedied(acquisition: float, clinical: float) -> dict[str, Any]:
    return {
        role: {probe: {"score": s, "ci_low": s - 0.02, "ci_high": s + 0.02} for probe in ("linear", "knn")}
        for role, s in (("acquisition", acquisition), ("clinical", clinical))
    }


def audit_content() -> dict[str, Any]:
    def pair(
        clinical: str, acquisition: str, v: float, scores: tuple[float, float], verdict: str, sentence: str
    ) -> dict[str, Any]:
        def beyond(score: float) -> dict[str, Any]:
            return {
                "score": score,
                "ci_low": score - 0.08,
                "ci_high": min(1, score + 0.08),
                "p_value": 0.01 if score > 0.65 else 0.5,
            }

        return {
            "clinical": clinical,
            "acquisition": acquisition,
            "association": {"measure": "cramers_v", "value": v, "p_value": 0.001 if v > 0.2 else 0.6},
            "clinical_beyond_acquisition": beyond(scores[0]),
            "acquisition_beyond_clinical": beyond(scores[1]),
            "transfer": {
                "metric": "auroc",
                "levels": [{"level": "A", "within": 0.85, "across": 0.62}],
                "within": 0.85,
                "across": 0.62,
                "drop": 0.23,
                "ci_low": 0.11,
                "ci_high": 0.35,
                "note": "",
            },
            "confounded_training": {
                "levels": ["A", "B"],
                "confounding": [0.0, 0.25, 0.5, 0.75, 1.0],
                "scores": [0.84, 0.82, 0.78, 0.7, 0.55],
                "average_drop": 0.15,
                "ci_low": -0.01,
                "ci_high": 0.31,
                "n_train": 80,
                "note": "",
            },
            "neighbours": {
                **dict.fromkeys(("ilisi", "ilisi_chance", "kbet_chance", "ami_clinical", "ami_acquisition"), 0.25),
                "k": 20,
                "robustness_index": 0.31,
                "ci_low": 0.26,
                "ci_high": 0.37,
                "chance": 0.48,
                "kbet_rejection": 0.77,
                "n_clusters": 4,
                "clustering_score": -0.2,
                "n_patients": 40,
                "note": "",
            },
            "remedies": [
                {"name": "none", **_remedied(0.98, 0.84), "sentence": ""},
                {"name": "leace", **_remedied(0.55, 0.71), "sentence": "LEACE: …"},
                {"name": "combat", "acquisition": {}, "clinical": {}, "sentence": "ComBat: left out."},
            ],
            "verdict": verdict,
            "sentence": sentence,
        }

    return {
        "schema": "pellucid.audit/1",
        "variables": variables(0),
        "pairs": [
            pair(
                "diagnosis",
                "operator",
                0.04,
                (0.82, 0.55),
                "encoded_not_confounded",
                "Operator does not account for diagnosis in these patients.",
            ),
            pair(
                "diagnosis",
                "site",
                0.02,
                (0.83, 0.51),
                "encoded_not_confounded",
                "Site does not account for diagnosis in these patients.",
            ),
            pair(
                "diagnosis",
                "device",
                0.58,
                (0.62, 0.97),
                "explained_by_acquisition",
                "Diagnosis is explained by device: among patients of the same device it is not predicted.",
            ),
        ],
    }


class Whole:
    """The study and all its runs."""

    def __init__(self, study: Study, runs: dict[str, RunFolder]) -> None:
        self.study, self.runs = study, runs

    def report(self) -> RunFolder:
        r = self.runs
        return report(
            self.study,
            r["scan"],
            [r["own"], r["pixels"]],
            r["cluster"],
            r["probe"],
            r["audit"],
            r["pretrain"],
            r["near"],
        )


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("phantom") / "polyp-study"
    small = PhantomConfig(patients=60, images_per_patient=(1, 3), width_px=192, height_px=144, unreadable=0.02)
    write_phantom(folder, small)
    return _run_all(folder)


@pytest.fixture(scope="session")
def hostile(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The same study, written by an author who puts markup into the table's cells."""
    folder = tmp_path_factory.mktemp("hostile") / "polyp-study"
    shutil.copytree(whole.study.path.parent, folder, ignore=shutil.ignore_patterns("embed", "cluster", "report"))
    table = pd.read_csv(folder / "clinical.csv")
    table["device"] = table["device"].replace({table["device"].iloc[0]: SCRIPT})
    table["site"] = table["site"].replace({table["site"].iloc[0]: LINK})
    table.to_csv(folder / "clinical.csv", index=False)
    return _run_all(folder)


def _run_all(folder: Path) -> Whole:
    study = load_study(folder, ["near.patience=5"])
    scanned = scan(study, progress=False)
    pixels = embed(study, scanned, "pixels", progress=False)
    analysis = study.analysis
    with begin_run(analysis, "pretrain", "mae-tiny-cpu", {"recipe": "mae"}, [scanned], seed=0) as pretrain:
        steps = [{"step": i, "loss": 0.4 + 0.6 * float(np.exp(-i / 60))} for i in range(300)]
        (pretrain.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    own = planted_vectors(analysis, scanned, pretrain)
    clusters = cluster(study, own, scanned, progress=False)
    alike = near(study, own, scanned, progress=False)
    with begin_run(analysis, "probe", "probe", {"permutations": 99}, [own, pixels]) as probe:
        both = {"run:mae-tiny-cpu-00000000": {"variables": variables(0)}, "pixels": {"variables": variables(0.12)}}
        write_json(probe.path / "probes.json", {"schema": "pellucid.probes/1", "backbones": both})
    with begin_run(analysis, "audit", "mae-tiny-cpu", {"permutations": 99}, [own]) as audit:
        write_json(audit.path / "audit.json", audit_content())
    named = {"scan": scanned, "pixels": pixels, "own": own, "cluster": clusters}
    return Whole(study, {**named, "probe": probe, "audit": audit, "pretrain": pretrain, "near": alike})


def planted_vectors(analysis: Path, scanned: RunFolder, pretrain: RunFolder) -> RunFolder:
    """Vectors that encode only the device, with a little noise."""
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    images = manifest[manifest["status"] == "ok"][["image_id", "patient", "split", "device"]].reset_index(drop=True)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(images["device"].nunique(), 32))
    codes = images["device"].astype("category").cat.codes.to_numpy()
    values = (centres[codes] + 0.25 * rng.normal(size=(len(images), 32))).astype(np.float32)
    with begin_run(
        analysis, "embed", "run-mae-tiny-cpu", {"backbone": "run:mae-tiny-cpu-00000000"}, [scanned, pretrain]
    ) as own:
        build_index(own.path, values, None)
        write_vectors(own.path, values, images.drop(columns=["device"]), {"backbone": "run:mae-tiny-cpu-00000000"})
    return own
