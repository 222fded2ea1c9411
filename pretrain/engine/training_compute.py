"""How a training is computed: the number type, attention kernel and layout in which a step of this recipe is fastest here.

Chosen once by the first process (`pellucid.embed.backbones.compute_choice`), written into the run as `compute.json`, and kept when the training is resumed.
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
_FEWEST_IMAGES, _MOST_IMAGES = 2, 64  # of the steps that are timed
_PASS_S = 0.5  # of one such step, at most, unless two images take longer
_BUDGET_S = 1.0


def training_compute(
    folder: Path, build: Callable[[], Method], recipe: Recipe, ranks: Ranks, *, say: Callable[[str], None]
) -> Compute:
    """The choice of this run: the one in its folder, else timed by the first process for all.

    Args:
        folder: of the run.
        build: makes a method of the recipe, to be trained for a few steps and thrown away.

    Raises:
        UserError: the number type that was asked for is not for this device.
    """
    chosen: Compute | None = None

    def decide() -> None:
        nonlocal chosen
        with suppress(OSError, KeyError, TypeError, ValueError):
            chosen = Compute.of(json.loads((folder / COMPUTE).read_text(encoding="utf-8")))
            say(f"continued in {chosen}, in which it was begun")
            return
        hardware = Hardware.of(ranks.device)
        work = f"training, {recipe.method}, {recipe.img_size} px"  # type: ignore[attr-defined]
        trial = build().to(ranks.device)
        with threads_of(
            1
        ):  # as each piece of a batch has (pellucid.pretrain.augment.batch_pieces); several would measure how busy the machine is
            one_pass = timed_step(trial, recipe, ranks.device)
            asked = _NAMES[recipe.precision]
            chosen = choose(trial, one_pass, work=work, hardware=hardware, asked=asked, budget_s=_BUDGET_S)
        write_json(folder / COMPUTE, {"schema": SCHEMA, **chosen.record()})
        say(chosen.sentence())

    ranks.first_does(decide)
    told = ranks.broadcast(chosen)
    assert told is not None
    return told


def timed_step(method: Method, recipe: Recipe, device: torch.device) -> Callable[[Compute], float]:
    """Seconds of forward and backward of some images, for `pellucid.embed.backbones.compute_choice.measured`; the method is not trained.

    With as many images as half a second allows: with few, casting the weights would count for more than in a real batch.
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
    """The views in the memory layout of the network; what is no picture stays as it is."""
    return [compute.placed(view) if view.ndim == 4 else view for view in views]
