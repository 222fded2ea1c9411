"""A trained backbone as others load it: `backbone.safetensors` for plain timm, `preprocess.json` for the pixels.

In three lines:

    spec = json.loads(Path("preprocess.json").read_text())
    model = timm.create_model(spec["timm_name"], pretrained=False, num_classes=0, **spec["timm_kwargs"])
    model.load_state_dict(safetensors.torch.load_file("backbone.safetensors"))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cohort.runs import atomic_path, write_json
from pretrain.method import Method
from pretrain.recipe import Recipe

SCHEMA = "pellucid.preprocess/1"


def export_backbone(folder: Path, method: Method, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write both files into `folder`.

    Args:
        facts: what else a user of the backbone should know (recipe, method, how many images and patients …).
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in method.backbone().state_dict().items()}
    with atomic_path(folder / "backbone.safetensors") as temporary:
        # One entry: safetensors writes several in a random order, and the same weights should be the same bytes.
        save_file(weights, temporary, metadata={"schema": SCHEMA})
    write_json(
        folder / "preprocess.json",
        {
            "schema": SCHEMA,
            "timm_name": recipe.backbone,
            "timm_kwargs": {"img_size": recipe.img_size},  # for timm.create_model
            "img_size": recipe.img_size,
            "mean": list(recipe.mean),
            "std": list(recipe.std),
            "fit": "stretch",  # the whole image onto the square: no border is lost
            "pooling": method.pooling,
            "dim": int(method.backbone().num_features),
            **facts,
        },
    )
