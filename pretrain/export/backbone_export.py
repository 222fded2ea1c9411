"""Export a trained backbone: weights for plain timm, preprocess.json and a model card.

To load it:

    spec = json.loads(Path("preprocess.json").read_text())
    model = timm.create_model(spec["timm_name"], pretrained=False, num_classes=0, **spec["timm_kwargs"])
    model.load_state_dict(safetensors.torch.load_file("backbone.safetensors"))
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import atomic_path, write_json
from pellucid.pretrain.engine.checkpoint import list_checkpoints, load_best
from pellucid.pretrain.export.model_card import model_card
from pellucid.pretrain.methods.backbones import timm_kwargs
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.recipe import Recipe

SCHEMA = "pellucid.preprocess/1"


def export_backbone(folder: Path, method: Method, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write `backbone.safetensors`, `preprocess.json` and `MODEL_CARD.md` into `folder`.

    Args:
        facts: further content of preprocess.json: recipe, method, images seen, and `patient_counts`.

    Raises:
        UserError: they cannot be written; no incomplete file remains.
    """
    backbone = method.backbone()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()}
    spec = {
        "schema": SCHEMA,
        "timm_name": recipe.backbone,
        "timm_kwargs": timm_kwargs(backbone, recipe.img_size),  # for timm.create_model
        "img_size": recipe.img_size,
        "mean": list(recipe.mean),
        "std": list(recipe.std),
        "fit": "stretch",  # the whole image, stretched to the square
        "pooling": method.pooling,
        "dim": int(backbone.num_features),
        **facts,
    }
    try:
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / "backbone.safetensors") as temporary:
            # A single entry: safetensors writes several in random order, which would change the bytes.
            save_file(weights, temporary, metadata={"schema": SCHEMA})
            umask = os.umask(0o077)  # it can only be read by setting it; other threads may be writing
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner may read
        write_json(folder / "preprocess.json", spec)
        with atomic_path(folder / "MODEL_CARD.md") as temporary:
            temporary.write_text(model_card(spec), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}: the backbone cannot be written ({error}); the training is complete and saved in the last "
            "checkpoint. Free disk space and rerun the command: it only writes the missing files"
        ) from None


def export_checkpoint(folder: Path, path: Path, method: Method, recipe: Recipe, facts: Mapping[str, Any]) -> Path:
    """Export a checkpoint of a failed training to `last-good-00000800/`; `method` has its weights afterwards."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    method.load_state_dict(state["method"])
    step = int(state["step"])
    apart = folder / f"last-good-{step:08d}"
    export_backbone(apart, method, recipe, {**facts, "step": step, "images_seen": step * recipe.batch_size})
    return apart


def export_best(folder: Path, method: Method, recipe: Recipe, facts: Mapping[str, Any]) -> Path | None:
    """Export the checkpoint with the best RankMe to `best-00000800/`, unless it is the last one.

    Call it after `export_backbone`: `method` has the best weights afterwards. It can be used like any other backbone:
    `pellucid embed STUDY --backbone run:…/best-00000800`.

    Returns:
        The folder, or None if the last checkpoint is the best or none has a score.
    """
    best, saved = load_best(folder, torch.device("cpu")), list_checkpoints(folder)
    if best is None or (saved and saved[-1].stem == f"step-{best['step']:08d}"):
        return None
    method.load_state_dict(best["method"])
    step = int(best["step"])
    apart = folder / f"best-{step:08d}"
    seen = {"step": step, "effective_rank": best["score"], "images_seen": step * recipe.batch_size}
    export_backbone(apart, method, recipe, {**facts, **seen})
    return apart


def patient_counts(
    manifest: pd.DataFrame, splits: Sequence[str], scan: str, held_out: Collection[str] = ()
) -> dict[str, Any]:
    """Numbers of patients and images that were used for training and excluded; an export identifies no patient.

    Args:
        manifest: of the scan; uses the columns `image_id`, `status`, `patient` and `split`.
        splits: those used for training.
        held_out: image_ids of those splits that were only monitored.
        scan: name of the scan's run, whose manifest lists these patients.
    """
    usable = manifest[manifest["status"] == "ok"]
    watched = usable["image_id"].isin(list(held_out)) if held_out else pd.Series(False, index=usable.index)
    trained = usable["split"].isin(list(splits)) & ~watched
    kept_out = {
        str(split): {"n_images": len(rows), "n_patients": int(rows["patient"].nunique())}
        for split, rows in usable[~trained].groupby(usable["split"].mask(watched, "watched"), sort=True)
    }
    return {
        "n_images_trained": int(trained.sum()),
        "n_patients_trained": int(usable.loc[trained, "patient"].nunique()),
        "splits_trained": list(splits),
        "excluded": kept_out,
        "scan": scan,
    }
