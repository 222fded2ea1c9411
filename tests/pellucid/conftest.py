"""A study with a run of every stage that stores something, to withdraw patients from."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.runs.folder import begin_run
from pellucid.cohort.runs.history import list_runs
from pellucid.cohort.scan import current_scan, scan
from pellucid.cohort.study import Study, load_study
from pellucid.embed.extract.stage import embed
from pellucid.embed.index.knn_graph import normalised
from pellucid.embed.store.catalogue import newest_vectors
from pellucid.embed.store.vectors import load_vectors
from pellucid.pretrain.stage import pretrain
from pellucid.withdrawal import forget_patients

TINY = {
    "recipe": "mae-tiny-cpu", "backbone": "test_vit", "img_size": 32, "source_px": 40, "batch_size": 8,
    "images_seen": 32,
    "precision": "fp32", "mae": {"decoder_dim": 32, "decoder_depth": 1},
    "machine": {"checkpoint_every": 4, "workers": 1}, "watch": {"every": 4, "images": 60},
}  # fmt: skip


@dataclass
class Traces:
    """What must not be found again, as it would stand in files."""

    words: list[bytes]
    images: list[bytes]
    vectors: list[bytes]

    def found(self, *folders: Path) -> list[str]:
        """`file: what`, for everything that stands anywhere below the folders, also inside Parquet."""
        said = []
        for folder in folders:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                content = path.read_bytes()
                if path.suffix == ".parquet":
                    frame = pd.read_parquet(path)
                    content += frame.to_csv().encode()
                for kind in ("words", "images", "vectors"):
                    if any(thing in content for thing in getattr(self, kind)):
                        said.append(f"{path.relative_to(folder).as_posix()}: {kind}")
        return said


@dataclass
class World:
    """A study, and what tests ask about it."""

    study: Study

    def withdraw(self, *patients: str) -> list[str]:
        """Withdraw patients and return what was said."""
        said: list[str] = []
        forget_patients(self.study, patients, yes=True, say=said.append)
        return said

    def a_patient(self, split: str = "train") -> str:
        """Original id of the patient with the most images in a split."""
        manifest = pd.read_parquet(current_scan(self.study).path / "manifest.parquet")
        chosen = manifest[(manifest["status"] == "ok") & (manifest["split"] == split)]
        return str(chosen["patient_source_id"].mode().iloc[0])

    def traces_of(self, patient: str) -> Traces:
        """Ids, image bytes and vectors of a patient."""
        scanned = current_scan(self.study)
        manifest = pd.read_parquet(scanned.path / "manifest.parquet")
        theirs = manifest[manifest["patient_source_id"] == patient]
        usable = theirs[theirs["status"] == "ok"]["image_id"].tolist()
        prepared = PreparedImages.open(scanned.path, usable)
        pictures = [prepared.encoded(i) for i in range(len(prepared))]
        rows = []
        for run in newest_vectors(self.study.analysis, scanned).values():
            stored = load_vectors(run.path)
            values = np.asarray(stored.values)[stored.images["image_id"].isin(usable).to_numpy()]
            rows += [row.tobytes() for part in (values, normalised(values)) for row in part]
        names = [patient, *theirs["image_id"], *(name.rpartition("/")[2] for name in theirs["image_id"])]
        return Traces(
            [name.encode() for name in names], [*pictures, *(base64.b64encode(p)[:200] for p in pictures)], rows
        )

    def tree(self) -> dict[str, str]:
        """Every file and its hash; locks and other hidden files aside, which commands write that change nothing."""
        return {
            path.relative_to(self.study.path.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.study.path.parent.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }

    def wrong_checksums(self) -> list[str]:
        """What `status --verify` would report."""
        return [
            wrong
            for row in list_runs(self.study.analysis)
            if row["state"] != "failed"
            for wrong in verify(Path(row["path"]))
        ]


def write_annotations(study: Study, manifest: pd.DataFrame) -> None:
    folder = study.withdrawn.parent
    folder.mkdir(exist_ok=True)
    rows = [
        [image_id, "overall", "poor", "A. Reader", "2026-01-02T03:04:05+00:00"] for image_id in manifest["image_id"]
    ]
    frame = pd.DataFrame(rows, columns=["image_id", "measure", "grade", "author", "time"])
    frame.to_csv(folder / "quality.csv", index=False)
    lines = [json.dumps({"image_id": image_id, "said": "look"}) + "\n" for image_id in manifest["image_id"]]
    (folder / "notes.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def withdrawal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a run of every stage that stores something. Read only."""
    folder = tmp_path_factory.mktemp("forget") / "study"
    write_phantom(folder, PhantomConfig(patients=16, images_per_patient=(2, 3), width_px=128, height_px=128))
    said = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    said |= {"pretrain": TINY, "scan": {"shard_images": 8, "size_px": 128}}
    (folder / "study.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    study = load_study(folder)
    write_annotations(study, pd.DataFrame({"image_id": []}))
    scanned = scan(study, progress=False)
    manifest = pd.read_parquet(scanned.path / "manifest.parquet")
    write_annotations(study, manifest[manifest["status"] == "ok"])
    scanned = scan(study, progress=False)
    trained = pretrain(study, scanned, device="cpu", progress=False)
    embed(study, scanned, "pixels", device="cpu", progress=False)
    vectors = embed(study, scanned, f"run:{trained.path}", device="cpu", progress=False)
    prepared = PreparedImages.open(scanned.path)
    with begin_run(study.analysis, "cluster", vectors.name, {}, [vectors, scanned]) as run:
        load_vectors(vectors.path).images.to_parquet(run.path / "clusters.parquet")
    with begin_run(study.analysis, "report", "report", {}, [scanned, vectors, run]) as run:
        pictures = [f"<img src='data:image/jpeg;base64,{base64.b64encode(prepared.encoded(i)).decode()}'>"
                    for i in range(len(prepared))]  # fmt: skip
        (run.path / "report.html").write_text("".join(pictures), encoding="utf-8")
    for name in (".half-00000000.partial", "old-00000000.damaged-1"):
        shutil.copytree(vectors.path, study.analysis / "embed" / name)
        (study.analysis / "embed" / name / "SHA256SUMS").unlink()
    half = study.analysis / "pretrain" / ".mae-00000000.partial"
    shutil.copytree(trained.path, half)
    (half / "SHA256SUMS").unlink()
    (half / "failure.json").write_text(
        json.dumps({"error": f"{manifest['image_id'].iloc[0]}: damaged"}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def world(withdrawal_folder: Path, tmp_path: Path) -> World:
    """A copy of the study, to change."""
    shutil.copytree(withdrawal_folder, tmp_path / "study")
    return World(load_study(tmp_path / "study"))
