"""`file:WEIGHTS.safetensors@TIMM_NAME`: a state dict of a timm network; refused unless every tensor fits."""

from __future__ import annotations

import re
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import sha256_file
from pellucid.embed.backbones.network_adapters import LoadedNetwork, TimmNetwork
from pellucid.embed.backbones.timm_backbone import build, sized
from pellucid.embed.backbones.weight_loading import listed, load_into

_SYNTAX = re.compile(r"(?P<path>.+\.safetensors)@(?P<rest>[^@/]+(?:@[^@/]*)?)")  # folder names may contain an @


def from_file(name: str, rest: str) -> LoadedNetwork:
    """Load the weights of a file into the timm network named after it, optionally at another size (`@TIMM_NAME@SIZE`).

    Positional embeddings of a square grid are resampled to the network's grid by bicubic interpolation. Image size,
    pixel mean and standard deviation come from timm's entry for the name: a tag such as `vit_small_patch16_224.dino`
    states how its weights were trained.

    Raises:
        UserError: the name has another form, the file cannot be read, or not all tensors fit; the message then lists
            the missing, unexpected and mismatching ones.
    """
    parts = _SYNTAX.fullmatch(rest)
    if parts is None:
        raise UserError(
            f"backbone `{name}`: write file:, the path of a .safetensors file, @ and timm's name of the network, for "
            "example file:weights.safetensors@vit_small_patch16_224 (add @SIZE for another image size)"
        )
    path = Path(parts["path"]).expanduser()
    architecture, size = sized(name, parts["rest"])
    if not path.is_file():
        raise UserError(f"backbone `{name}`: the file {path} does not exist")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"backbone `{name}`: {path} cannot be read ({error}); copy it again") from None
    not_finite = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if not_finite:
        raise UserError(f"backbone `{name}`: {listed(not_finite)} contain NaN or infinite values; use other weights")
    model = build(name, architecture, size)
    loaded = load_into(model, tensors)
    if not loaded.whole:
        raise UserError(
            f"backbone `{name}`: the weights do not fit {architecture}: {'; '.join(loaded.sentences())}. Give the name "
            "of the network for which they were trained"
        )
    config = timm.data.resolve_data_config({}, model=model)
    details = {"timm_name": architecture, "weights": "from a file", "file_sha256": sha256_file(path)}
    if loaded.resampled:
        details["positions"] = "brought to this image size by bicubic interpolation"  # stored in spec.json: unchanged
    return LoadedNetwork(
        f"file:{path.name}@{parts['rest']}",
        TimmNetwork(model),
        size or int(config["input_size"][-1]),
        "model",
        tuple(config["mean"]),
        tuple(config["std"]),
        details,
    )
