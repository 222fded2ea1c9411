"""The conditions under which a checkpoint was written, and how those of the resumed training differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pellucid.cohort.runs.versions import package_versions
from pellucid.embed.backbones import Compute

_FLOAT32 = "fp32"
_PACKAGES = ("pellucid", "torch", "timm", "lightly")


def conditions(
    recipe: Mapping[str, Any], *, world: int, steps: int, device: torch.device, compute: Compute
) -> dict[str, Any]:
    """The content of `conditions` in a checkpoint.

    Args:
        recipe: `Recipe.content()`.
        world: number of processes.
        steps: length of the whole training.
        compute: number type, attention kernel and layout.
    """
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "world": world,
        "batch_size": recipe["batch_size"],
        "steps": steps,
        "device": kind,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "precision": _FLOAT32 if compute.precision == "float32" else compute.precision,
        "attention": compute.attention,
        "layout": compute.layout,
        "recipe_sha256": hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest(),
        "versions": package_versions(_PACKAGES),
    }


def precision_kept(compute: Compute, saved: Mapping[str, Any] | None) -> Compute:
    """`compute` with the number type, kernel and layout of the checkpoint, if it records them."""
    if not saved or "precision" not in saved:
        return compute
    precision = "float32" if saved["precision"] == _FLOAT32 else str(saved["precision"])
    attention, layout = saved.get("attention", compute.attention), saved.get("layout", compute.layout)
    return replace(compute, precision=precision, attention=attention, layout=layout)


def changes(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """One sentence per changed condition; empty if the result will be byte-identical to an uninterrupted training.

    Args:
        saved: the `conditions` of the checkpoint; None if it holds none.
        now: those of this process.
    """
    if saved is None:
        return ["the checkpoint does not record the conditions under which it was written"]
    said = []
    if saved["world"] != now["world"]:
        shares = [_share(now["batch_size"], side["world"]) for side in (saved, now)]
        said.append(
            f"{_processes(saved['world'])} before, {_processes(now['world'])} from now on: the batches of "
            f"{now['batch_size']} images and their order are unchanged, each process now computes {shares[1]} instead "
            f"of {shares[0]} images; results agree up to rounding and the random numbers of drop path"
        )
    for key, what in (("batch_size", "batch size"), ("steps", "number of training steps")):
        if saved[key] != now[key]:
            said.append(f"{what}: {saved[key]:,} before, {now[key]:,} from now on; the schedules use the new number")
    if saved["recipe_sha256"] != now["recipe_sha256"]:
        said.append("the recipe differs from the one of the checkpoint")
    for key, what in (
        ("device", "device"),
        ("precision", "precision"),
        ("attention", "attention kernel"),
        ("layout", "memory layout"),
        ("threads", "CPU threads"),
    ):
        if saved.get(key, now[key]) != now[key]:
            said.append(f"{what}: {saved[key]} before, {now[key]} from now on; results agree up to rounding")
    before, after = saved["versions"], now["versions"]
    for package in sorted(before.keys() | after.keys()):
        if before.get(package) != after.get(package):
            said.append(
                f"{package}: {before.get(package, 'none')} before, {after.get(package, 'none')} from now on; "
                "results may differ"
            )
    return said


def _processes(world: int) -> str:
    return "1 process" if world == 1 else f"{world} processes"


def _share(batch_size: int, world: int) -> int:
    return batch_size // world
