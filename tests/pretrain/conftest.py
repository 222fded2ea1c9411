"""A small finished scan of noise-textured discs, written by hand through the public run and shard functions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pellucid.cohort.images.pixels import encode
from pellucid.cohort.images.prepared_images import shard_path, write_shard
from pellucid.cohort.runs.folder import RunFolder, begin_run
from pellucid.cohort.study import Study, load_study

# One block of timm's smallest ViT costs next to nothing at 32 px; everything else is as in the shipped recipes.
TINY: dict[str, Any] = {
    "backbone": "test_vit",
    "img_size": 32,
    "source_px": 40,
    "batch_size": 8,
    "images_seen": 8 * 12,
    "precision": "fp32",
    "log_every": 2,
    "machine": {"checkpoint_every": 4, "workers": 2},
}
TINY_MAE = {**TINY, "recipe": "mae-tiny-cpu", "mae": {"decoder_dim": 32, "decoder_depth": 1}}
TINY_DINO = {
    **TINY,
    "recipe": "dino-tiny-cpu",
    "views": {"local": {"count": 2, "size_px": 16}},
    "dino": {"output_dim": 32, "hidden_dim": 32, "bottleneck_dim": 16, "freeze_last_layer": 0.2},
}
TINY_DINOV2 = {
    **TINY,
    "recipe": "dinov2-tiny-cpu",
    "views": {"local": {"count": 2, "size_px": 16}},
    "dinov2": {"output_dim": 32, "hidden_dim": 32, "bottleneck_dim": 16, "freeze_last_layer": 0.2},
}
TINY_LEJEPA = {
    **TINY,
    "recipe": "lejepa-tiny-cpu",
    # Imitated JPEG rounds: what differs by a float's last digit there comes out a grey level apart.
    "acquisition_robust": False,
    "views": {"local": {"count": 2, "size_px": 16}},
    "lejepa": {"hidden_dim": 32, "projection_dim": 8, "directions": 64},
}
TINY_OF = {"mae": TINY_MAE, "dino": TINY_DINO, "dinov2": TINY_DINOV2, "lejepa": TINY_LEJEPA}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sums in every process, and no quarrel over cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> dict[str, dict[str, Any]]:
    """The `pretrain:` section of a twelve-step training, by method."""
    return copy.deepcopy(TINY_OF)


def make_image(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(48, 48, 3): a coloured disc on a smooth background with some noise."""
    y, x = np.mgrid[:48, :48]
    centre, radius = rng.uniform(16, 32, 2), rng.uniform(6, 14)
    disc = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2)[..., None]
    picture = np.where(disc, rng.uniform(80, 255, 3), rng.uniform(0, 160, 3)) + rng.normal(0, 4, (48, 48, 3))
    return picture.clip(0, 255).astype(np.uint8)


def make_scan(root: Path, n_train: int = 24, n_test: int = 8) -> RunFolder:
    """A scan with 2 images per patient, a test split, an external one and an unreadable file."""
    rng = np.random.default_rng(0)
    splits = ["train"] * n_train + ["test"] * n_test + ["external"] * 2
    rows = [
        {
            "image_id": f"{split}/{i:03d}.jpg",
            "status": "ok",
            "reason": "",
            "patient": f"P{i // 2:05d}",
            "split": split,
            "shard": 0,
            "shard_row": i,
        }
        for i, split in enumerate(splits)
    ]
    with begin_run(root / "analysis", "read", "read", {"n": n_train}, inputs={"images": "made"}) as read:
        if not read.done:
            (read.path / "prepared").mkdir(exist_ok=True)
            images = [encode(make_image(rng), 95) for _ in rows]
            write_shard(shard_path(read.path, 0), [str(row["image_id"]) for row in rows], images)
    broken = {**rows[0], "image_id": "train/broken.jpg", "status": "unreadable", "shard": -1, "shard_row": -1}
    with begin_run(root / "analysis", "scan", "scan", {}, parents=[read]) as scan:
        if not scan.done:
            pd.DataFrame([*rows, broken]).to_parquet(scan.path / "manifest.parquet")
    return scan


def make_study(root: Path, pretrain: dict[str, Any]) -> Study:
    """The study to that scan."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "study.yaml"
    path.write_text(yaml.safe_dump({"images": ".", "patient": "none", "pretrain": pretrain}), encoding="utf-8")
    return load_study(path)


@pytest.fixture
def cohort(tmp_path: Path) -> Callable[..., tuple[Study, RunFolder]]:
    """cohort(section, name="a") → a study with that `pretrain:` section in its own folder, and its scan."""

    def build(section: dict[str, Any], name: str = "a") -> tuple[Study, RunFolder]:
        return make_study(tmp_path / name, section), make_scan(tmp_path / name)

    return build
