"""`pellucid pretrain`: a study and its scan → a run folder with a trained backbone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pellucid.cohort.errors import UserError
from pellucid.cohort.images import PreparedImages
from pellucid.cohort.progress import cores_per_process
from pellucid.cohort.runs import RunFolder, begin_run, write_json
from pellucid.cohort.study import Study
from pellucid.pretrain.data.batches import Batches
from pellucid.pretrain.data.sampling import new_sampler, sampling_levels
from pellucid.pretrain.distributed.process_group import Ranks, join_ranks
from pellucid.pretrain.engine.checkpoint import finish_checkpoints
from pellucid.pretrain.engine.loop import train
from pellucid.pretrain.engine.training_compute import training_compute
from pellucid.pretrain.engine.warm_start import (
    Weights,
    addressed,
    find_weights,
    normalisation_differs,
    record,
    warm_start,
)
from pellucid.pretrain.export.backbone_export import export_backbone, export_best, export_checkpoint, patient_counts
from pellucid.pretrain.methods.dino import Dino
from pellucid.pretrain.methods.dinov2 import DinoV2
from pellucid.pretrain.methods.lejepa import LeJepa
from pellucid.pretrain.methods.mae import Mae
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.monitor.collapse import TrainingFailed
from pellucid.pretrain.monitor.training_page import TrainingPage
from pellucid.pretrain.monitor.watch import Watch
from pellucid.pretrain.recipe import (
    AnyRecipe,
    DinoRecipe,
    DinoV2Recipe,
    LeJepaRecipe,
    MaeRecipe,
    augmentation_sentences,
    load_recipe,
)


def pretrain(study: Study, scan: RunFolder, *, device: str = "auto", progress: bool = True) -> RunFolder:
    """Train a backbone on the study's training patients by the recipe in its `pretrain:` section.

    Test patients are left out unless the recipe says `include_test: true`; external ones always.

    Args:
        scan: the finished scan of this study.
        device: auto, cpu, cuda or cuda:N; under torchrun each process takes the device of its local rank.
        progress: show a bar (on a terminal) or a line now and then.

    Returns:
        The finished run, with `backbone.safetensors`, `preprocess.json`, `metrics.jsonl` and `checkpoints/`.

    Raises:
        UserError: recipe, images or device are not what they should be, or the training has blown up.
        Preempted: it was asked to stop, and has saved itself.
    """
    plan = _plan(study, scan)
    recipe = plan.recipe
    with (
        join_ranks(device, recipe.machine.timeout_s) as ranks,
        _one_run_for_all(ranks, study.analysis, plan, scan) as run,
    ):
        if run.done:
            return run
        batches = _batches(plan, scan, ranks)
        with _tuned(ranks):
            method, page = _train(plan, batches, run, ranks, progress=progress)

        def finish() -> None:
            page.finish(method)
            export_backbone(run.path, method, recipe, plan.facts)
            export_best(run.path, method, recipe, plan.facts)
            finish_checkpoints(run.path)

        ranks.first_does(finish)
    return run


@dataclass(frozen=True)
class _Plan:
    """What is trained on what, before any process has begun.

    Attributes:
        name: of the recipe.
        content: what the run is addressed by.
        chosen: rows of the manifest that are trained on.
        levels: columns that sampling balances.
        facts: what preprocess.json and the model card state.
        sentences: what is said of augmentation.
    """

    name: str
    recipe: AnyRecipe
    content: Mapping[str, Any]
    weights: Weights | None
    splits: list[str]
    chosen: pd.DataFrame
    levels: list[str]
    watch: Watch | None
    steps: int
    facts: dict[str, Any]
    sentences: list[str]


def _plan(study: Study, scan: RunFolder) -> _Plan:
    """Recipe, images and starting weights of a study.

    Raises:
        UserError: recipe, weights or images are not what they should be.
    """
    section = (study.config.pretrain, f"{study.path}: pretrain", study.path.parent, study.config.specialty)
    name, recipe = load_recipe(*section)
    splits = ["train", "test"] if recipe.include_test else ["train"]
    content, weights = recipe.content(), None
    if recipe.warm_start.weights is not None:
        weights = find_weights(recipe.warm_start.weights, study.path.parent)
        content = addressed(content, weights)
    levels = sampling_levels(recipe.sampling, list(study.config.acquisition))
    manifest = pd.read_parquet(scan.path / "manifest.parquet")
    usable = manifest[(manifest["status"] == "ok") & manifest["split"].isin(splits)]
    watch = Watch.open(study, scan, recipe, recipe.steps(max(1, len(usable))))
    chosen = usable if watch is None else usable[~usable["image_id"].isin(watch.held_out)]
    chosen = require_one_batch(chosen.reset_index(drop=True), splits, recipe.batch_size, scan.path.name)
    steps = recipe.steps(len(chosen))
    facts = {
        "method": recipe.method,
        "recipe": name,
        "images_seen": steps * recipe.batch_size,
        **patient_counts(manifest, splits, scan.path.name, watch.held_out if watch else frozenset()),
        **({} if weights is None else _began_with(weights)),
    }
    said = augmentation_sentences(*section)
    return _Plan(name, recipe, content, weights, splits, chosen, levels, watch, steps, facts, said)


def _batches(plan: _Plan, scan: RunFolder, ranks: Ranks) -> Batches:
    recipe = plan.recipe
    return Batches(
        PreparedImages.open(scan.path, plan.chosen["image_id"].tolist(), at_least_px=recipe.source_px),
        source_px=recipe.source_px,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        rows=_rows(ranks, recipe),
        workers=recipe.machine.workers or min(16, cores_per_process()),
        cache_gb=recipe.machine.cache_gb,
        sampler=new_sampler(plan.chosen, plan.levels, recipe.seed),
    )


def _train(
    plan: _Plan, batches: Batches, run: RunFolder, ranks: Ranks, *, progress: bool
) -> tuple[Method, TrainingPage]:
    """Build the method, start it from its weights, train it.

    Raises:
        UserError: the training has failed; what was good of it is exported.
    """
    recipe, name, steps = plan.recipe, plan.name, plan.steps

    def say(sentence: str) -> None:
        if progress and ranks.first:
            print(f"pretrain {name}: {sentence}", file=sys.stderr, flush=True)

    compute = training_compute(run.path, lambda: build_method(recipe, steps), recipe, ranks, say=say)
    method = build_method(recipe, steps)
    said = list(plan.sentences)
    if plan.levels:
        said.append(_sampled(recipe.sampling, batches.sampler.passes(steps * recipe.batch_size)))
    if plan.weights is not None:
        said += _begin_with(method, plan.weights, recipe, run.path, ranks)
    for sentence in said:
        say(sentence)
    page = TrainingPage(run.path, recipe, name, steps, plan.watch, page_facts(plan.facts, recipe, steps), said)
    try:
        train(
            method, recipe, plan.content, batches, run.path, ranks,
            name=name, steps=steps, compute=compute, observer=page, progress=progress,
        )  # fmt: skip
    except TrainingFailed as failure:
        good = failure.last_good
        if good is None:
            raise
        ranks.first_does(lambda: export_checkpoint(run.path, good, method, recipe, plan.facts))
        raise UserError(
            f"{failure}. The last good state is exported; to start from it with better settings: "
            f"pretrain.warm_start.weights=run:{run.path / good.stem.replace('step-', 'last-good-')}"
        ) from None
    return method, page


def _began_with(weights: Weights) -> dict[str, Any]:
    """For preprocess.json: where the weights come from, and every split that they or their forerunners have seen."""
    splits = {*(weights.about.get("splits_trained") or []), *(weights.about.get("warm_start_splits") or [])}
    return {"warm_start": weights.source, "warm_start_splits": sorted(splits)}


def _begin_with(method: Method, weights: Weights, recipe: AnyRecipe, folder: Path, ranks: Ranks) -> list[str]:
    """Put the weights into the method, write down what fitted, and say it."""
    loaded = warm_start(method, weights, allow_partial=recipe.warm_start.allow_partial)
    ranks.first_does(lambda: write_json(folder / "warm_start.json", record(weights, loaded)))
    differs = normalisation_differs(weights.about, recipe.mean, recipe.std)
    return [*loaded.sentences(), *([differs] if differs else [])]


def _sampled(sampling: str, passes: tuple[float, float]) -> str:
    return (
        f"sampled by {sampling}: the least seen image comes {passes[0]:.1f} times, the most seen {passes[1]:.1f} times"
    )


def page_facts(facts: Mapping[str, Any], recipe: AnyRecipe, steps: int) -> dict[str, str]:
    """The head of the training page."""
    return {
        "method": recipe.method,
        "backbone": f"{recipe.backbone} at {recipe.img_size} px",
        "trained on": f"{facts['n_images_trained']:,} images of {facts['n_patients_trained']:,} patients",
        "batch": f"{recipe.batch_size} images, {steps:,} steps",
        "sampling": f"by {recipe.sampling}",
    }


def require_one_batch(chosen: pd.DataFrame, splits: list[str], batch_size: int, scan: str) -> pd.DataFrame:
    """The images that will be trained on, if there are enough of them.

    Raises:
        UserError: fewer than one batch.
    """
    if len(chosen) < batch_size:
        raise UserError(
            f"{scan}: {len(chosen)} readable images in the {' and '.join(splits)} split are too few to "
            f"pretrain on, a batch has {batch_size}: add images, or set pretrain.batch_size={max(2, len(chosen) // 4)}"
            " or less (a generic backbone may then serve better)"
        )
    return chosen


def build_method(recipe: AnyRecipe, steps: int) -> Method:
    """The recipe's method, initialised from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):  # initialisers know only the global generator
        torch.manual_seed(recipe.seed)
        match recipe:
            case MaeRecipe():
                return Mae(recipe)
            case DinoRecipe():
                return Dino(recipe, steps)
            case DinoV2Recipe():
                return DinoV2(recipe, steps)
            case LeJepaRecipe():
                return LeJepa(recipe)


def _rows(ranks: Ranks, recipe: AnyRecipe) -> slice:
    pieces = ranks.world * recipe.accumulate
    if recipe.batch_size % pieces:
        among = f"{ranks.world} processes" if ranks.world > 1 else "1 process"
        if recipe.accumulate > 1:
            among += f" in {recipe.accumulate} pieces each"
        raise UserError(
            f"a batch of {recipe.batch_size} cannot be shared by {among}: set pretrain.batch_size to a "
            f"multiple, for example {recipe.batch_size // pieces * pieces or pieces}"
        )
    share = recipe.batch_size // ranks.world
    return slice(ranks.rank * share, (ranks.rank + 1) * share)


@contextlib.contextmanager
def _tuned(ranks: Ranks) -> Iterator[None]:
    """PyTorch's process-wide settings for the time of a training, and as they were after it."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.backends.cudnn.deterministic
    if "OMP_NUM_THREADS" not in os.environ:  # who has set it knows why
        torch.set_num_threads(cores_per_process())
    if ranks.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32: views start from 8-bit pixels
        torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.deterministic = deterministic


@contextlib.contextmanager
def _one_run_for_all(ranks: Ranks, analysis: Path, plan: _Plan, scan: RunFolder) -> Iterator[RunFolder]:
    """The first process opens the run; the others work in the same folder, or hear why there is none."""
    if not ranks.first:
        answer: object = ranks.broadcast(None)
        if not isinstance(answer, RunFolder):
            raise UserError(str(answer))
        yield answer
        ranks.wait()  # until the folder has its final name
        final: object = ranks.broadcast(None)
        assert isinstance(final, RunFolder)
        answer.path, answer.record = final.path, final.record
        return
    with contextlib.ExitStack() as stack:
        try:
            config = {"recipe": plan.content, "splits": plan.splits}
            opened = begin_run(analysis, "pretrain", plan.name, config, parents=[scan], seed=plan.recipe.seed)
            run = stack.enter_context(opened)
        except UserError as error:
            ranks.broadcast(str(error))
            raise
        ranks.broadcast(run)
        yield run
    ranks.wait()
    ranks.broadcast(run)
