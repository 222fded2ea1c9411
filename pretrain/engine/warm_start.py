"""Warm start: load existing weights into a method's backbone and report every tensor that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pellucid.cohort.config import did_you_mean
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs import require_intact_if_finished
from pellucid.embed.backbones import Loaded, fingerprint, listed, load_into, require_weights
from pellucid.pretrain.methods.method import Method

SCHEMA = "pellucid.warm-start/1"


@dataclass(frozen=True)
class Weights:
    """A backbone's tensors by name, and where they come from."""

    tensors: dict[str, Tensor]
    source: str  # as the recipe names it
    sha256: str  # of names, shapes and values, regardless of the source
    about: dict[str, Any] = field(default_factory=dict)  # metadata of the source


def find_weights(named: str, folder: Path = Path()) -> Weights:
    """The weights that `warm_start.weights` names, on the CPU.

    Args:
        named: `timm:NAME` (pretrained, from the local cache or downloaded), `run:FOLDER` (a
            pretrain run, or a folder with an exported `backbone.safetensors`), or `file:PATH.safetensors` (a state dict
            of the recipe's timm backbone).
        folder: what a relative path is relative to.

    Raises:
        UserError: they cannot be found or read.
    """
    kind, _, rest = named.partition(":")
    about: dict[str, Any] = {}
    if kind == "timm":
        if not timm.is_model(rest):
            near = did_you_mean(rest.split(".")[0], timm.list_models())
            raise UserError(f"`warm_start.weights: {named}`: timm has no model `{rest}`{near}")
        require_weights(named, rest)
        try:
            model = timm.create_model(rest, pretrained=True, num_classes=0)
        except Exception as error:
            raise UserError(
                f"`warm_start.weights: {named}`: cannot be loaded ({type(error).__name__}: {error})"
            ) from None
        tensors = dict(model.state_dict())
        data = timm.data.resolve_data_config({}, model=model)
        about = {"timm_name": rest, "mean": list(data["mean"]), "std": list(data["std"])}
    elif kind == "run":
        path = _found(rest, folder)
        require_intact_if_finished(path)
        description = path / "preprocess.json"
        tensors = _read(path / "backbone.safetensors", named)
        if description.is_file():
            said = json.loads(description.read_text(encoding="utf-8"))
            keys = (
                "timm_name",
                "method",
                "recipe",
                "n_images_trained",
                "splits_trained",
                "warm_start_splits",
                "mean",
                "std",
            )
            about = {key: said[key] for key in keys if key in said}
    else:
        tensors = _read(_found(rest, folder), named)
    not_finite = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if not_finite:
        raise UserError(
            f"`warm_start.weights: {named}`: {listed(not_finite)} contains values that are not finite; use other "
            "weights"
        )
    return Weights(tensors, named, fingerprint(tensors), about)


def _found(rest: str, folder: Path) -> Path:
    """Resolve a path relative to the study, else to the current folder, like `pellucid embed`."""
    path = Path(rest).expanduser()
    return path if not (folder / path).exists() and path.exists() else folder / path


def _read(path: Path, named: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"`warm_start.weights: {named}`: {path} does not exist; name a finished pretrain run or a .safetensors file"
        )
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"`warm_start.weights: {named}`: {path} cannot be read ({error})") from None


def addressed(content: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """The recipe's content with the hash of the weights in place of their location: it determines the run's address."""
    return {**content, "warm_start": {**content["warm_start"], "weights": f"sha256:{weights.sha256}"}}


def warm_start(method: Method, weights: Weights, *, allow_partial: bool) -> Loaded:
    """Load `weights` into the trained backbone, and into the exported one if that is another (a teacher).

    Args:
        allow_partial: keep random values for tensors that are missing or of another shape, instead of raising.

    Raises:
        UserError: a tensor does not fit and `allow_partial` is false, or no tensor fits.
    """
    trained, exported = method.trained_backbone(), method.backbone()
    loaded = load_into(trained, weights.tensors)
    if not loaded.loaded or (not loaded.whole and not allow_partial):
        raise UserError(
            f"`warm_start.weights: {weights.source}` does not fit the backbone: {'; '.join(loaded.sentences())}. "
            "Choose the `backbone` that the weights were made for"
            + ("" if not loaded.loaded else ", or load only the tensors that fit: warm_start.allow_partial=true")
        )
    if exported is not trained:
        exported.load_state_dict(trained.state_dict())  # also the tensors that stayed random
    return loaded


def normalisation_differs(about: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """A warning if the weights were trained with another pixel normalisation than the recipe's; None if not."""
    if "mean" not in about:
        return None
    theirs, ours = [*about["mean"], *about["std"]], [*mean, *std]
    if all(abs(a - b) < 5e-3 for a, b in zip(theirs, ours, strict=True)):
        return None
    return (
        f"the weights expect pixels normalised with mean {list(about['mean'])} and standard deviation "
        f"{list(about['std'])}, but the recipe has {list(mean)} and {list(std)}: set `mean` and `std` to those of the "
        "weights"
    )


def record(weights: Weights, loaded: Loaded) -> dict[str, Any]:
    """Content of `warm_start.json`."""
    return {
        "schema": SCHEMA, "source": weights.source, "sha256": weights.sha256, "about": weights.about, **asdict(loaded),
    }  # fmt: skip
