"""`file:WEIGHTS.safetensors@TIMM_NAME`: a state dict of a timm network, loaded only if every tensor fits."""

from __future__ import annotations

import re
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import sha256_file
from pellucid.embed.backbones.network_adapters import Source, TimmNetwork
from pellucid.embed.backbones.timm_backbone import build, sized
from pellucid.embed.backbones.weight_loading import fit, listed

_SYNTAX = re.compile(r"(?P<path>.+\.safetensors)@(?P<rest>[^@/]+(?:@[^@/]*)?)")  # a folder may have an @ in its name


def from_file(name: str, rest: str) -> Source:
    """The weights in a file, in the timm network that is named behind it, perhaps at another size (`@TIMM_NAME@SIZE`).

    Positional embeddings of a square grid are brought to the network's grid by bicubic interpolation. Size, mean and
    standard deviation of the pixels are those that timm gives for the name: a tag such as
    `vit_small_patch16_224.dino` says how its weights were trained.

    Raises:
        UserError: the name is not of this form, the file cannot be read, or not all of it fits; then missing, unexpected and
            mismatching tensors are named.
    """
    parts = _SYNTAX.fullmatch(rest)
    if parts is None:
        raise UserError(
            f"backbone `{name}`: after file: stands the path of a .safetensors file, @ and timm's name of the network, for "
            "example file:weights.safetensors@vit_small_patch16_224 (and @SIZE where the images have another size)"
        )
    path = Path(parts["path"]).expanduser()
    architecture, size = sized(name, parts["rest"])
    if not path.is_file():
        raise UserError(f"backbone `{name}`: there is no file {path}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"backbone `{name}`: {path} cannot be read ({error}); copy it again") from None
    sick = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if sick:
        raise UserError(f"backbone `{name}`: not all numbers in {listed(sick)} are finite; use other weights")
    model = build(name, architecture, size)
    loaded = fit(model, tensors)
    if not loaded.whole:
        raise UserError(
            f"backbone `{name}`: the weights do not fit {architecture}: {'; '.join(loaded.sentences())}. Name the network "
            "that they were made for"
        )
    config = timm.data.resolve_data_config({}, model=model)
    details = {"timm_name": architecture, "weights": "from a file", "file_sha256": sha256_file(path)}
    if loaded.resampled:
        details["positions"] = "brought to this image size by bicubic interpolation"
    return Source(
        f"file:{path.name}@{parts['rest']}",
        TimmNetwork(model),
        size or int(config["input_size"][-1]),
        "model",
        tuple(config["mean"]),
        tuple(config["std"]),
        details,
    )
