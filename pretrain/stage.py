"""The stage `pretrain`: a study and its scan → a run folder with a trained backbone."""

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
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.monitor.collapse import TrainingFailed
from pellucid.pretrain.monitor.training_page import TrainingPage
from pellucid.pretrain.monitor.watch import Watch
from pellucid.pretrain.recipe import (
    AnyRecipe,
    augmentation_sentences,
    load_recipe,
)


def pretrain(study: Study, scan: RunFolder, *, device: str = "auto", progress: bool = True) -> RunFolder:
    """Train a backbone on the study's training patients with the recipe in its `pretrain:` section.

    Test patients are excluded unless the recipe has `include_test: true`. External patients are always excluded.

    Args:
        scan: the finished scan of this study.
        device: auto, cpu, cuda or cuda:N; under torchrun each process uses the device of its local rank.
        progress: show a bar (on a terminal) or a line every few seconds.

    Returns:
        The finished run, with `backbone.safetensors`, `preprocess.json`, `metrics.jsonl` and `checkpoints/`.

    Raises:
        UserError: recipe, images or device are invalid, or the training failed.
        Preempted: a stop was requested; a checkpoint is saved.
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
    """Everything that is decided before the training begins.

    Attributes:
        name: of the recipe.
        content: the part of the recipe that determines the run's address.
        chosen: rows of the manifest that are used for training.
        levels: columns that sampling balances.
        facts: for preprocess.json and the model card.
        sentences: what the specialty changed in the augmentation.
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
        UserError: recipe, weights or images are invalid.
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
    """Build the method, load its starting weights and train it.

    Raises:
        UserError: the training failed; its last good state is exported.
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
            f"{failure}. The last good state is exported. To start from it with other settings, set "
            f"pretrain.warm_start.weights=run:{run.path / good.stem.replace('step-', 'last-good-')}"
        ) from None
    return method, page


def _began_with(weights: Weights) -> dict[str, Any]:
    """For preprocess.json: the source of the starting weights, and every split that they or their predecessors were
    trained on."""
    splits = {*(weights.about.get("splits_trained") or []), *(weights.about.get("warm_start_splits") or [])}
    return {"warm_start": weights.source, "warm_start_splits": sorted(splits)}


def _begin_with(method: Method, weights: Weights, recipe: AnyRecipe, folder: Path, ranks: Ranks) -> list[str]:
    """Load the weights into the method and record in warm_start.json what fitted; returns sentences about it."""
    loaded = warm_start(method, weights, allow_partial=recipe.warm_start.allow_partial)
    ranks.first_does(lambda: write_json(folder / "warm_start.json", record(weights, loaded)))
    differs = normalisation_differs(weights.about, recipe.mean, recipe.std)
    return [*loaded.sentences(), *([differs] if differs else [])]


def _sampled(sampling: str, passes: tuple[float, float]) -> str:
    return f"sampling by {sampling}: images are seen between {passes[0]:.1f} and {passes[1]:.1f} times"


def page_facts(facts: Mapping[str, Any], recipe: AnyRecipe, steps: int) -> dict[str, str]:
    """The facts at the top of the training page."""
    return {
        "method": recipe.method,
        "backbone": f"{recipe.backbone} at {recipe.img_size} px",
        "trained on": f"{facts['n_images_trained']:,} images of {facts['n_patients_trained']:,} patients",
        "batch": f"{recipe.batch_size} images, {steps:,} steps",
        "sampling": f"by {recipe.sampling}",
    }


def require_one_batch(chosen: pd.DataFrame, splits: list[str], batch_size: int, scan: str) -> pd.DataFrame:
    """Return `chosen` if it fills at least one batch.

    Raises:
        UserError: fewer than one batch.
    """
    if len(chosen) < batch_size:
        raise UserError(
            f"{scan}: {len(chosen)} readable images in the {' and '.join(splits)} split are too few: one "
            f"batch has {batch_size}. Add images, or set pretrain.batch_size={max(2, len(chosen) // 4)}"
            " or less (a backbone pretrained elsewhere may then work better)"
        )
    return chosen


def _rows(ranks: Ranks, recipe: AnyRecipe) -> slice:
    pieces = ranks.world * recipe.accumulate
    if recipe.batch_size % pieces:
        among = f"{ranks.world} processes" if ranks.world > 1 else "1 process"
        if recipe.accumulate > 1:
            among += f" with {recipe.accumulate} micro-batches each"
        raise UserError(
            f"a batch of {recipe.batch_size} cannot be divided among {among}: set pretrain.batch_size to a "
            f"multiple of {pieces}, for example {recipe.batch_size // pieces * pieces or pieces}"
        )
    share = recipe.batch_size // ranks.world
    return slice(ranks.rank * share, (ranks.rank + 1) * share)


@contextlib.contextmanager
def _tuned(ranks: Ranks) -> Iterator[None]:
    """Set PyTorch's process-wide options for a training, and restore them afterwards."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.backends.cudnn.deterministic
    if "OMP_NUM_THREADS" not in os.environ:  # an explicit setting has priority
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
    """The first process opens the run; the others use the same folder, or raise the first one's error."""
    if not ranks.first:
        answer: object = ranks.broadcast(None)
        if not isinstance(answer, RunFolder):
            raise UserError(str(answer))
        yield answer
        ranks.wait()  # until the first process has renamed the folder
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
