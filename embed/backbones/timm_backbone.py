"""`timm:`, `timm-random:` and `run:`: networks of timm with its own weights, with seeded random ones, or with a study's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import sha256_file
from pellucid.embed.backbones.network_adapters import Source, TimmNetwork


def from_timm(name: str, rest: str, pretrained: bool) -> Source:
    """`NAME` or `NAME@SIZE`, pretrained or random.

    Raises:
        UserError: no such model, no such size, or weights that are not to be had.
    """
    architecture, size = sized(name, rest)
    if pretrained:
        require_weights(name, architecture)
    model = build(name, architecture, size, pretrained)
    config = timm.data.resolve_data_config({}, model=model)
    return Source(
        name,
        TimmNetwork(model),
        size or int(config["input_size"][-1]),
        "model",
        tuple(config["mean"]),
        tuple(config["std"]),
        {"timm_name": architecture, "weights": "pretrained" if pretrained else "random, seed 0"},
    )


def sized(name: str, rest: str) -> tuple[str, int | None]:
    """`NAME@SIZE` → timm's name and the side in pixels, None where it is not given.

    Raises:
        UserError: timm does not know the name, or the size is no number.
    """
    architecture, _, size = rest.partition("@")
    if size and not size.isdigit():
        raise UserError(f"backbone `{name}`: after @ stands the side of the square in pixels, for example @112")
    if not timm.is_model(architecture):
        near = did_you_mean(architecture.split(".")[0], timm.list_models())
        raise UserError(f"backbone `{name}`: timm has no model `{architecture}`{near}")
    return architecture, int(size) if size else None


def build(name: str, architecture: str, size: int | None, pretrained: bool = False) -> Any:
    """A timm network without its classifier; what is random in it is the same every time.

    Raises:
        UserError: it takes no size, or cannot be made.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are a baseline: everybody's must be the same
        try:
            model = timm.create_model(
                architecture, pretrained=pretrained, num_classes=0, **({"img_size": size} if size else {})
            )
        except TypeError:
            raise UserError(f"backbone `{name}`: {architecture} takes no @SIZE") from None
        except Exception as error:
            raise UserError(f"backbone `{name}`: cannot be made ({type(error).__name__}: {error})") from None
    _refuse_left_over(name, model, size)
    return model


def _refuse_left_over(name: str, model: Any, size: int | None) -> None:
    """A transformer drops the pixels to the right and below that fill no whole patch, and says nothing.

    Raises:
        UserError: such pixels would be left over.
    """
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    side = int(patch[0]) if isinstance(patch, tuple) else 0
    if size and side and size % side:
        near = max(side, round(size / side) * side)
        raise UserError(f"backbone `{name}`: {size} pixels are no multiple of the patch of {side}: use @{near}")


def require_weights(name: str, architecture: str) -> None:
    """Say within seconds that weights are not to be had; the hub client alone would retry for most of a minute."""
    import huggingface_hub

    config = timm.get_pretrained_cfg(architecture)
    repository = getattr(config, "hf_hub_id", None)
    if config is None or not (repository or config.url or config.file):
        raise UserError(
            f"backbone `{name}`: timm has no pretrained weights for {architecture}; timm-random:{architecture} has"
        )
    if not repository:
        return
    names = ("model.safetensors", "pytorch_model.bin", config.hf_hub_filename or "")
    if any(n and isinstance(huggingface_hub.try_to_load_from_cache(repository, n), str) for n in names):
        return
    try:
        huggingface_hub.HfApi().model_info(repository, timeout=5)
    except Exception as error:
        raise UserError(
            f"backbone `{name}`: its weights ({repository}) are not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}): fetch them once on a machine with a network and copy the cache, or use "
            f"timm-random:{architecture} or run:FOLDER"
        ) from None


def from_run(folder: Path) -> Source:
    """The backbone that a pretrain run exported, pooled as its `preprocess.json` says.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from safetensors.torch import load_file

    weights, description = folder / "backbone.safetensors", folder / "preprocess.json"
    if not weights.is_file() or not description.is_file():
        raise UserError(
            f"run:{folder}: holds no backbone.safetensors with preprocess.json; is it a finished pretrain run?"
        )
    try:
        said = json.loads(description.read_text(encoding="utf-8"))
        size = {"img_size": said["img_size"]} if _takes_size(said["timm_name"]) else {}
        model = timm.create_model(said["timm_name"], pretrained=False, num_classes=0, **size)
        model.load_state_dict(load_file(weights), strict=True)
        details = {k: said[k] for k in ("timm_name", "method", "recipe", "n_images_trained") if k in said}
        return Source(
            f"run:{folder.name}",
            TimmNetwork(model),
            int(said["img_size"]),
            said["pooling"],
            tuple(said["mean"]),
            tuple(said["std"]),
            {**details, "weights": "pretrained by this study", "file_sha256": sha256_file(weights)},
        )
    except Exception as error:
        raise UserError(
            f"run:{folder}: the exported backbone cannot be loaded ({type(error).__name__}: {error})"
        ) from None


def _takes_size(architecture: str) -> bool:
    """Whether the model is built for one image size; a convolutional one is not."""
    with torch.device("meta"):
        return hasattr(timm.create_model(architecture, pretrained=False), "patch_embed")
