"""Choose the number type, attention kernel and memory layout in which a training step of the recipe is fastest here.

The first process chooses once (`pellucid.embed.backbones.compute_choice`) and writes `compute.json`; a resumed training
keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from pellucid.cohort.runs import write_json
from pellucid.embed.backbones import (
    Compute,
    Hardware,
    apply,
    choose,
    seconds_of,
    threads_of,
)
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.distributed.process_group import Ranks
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.recipe import Recipe

COMPUTE = "compute.json"
SCHEMA = "pellucid.compute/1"
_NAMES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_FEWEST_IMAGES, _MOST_IMAGES = 2, 64  # in a timed step
_PASS_S = 0.5  # longest timed step, unless two images take longer
_BUDGET_S = 1.0


def training_compute(
    folder: Path, build: Callable[[], Method], recipe: Recipe, ranks: Ranks, *, say: Callable[[str], None]
) -> Compute:
    """The choice of this run: read from its folder, else measured by the first process for all.

    Args:
        folder: of the run.
        build: makes a method of the recipe; it is used for timing only and then discarded.
        say: called with a sentence about the choice.

    Raises:
        UserError: the device does not support the requested number type.
    """
    chosen: Compute | None = None

    def decide() -> None:
        nonlocal chosen
        with suppress(OSError, KeyError, TypeError, ValueError):
            chosen = Compute.from_record(json.loads((folder / COMPUTE).read_text(encoding="utf-8")))
            say(f"resumed in {chosen}, as in {COMPUTE}")
            return
        hardware = Hardware.from_device(ranks.device)
        work = f"training, {recipe.method}, {recipe.img_size} px"  # type: ignore[attr-defined]
        trial = build().to(ranks.device)
        # One thread, as each piece of a batch has (augment/batch_pieces.py); timing several would measure other
        # programs.
        with threads_of(1):
            one_pass = timed_step(trial, recipe, ranks.device)
            asked = _NAMES[recipe.precision]
            chosen = choose(trial, one_pass, work=work, hardware=hardware, asked=asked, budget_s=_BUDGET_S)
        write_json(folder / COMPUTE, {"schema": SCHEMA, **chosen.record()})
        say(chosen.sentence())

    ranks.first_does(decide)
    shared = ranks.broadcast(chosen)
    assert shared is not None
    return shared


def timed_step(method: Method, recipe: Recipe, device: torch.device) -> Callable[[Compute], float]:
    """A function that times forward and backward of some images with a given option; the weights are not updated.

    It uses as many images as half a second allows: with few, casting the weights would weigh more than in a real batch.
    """
    noise = torch.Generator().manual_seed(0)
    shape = (min(recipe.batch_size, _MOST_IMAGES), recipe.source_px, recipe.source_px, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise).to(device)

    def views_of(n: int) -> list[torch.Tensor]:
        return method.views(images[:n], Draw(recipe.seed, 0, n, slice(0, n), device))

    def seconds(views: list[torch.Tensor], option: Compute) -> float:
        def step() -> None:
            with option.autocast(device.type):
                loss = method(to_memory_layout(views, option), 0).loss
            loss.backward()

        method.zero_grad(set_to_none=True)
        return seconds_of(step, device)

    views: list[torch.Tensor] = []

    def one_pass(option: Compute) -> float:
        apply(method, option)
        if views:
            return seconds(views, option)
        n = _FEWEST_IMAGES
        while True:
            views[:] = views_of(n)
            taken = seconds(views, option)
            if 2 * taken > _PASS_S or 2 * n > len(images):
                return taken
            n *= 2

    return one_pass


def to_memory_layout(views: list[torch.Tensor], compute: Compute) -> list[torch.Tensor]:
    """The views in the memory layout of the network; masks and indices are unchanged."""
    return [compute.placed(view) if view.ndim == 4 else view for view in views]
