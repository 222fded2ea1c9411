"""`pellucid pretrain`: a study and its scan → a run folder with a trained backbone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cohort.errors import UserError
from cohort.prepared import PreparedImages
from cohort.runs import RunFolder, begin_run
from cohort.study import Study
from pretrain.batches import Batches
from pretrain.checkpoint import list_checkpoints
from pretrain.dino import Dino
from pretrain.dinov2 import DinoV2
from pretrain.export import export_backbone
from pretrain.lejepa import LeJepa
from pretrain.loop import train
from pretrain.mae import Mae
from pretrain.method import Method
from pretrain.ranks import Ranks, join_ranks
from pretrain.recipe import AnyRecipe, DinoRecipe, DinoV2Recipe, LeJepaRecipe, MaeRecipe, load_recipe


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
    name, recipe = load_recipe(study.config.pretrain, f"{study.path}: pretrain", study.path.parent)
    splits = ["train", "test"] if recipe.include_test else ["train"]
    chosen = training_images(scan.path, splits, recipe.batch_size)
    config = {"recipe": recipe.content(), "splits": splits}
    with (
        join_ranks(device) as ranks,
        _one_run_for_all(ranks, study.analysis, name, config, scan, recipe.seed) as run,
    ):
        if not run.done:
            rows = _rows(ranks, recipe.batch_size)
            workers = recipe.machine.workers or min(16, _cores(ranks))
            batches = Batches(
                PreparedImages.open(scan.path, chosen["image_id"].tolist(), at_least_px=recipe.source_px),
                source_px=recipe.source_px,
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                rows=rows,
                workers=workers,
                cache_gb=recipe.machine.cache_gb,
            )
            steps = recipe.steps(len(chosen))
            with _tuned(ranks):
                method = build_method(recipe, steps)
                train(method, recipe, batches, run.path, ranks, name=name, steps=steps, progress=progress)
            if ranks.first:
                facts = {
                    "method": recipe.method,
                    "recipe": name,
                    "n_images_trained": len(chosen),
                    "n_patients_trained": int(chosen["patient"].nunique()),
                    "splits_trained": splits,
                    "images_seen": steps * recipe.batch_size,
                }
                export_backbone(run.path, method, recipe, facts)
                for old in list_checkpoints(run.path)[:-1]:  # the last is enough to train on from
                    old.unlink()
    return run


def training_images(scan_folder: Path, splits: list[str], batch_size: int) -> pd.DataFrame:
    """image_id and patient of the readable images of these splits, in the manifest's order.

    Raises:
        UserError: fewer than one batch.
    """
    columns = ["image_id", "status", "patient", "split"]
    manifest = pd.read_parquet(scan_folder / "manifest.parquet", columns=columns)
    usable = manifest[(manifest["status"] == "ok") & manifest["split"].isin(splits)]
    if len(usable) < batch_size:
        raise UserError(
            f"{scan_folder.name}: {len(usable)} readable images in the {' and '.join(splits)} split are too few to "
            f"pretrain on, a batch has {batch_size}: add images, or set pretrain.batch_size={max(2, len(usable) // 4)}"
            " or less (a generic backbone may then serve better)"
        )
    return usable[["image_id", "patient"]].reset_index(drop=True)


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


def _rows(ranks: Ranks, batch_size: int) -> slice:
    if batch_size % ranks.world:
        raise UserError(
            f"a batch of {batch_size} cannot be shared by {ranks.world} processes: set pretrain.batch_size to a "
            f"multiple, for example {batch_size // ranks.world * ranks.world or ranks.world}"
        )
    share = batch_size // ranks.world
    return slice(ranks.rank * share, (ranks.rank + 1) * share)


def _cores(ranks: Ranks) -> int:
    """Cores of this process: those it may run on, shared with the other processes of the machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextlib.contextmanager
def _tuned(ranks: Ranks) -> Iterator[None]:
    """PyTorch's process-wide settings for the time of a training, and as they were after it."""
    threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.backends.cudnn.deterministic
    if "OMP_NUM_THREADS" not in os.environ:  # who has set it knows why
        torch.set_num_threads(_cores(ranks))
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
def _one_run_for_all(
    ranks: Ranks, analysis: Path, name: str, config: Mapping[str, Any], scan: RunFolder, seed: int
) -> Iterator[RunFolder]:
    """The first process opens the run; the others work in the same folder, or hear why there is none."""
    if not ranks.first:
        answer: object = ranks.tell(None)
        if not isinstance(answer, RunFolder):
            raise UserError(str(answer))
        yield answer
        ranks.wait()  # until the folder has its final name
        final: object = ranks.tell(None)
        assert isinstance(final, RunFolder)
        answer.path, answer.record = final.path, final.record
        return
    with contextlib.ExitStack() as stack:
        try:
            run = stack.enter_context(begin_run(analysis, "pretrain", name, config, parents=[scan], seed=seed))
        except UserError as error:
            ranks.tell(str(error))
            raise
        ranks.tell(run)
        yield run
    ranks.wait()
    ranks.tell(run)
