"""Weights from elsewhere → a network, naming every tensor that did not fit; used by `file:` and by warm starts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

_SHOWN = 8  # names in a message
# What DistributedDataParallel, torch.compile, Lightning and the checkpoints of DINO put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.", "student.", "teacher.")
_COUNTER = "num_batches_tracked"  # batch normalisation counts its updates; not read in evaluation
_BOOKKEEPING = frozenset({"mask_token"})  # replaces hidden patches in pretraining; DINOv2's files hold it


@dataclass(frozen=True)
class Loaded:
    """What happened to each tensor. All lists hold names of timm's state dict of the backbone."""

    loaded: list[str]
    resampled: list[str]  # positional embeddings interpolated to another grid; also in `loaded`
    missing: list[str]  # not in the file: keep their random values
    unexpected: list[str]  # not in the network
    mismatching: list[dict[str, Any]]  # {name, theirs, ours}: shapes differ; keep their random values
    classifier: list[str]  # classifier of the original task: not needed
    bookkeeping: list[str] = field(default_factory=list)  # of pretraining only: they have no part in the vectors

    @property
    def whole(self) -> bool:
        """Whether everything fitted."""
        return not (self.missing or self.unexpected or self.mismatching)

    def sentences(self) -> list[str]:
        """What was loaded, what was changed and what did not fit, as sentences."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.resampled:
            parts.append(f"{listed(self.resampled)}: resampled to this image size by bicubic interpolation")
        if self.classifier:
            parts.append(f"{listed(self.classifier)}: classifier of the original task, ignored")
        if self.bookkeeping:
            parts.append(f"{listed(self.bookkeeping)}: used in pretraining only, ignored")
        if self.missing:
            parts.append(f"{len(self.missing)} missing, left at random values: {listed(self.missing)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected, ignored: {listed(self.unexpected)}")
        if self.mismatching:
            shapes = [f"{m['name']} {m['theirs']} instead of {m['ours']}" for m in self.mismatching]
            parts.append(f"{len(shapes)} with another shape, left at random values: {listed(shapes)}")
        return parts


def weights_sha256(model: nn.Module) -> str:
    """Hex sha256 over names and bytes of a network's tensors: `fingerprint` in the `spec.json` of vectors."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and bytes, sorted by name: recorded by warm starts.

    It differs from `weights_sha256` for the same tensors. Both are stored in finished runs, so neither may change.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def load_into(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Loaded:
    """Copy each tensor with a counterpart of the same name and shape into `backbone`, in place.

    A prefix of all names that a wrapper wrote (`module.backbone.`) is ignored. Counters of batch normalisation may be
    missing.
    """
    ours = backbone.state_dict()
    tensors = _without_wrappers(tensors, ours)
    classifier = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))
    found = Loaded([], [], [], [], [], [])
    for name, theirs in tensors.items():
        if name not in ours and (name in _BOOKKEEPING or name.endswith(f".{_COUNTER}")):
            found.bookkeeping.append(name)
            continue
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
    found.missing.extend(name for name in ours if name not in tensors and not name.endswith(f".{_COUNTER}"))
    return found


def _without_wrappers(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the network's own names, if all carry the prefix of a wrapper."""
    while tensors and not any(name in ours for name in tensors):
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def resampled_positions(vit: Any, positions: Tensor) -> Tensor | None:
    """(1, prefix + n, d) positions of a square grid → those of `vit`'s grid; None if they do not fit.

    Positions of class token and registers are kept unchanged. Interpolation is bicubic with antialiasing, as in timm
    when it loads pretrained weights for another image size.
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
    """The first names of a list, and the number of the others."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
