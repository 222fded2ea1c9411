"""Every stage of a tiny study, by functions and by the command line: equal runs, and the parents of the stage table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import pellucid as public
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.history import list_runs, open_finished
from pellucid.cohort.runs.stages import STAGES, find_stage
from pellucid.explore.clusters.description import associations

pytestmark = pytest.mark.long

TINY = {
    "pretrain": {
        "recipe": "mae-tiny-cpu", "backbone": "test_vit", "img_size": 32, "source_px": 40, "batch_size": 8,
        "images_seen": 16, "mae": {"decoder_dim": 32, "decoder_depth": 1},
        "machine": {"checkpoint_every": 4, "workers": 0}, "watch": {"every": 4, "images": 40},
    },
    "scan": {"size_px": 128, "workers": 1},
    "audit": {"permutations": 19, "bootstrap": 50, "folds": 2, "further": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "study"
    write_phantom(folder, PhantomConfig(patients=36, images_per_patient=(1, 2), width_px=160, height_px=128))
    declared = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    (folder / "study.yaml").write_text(yaml.safe_dump(declared | TINY), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def by_functions(study_folder: Path) -> Path:
    """Folder `analysis` of a study whose stages were called one after the other, as a notebook does."""
    study = public.load_study(study_folder, [f"analysis={study_folder / 'by-functions'}"])
    public.scan_study(study, progress=False)
    trained = public.pretrain_study(study, device="cpu", progress=False)
    random = trained.read_json("preprocess.json")
    for backbone in ("pixels", f"timm-random:{random['timm_name']}@{random['img_size']}", None):
        public.embed_study(study, backbone=backbone, device="cpu", progress=False)
    public.near_study(study, progress=False)
    public.cluster_study(study, progress=False)
    public.probe_study(study, progress=False)
    public.audit_study(study, progress=False)
    public.report_study(study)
    return study.analysis


@pytest.fixture(scope="module")
def by_command_line(study_folder: Path, pellucid: Callable[..., Any]) -> Path:
    """Folder `analysis` of the same study after `pellucid run`."""
    analysis = study_folder / "by-command-line"
    done = pellucid("run", study_folder, f"analysis={analysis}", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return analysis


def keys(analysis: Path) -> dict[str, set[str]]:
    """{stage: keys of its finished runs}."""
    found: dict[str, set[str]] = {}
    for row in list_runs(analysis):
        found.setdefault(row["stage"], set()).add(open_finished(Path(row["path"])).key)
    return found


def test_functions_and_command_line_give_equal_runs(by_functions: Path, by_command_line: Path) -> None:
    mine, theirs = keys(by_functions), keys(by_command_line)
    assert {stage: len(runs) for stage, runs in mine.items()} == {stage: len(runs) for stage, runs in theirs.items()}
    assert all(mine[stage] == theirs[stage] for stage in ("read", "scan", "pretrain"))
    # Weights may differ in the last digit: on some processors PyTorch's sums depend on where a tensor lies in memory.
    stores = [sorted((folder / "embed").glob("*/vectors.npy")) for folder in (by_functions, by_command_line)]
    assert len(stores[0]) == 3
    for left, right in zip(*stores, strict=True):
        np.testing.assert_allclose(np.load(left), np.load(right), atol=1e-4)


def test_a_real_run_has_the_parents_and_files_of_the_stage_table(by_command_line: Path) -> None:
    rows = list_runs(by_command_line)
    assert {row["stage"] for row in rows} == {stage.name for stage in STAGES}
    for row in rows:
        stage, folder = find_stage(row["stage"]), Path(row["path"])
        parents = [parent["stage"] for parent in open_finished(folder).record["parents"]]
        assert stage.accepts(parents), (stage.name, parents)
        assert all((folder / name).is_file() for name in stage.artefacts), stage.name
    for stage in STAGES:
        per_study = [row for row in rows if row["stage"] == stage.name]
        assert stage.per_backbone or len(per_study) == 1, stage.name


def test_a_repeated_run_reuses_every_stage(
    study_folder: Path, by_command_line: Path, pellucid: Callable[..., Any]
) -> None:
    before = keys(by_command_line)
    again = pellucid("run", study_folder, f"analysis={by_command_line}", "--device", "cpu")
    assert again.stdout.count("already done") == sum(map(len, before.values())) - 1  # `read` is a part of `scan`
    assert "done → " not in again.stdout.replace("already done → ", "")
    status = pellucid("status", study_folder, f"analysis={by_command_line}")
    assert "all steps are done: pellucid explore" in status.stdout
    listed = json.loads(pellucid("status", study_folder, f"analysis={by_command_line}", "--json").stdout)
    assert {row["state"] for row in listed["runs"]} == {"done"}


def test_search_and_export_by_functions(study_folder: Path, by_functions: Path, tmp_path: Path) -> None:
    overrides = [f"analysis={by_functions}"]
    vectors = public.load_vectors(next((by_functions / "embed").glob("run-*")))
    query = vectors.images["image_id"].iloc[0]
    by_id = public.search_study(study_folder, query, overrides, k=3)
    by_file = public.search_study(study_folder, str(study_folder / "images" / query), overrides, k=3)
    assert by_id.hits["image_id"].tolist() == by_file.hits["image_id"].tolist()
    assert len(by_id.hits) == 3
    first, *_ = public.export_study(study_folder, "parquet", tmp_path / "vectors.parquet", overrides)
    assert first.startswith(f"{len(vectors.images)} vectors of run:")
    assert (tmp_path / "vectors.parquet").is_file()
    states = public.study_status(study_folder, overrides)
    assert all(row["index"] for row in states if row["stage"] == "embed")


def test_the_same_pair_has_the_same_association_in_every_stage(by_functions: Path) -> None:
    runs = {row["stage"]: open_finished(Path(row["path"])) for row in list_runs(by_functions)}
    told = {(p["clinical"], p["acquisition"]): p for p in runs["scan"].read_json("source.json")["associations"]}
    audited = {(p["clinical"], p["acquisition"]): p for p in runs["audit"].read_json("audit.json")["pairs"]}
    manifest = pd.read_parquet(runs["scan"].path / "manifest.parquet")
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    variables = {v.name: v for v in public.load_study(by_functions.parent).variables}
    tested, keys_told = 0, ("measure", "value", "p_value", "n_patients")
    for names, pair in audited.items():
        found = pair["association"]
        if found["p_value"] is None:
            continue
        assert {key: told[names][key] for key in keys_told} == {key: found[key] for key in keys_told}, names
        if variables[names[1]].kind in {"ordinal", "continuous"}:
            continue  # clusters are levels, never numbers
        tested += 1
        known = usable[usable[names[1]].notna()].reset_index(drop=True)
        groups = pd.factorize(known[names[1]], sort=True)[0]
        [clustered] = associations(known, groups, [variables[names[0]]])
        assert {key: clustered[key] for key in keys_told} == {key: found[key] for key in keys_told}, names
    assert tested
