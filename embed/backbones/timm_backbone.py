"""`timm:`, `timm-random:` and `run:`: timm networks with pretrained weights, random weights, or those of a pretrain
run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import require_intact_if_finished, sha256_file
from pellucid.embed.backbones.network_adapters import LoadedNetwork, TimmNetwork


def from_timm(name: str, rest: str, pretrained: bool) -> LoadedNetwork:
    """Load `NAME` or `NAME@SIZE`, pretrained or random.

    Raises:
        UserError: unknown model, unsupported size, or weights that are not available.
    """
    architecture, size = sized(name, rest)
    if pretrained:
        require_weights(name, architecture)
    model = build(name, architecture, size, pretrained)
    config = timm.data.resolve_data_config({}, model=model)
    return LoadedNetwork(
        name,
        TimmNetwork(model),
        size or int(config["input_size"][-1]),
        "model",
        tuple(config["mean"]),
        tuple(config["std"]),
        {"timm_name": architecture, "weights": "pretrained" if pretrained else "random, seed 0"},
    )


def sized(name: str, rest: str) -> tuple[str, int | None]:
    """`NAME@SIZE` → timm's name and the side in pixels, None if not given.

    Raises:
        UserError: timm does not know the name, or the size is not a number.
    """
    architecture, _, size = rest.partition("@")
    if size and not size.isdigit():
        raise UserError(f"backbone `{name}`: after @, write the side of the square in pixels, for example @112")
    if not timm.is_model(architecture):
        near = did_you_mean(architecture.split(".")[0], timm.list_models())
        raise UserError(f"backbone `{name}`: timm has no model `{architecture}`{near}")
    return architecture, int(size) if size else None


def build(name: str, architecture: str, size: int | None, pretrained: bool = False) -> Any:
    """A timm network without its classifier; random weights have a fixed seed.

    Raises:
        UserError: the network has a fixed size, or cannot be created.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are a baseline and must be the same for everyone
        try:
            model = timm.create_model(
                architecture, pretrained=pretrained, num_classes=0, **({"img_size": size} if size else {})
            )
        except TypeError:
            raise UserError(f"backbone `{name}`: {architecture} does not support @SIZE") from None
        except Exception as error:
            raise UserError(f"backbone `{name}`: cannot be created ({type(error).__name__}: {error})") from None
    _refuse_incomplete_patches(name, model, size)
    return model


def _refuse_incomplete_patches(name: str, model: Any, size: int | None) -> None:
    """Refuse a size at which a transformer would silently drop the pixels that do not fill a patch.

    Raises:
        UserError: the size is not a multiple of the patch size.
    """
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    side = int(patch[0]) if isinstance(patch, tuple) else 0
    if size and side and size % side:
        near = max(side, round(size / side) * side)
        raise UserError(f"backbone `{name}`: {size} pixels are not a multiple of the patch size {side}: use @{near}")


def require_weights(name: str, architecture: str) -> None:
    """Refuse within seconds if pretrained weights are not available; the hub client would retry for most of a
    minute."""
    import huggingface_hub

    config = timm.get_pretrained_cfg(architecture)
    repository = getattr(config, "hf_hub_id", None)
    if config is None or not (repository or config.url or config.file):
        raise UserError(
            f"backbone `{name}`: timm has no pretrained weights for {architecture}; use timm-random:{architecture}"
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
            f"({type(error).__name__}): download them on a machine with a network and copy the cache, or use "
            f"timm-random:{architecture} or run:FOLDER"
        ) from None


def from_run(folder: Path) -> LoadedNetwork:
    """Load the backbone that a pretrain run exported, with the pooling given in its `preprocess.json`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from safetensors.torch import load_file

    weights, description = folder / "backbone.safetensors", folder / "preprocess.json"
    if not weights.is_file() or not description.is_file():
        raise UserError(
            f"run:{folder}: contains no backbone.safetensors with preprocess.json; is it a finished pretrain run?"
        )
    require_intact_if_finished(folder)
    try:
        described = json.loads(description.read_text(encoding="utf-8"))
        size = {"img_size": described["img_size"]} if _takes_size(described["timm_name"]) else {}
        model = timm.create_model(described["timm_name"], pretrained=False, num_classes=0, **size)
        model.load_state_dict(load_file(weights), strict=True)
        details = {k: described[k] for k in ("timm_name", "method", "recipe", "n_images_trained") if k in described}
        return LoadedNetwork(
            f"run:{folder.name}",
            TimmNetwork(model),
            int(described["img_size"]),
            described["pooling"],
            tuple(described["mean"]),
            tuple(described["std"]),
            {**details, "weights": "pretrained by this study", "file_sha256": sha256_file(weights)},
        )
    except Exception as error:
        raise UserError(
            f"run:{folder}: the exported backbone cannot be loaded ({type(error).__name__}: {error})"
        ) from None


def _takes_size(architecture: str) -> bool:
    """Whether the network is built for one image size; convolutional networks are not."""
    with torch.device("meta"):
        return hasattr(timm.create_model(architecture, pretrained=False), "patch_embed")
