"""Weights from elsewhere → a network, with every tensor that did not fit named; for `file:` and for warm starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

_SHOWN = 8  # names in a message


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
            said.append(f"{listed(self.resampled)}: positions brought to this image size by bicubic interpolation")
        if self.classifier:
            said.append(f"{listed(self.classifier)}: the source's classifier, left out")
        if self.missing:
            said.append(f"{len(self.missing)} missing, left at random values: {listed(self.missing)}")
        if self.unexpected:
            said.append(f"{len(self.unexpected)} unexpected, left out: {listed(self.unexpected)}")
        if self.mismatching:
            shapes = [f"{m['name']} {m['theirs']} for {m['ours']}" for m in self.mismatching]
            said.append(f"{len(shapes)} of another shape, left at random values: {listed(shapes)}")
        return said


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    n_prefix = 0 if getattr(vit, "no_embed_class", False) else int(vit.num_prefix_tokens)
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


def listed(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
