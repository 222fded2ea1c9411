"""Continued pretraining: weights from elsewhere → a method's backbone, with every tensor that did not fit named."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cohort.config import did_you_mean
from cohort.errors import UserError
from embed.backbone import require_weights
from pretrain.method import Method

SCHEMA = "pellucid.warm-start/1"
_SHOWN = 8  # names in a message; warm_start.json has all


@dataclass(frozen=True)
class Weights:
    """A backbone's tensors by name, and where they come from."""

    tensors: dict[str, Tensor]
    source: str  # as the recipe names it
    sha256: str  # of names, shapes and values: the same weights from anywhere have the same
    about: dict[str, Any] = field(default_factory=dict)  # what the source says of itself


@dataclass(frozen=True)
class Loaded:
    """What became of each tensor. All lists are of names in timm's state dict of the backbone."""

    loaded: list[str]
    resampled: list[str]  # positional embeddings, brought to another grid; among the loaded
    missing: list[str]  # begin with random values
    unexpected: list[str]  # nothing here is called so
    mismatching: list[dict[str, Any]]  # {name, theirs, ours}: shapes; begin with random values
    classifier: list[str]  # of the source's own task, which nothing here has a use for

    @property
    def whole(self) -> bool:
        """Whether all fitted."""
        return not (self.missing or self.unexpected or self.mismatching)

    def sentences(self) -> list[str]:
        """For people: what fitted, what was changed, and what did not fit."""
        said = [f"{len(self.loaded)} tensors loaded"]
        if self.resampled:
            said.append(f"{_names(self.resampled)}: positions brought to this image size by bicubic interpolation")
        if self.classifier:
            said.append(f"{_names(self.classifier)}: the source's classifier, left out")
        if self.missing:
            said.append(f"{len(self.missing)} missing, left at random values: {_names(self.missing)}")
        if self.unexpected:
            said.append(f"{len(self.unexpected)} unexpected, left out: {_names(self.unexpected)}")
        if self.mismatching:
            shapes = [f"{m['name']} {m['theirs']} for {m['ours']}" for m in self.mismatching]
            said.append(f"{len(shapes)} of another shape, left at random values: {_names(shapes)}")
        return said


def find_weights(named: str, folder: Path = Path()) -> Weights:
    """The weights that `warm_start.weights` names, on the CPU.

    Args:
        named: `timm:NAME` (pretrained, from the local cache or downloaded because they were asked for), `run:FOLDER` (a
            pretrain run, or a folder with an exported `backbone.safetensors`), or `file:PATH.safetensors` (a state dict
            of the recipe's timm backbone).
        folder: what a relative path is relative to.

    Raises:
        UserError: they are not to be had, or damaged.
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
                f"`warm_start.weights: {named}`: cannot be made ({type(error).__name__}: {error})"
            ) from None
        tensors = dict(model.state_dict())
        data = timm.data.resolve_data_config({}, model=model)
        about = {"timm_name": rest, "mean": list(data["mean"]), "std": list(data["std"])}
    elif kind == "run":
        path = _found(rest, folder)
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
    sick = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if sick:
        raise UserError(
            f"`warm_start.weights: {named}`: not all numbers in {_names(sick)} are finite; use other weights"
        )
    return Weights(tensors, named, fingerprint(tensors), about)


def _found(rest: str, folder: Path) -> Path:
    """Relative to the study, or to where the command is given, as `pellucid embed` takes it."""
    path = Path(rest).expanduser()
    return path if not (folder / path).exists() and path.exists() else folder / path


def _read(path: Path, named: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(
            f"`warm_start.weights: {named}`: there is no {path}; name a finished pretrain run, or a .safetensors file"
        )
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"`warm_start.weights: {named}`: {path} cannot be read ({error})") from None


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def addressed(content: Mapping[str, Any], weights: Weights) -> dict[str, Any]:
    """A recipe's content with what the weights are in the place of where they lie: what a run is addressed by."""
    return {**content, "warm_start": {**content["warm_start"], "weights": f"sha256:{weights.sha256}"}}


def warm_start(method: Method, weights: Weights, *, allow_partial: bool) -> Loaded:
    """Put `weights` into the backbone that is trained, and into the one that is exported where that is another.

    Args:
        allow_partial: leave at their random values what is missing or of another shape, instead of raising.

    Raises:
        UserError: something does not fit and `allow_partial` is false, or nothing fits.
    """
    trained, exported = method.trained_backbone(), method.backbone()
    loaded = fit(trained, weights.tensors)
    if not loaded.loaded or (not loaded.whole and not allow_partial):
        raise UserError(
            f"`warm_start.weights: {weights.source}` does not fit the backbone: {'; '.join(loaded.sentences())}. Choose "
            "the `backbone` that the weights were made for"
            + ("" if not loaded.loaded else ", or begin with what fits: warm_start.allow_partial=true")
        )
    if exported is not trained:
        exported.load_state_dict(trained.state_dict())  # what is random is the same in both
    return loaded


@torch.no_grad()
def fit(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Loaded:
    """Copy into `backbone`, in place, each tensor that has a counterpart of its name and shape there."""
    ours = backbone.state_dict()
    cut = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((cut,) if isinstance(cut, str) else cut))
    found = Loaded([], [], [], [], [], [])
    for name, theirs in tensors.items():
        if name not in ours:
            (found.classifier if prefixes and name.startswith(prefixes) else found.unexpected).append(name)
            continue
        wanted = ours[name]
        value = resampled_positions(backbone, theirs) if name == "pos_embed" else theirs
        if value is None or value.shape != wanted.shape:
            found.mismatching.append({"name": name, "theirs": list(theirs.shape), "ours": list(wanted.shape)})
            continue
        wanted.copy_(value)
        found.loaded.append(name)
        if value is not theirs:
            found.resampled.append(name)
    found.missing.extend(name for name in ours if name not in tensors)
    return found


def resampled_positions(vit: Any, positions: Tensor) -> Tensor | None:
    """(1, prefix + n, d) positions of a square grid → those of `vit`'s grid; None where they cannot be meant for it.

    The positions of class token and registers, where they have any, are no place in the grid and stay as they are. Bicubic
    with antialiasing, as timm does it when it loads pretrained weights for another image size.
    """
    grid: tuple[int, int] = vit.patch_embed.grid_size
    n_prefix = 0 if vit.no_embed_class else int(vit.num_prefix_tokens)
    if positions.ndim != 3 or positions.shape[2] != vit.pos_embed.shape[2] or positions.shape[1] <= n_prefix:
        return None
    side = math.isqrt(positions.shape[1] - n_prefix)
    if side * side != positions.shape[1] - n_prefix:
        return None
    if (side, side) == tuple(grid):
        return positions
    new: Tensor = resample_abs_pos_embed(
        positions, list(grid), [side, side], num_prefix_tokens=n_prefix, interpolation="bicubic", antialias=True
    )
    return new


def normalisation_differs(about: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """A sentence if the source was fed pixels of another mean and standard deviation than the recipe's."""
    if "mean" not in about:
        return None
    theirs, ours = [*about["mean"], *about["std"]], [*mean, *std]
    if all(abs(a - b) < 5e-3 for a, b in zip(theirs, ours, strict=True)):
        return None
    return (
        f"the weights were made for pixels of mean {list(about['mean'])} and standard deviation {list(about['std'])}, the "
        f"recipe has {list(mean)} and {list(std)}: set `mean` and `std` to theirs"
    )


def record(weights: Weights, loaded: Loaded) -> dict[str, Any]:
    """What `warm_start.json` of the run says."""
    return {
        "schema": SCHEMA, "source": weights.source, "sha256": weights.sha256, "about": weights.about, **asdict(loaded),
    }  # fmt: skip


def _names(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
