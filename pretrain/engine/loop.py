"""The training loop, the same for every method, on one device or on several under torchrun."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pellucid.cohort.errors import Preempted
from pellucid.embed.backbones import Compute, apply
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.data.batches import Batches, step_seed
from pellucid.pretrain.data.device_prefetch import prefetch_to_device
from pellucid.pretrain.distributed.process_group import Ranks
from pellucid.pretrain.engine.block_wrappers import checkpoint_activations, compile_blocks
from pellucid.pretrain.engine.checkpoint import list_checkpoints, load_newest, save_checkpoint
from pellucid.pretrain.engine.optimizer import parameter_groups
from pellucid.pretrain.engine.preemption import PREEMPT, StopRequests, stop_requests
from pellucid.pretrain.engine.resume_check import changes, conditions, precision_kept
from pellucid.pretrain.engine.step_timer import Stopwatch
from pellucid.pretrain.engine.training_compute import to_memory_layout
from pellucid.pretrain.methods.method import Method, StepOutput
from pellucid.pretrain.monitor.collapse import Diagnosis, Monitor, TrainingFailed, last_good, not_finite
from pellucid.pretrain.monitor.feature_statistics import feature_statistics
from pellucid.pretrain.monitor.jsonl_logs import (
    METRICS,
    RESUMED,
    TIMINGS,
    WATCH_LINES,
    append_line,
    drop_lines_after,
    read_lines,
)
from pellucid.pretrain.monitor.progress_bar import Pace, show_progress
from pellucid.pretrain.monitor.tensorboard_log import Events
from pellucid.pretrain.recipe import Recipe
from pellucid.pretrain.schedules import cosine, scaled_lr, warmup_cosine

PLAIN = Compute()  # float32
READ_GPU_EVERY = 10  # steps; reading a number synchronises a GPU


class TrainingObserver(Protocol):
    """Observes a training at some steps without influencing it."""

    def due(self, done: int) -> bool:
        """Whether `at` must be called after `done` steps."""

    def at(self, method: Method, done: int) -> None:
        """Called in the first process after `done` steps, while the others wait."""

    def write(self, *, stopped: Diagnosis, last_good: Path | None) -> None:
        """Called when the diagnosis `stopped` ends the training."""


def train(
    method: Method,
    recipe: Recipe,
    content: Mapping[str, Any],
    batches: Batches,
    folder: Path,
    ranks: Ranks,
    *,
    name: str,
    steps: int,
    compute: Compute = PLAIN,
    observer: TrainingObserver | None = None,
    progress: bool = True,
) -> None:
    """Train `method` in place for `steps` steps, continuing from the newest checkpoint in `folder`.

    Args:
        content: the part of the recipe that determines the run's address; its hash is saved in checkpoints.
        compute: number type, attention kernel and layout; with `precision: auto` a checkpoint's own have priority.

    Writes `metrics.jsonl` (byte-identical regardless of interruptions), `timings.jsonl` and `checkpoints/`.

    Raises:
        Preempted: SIGTERM, SIGUSR2 or a file named PREEMPT in `folder` requested a stop; a checkpoint is saved.
        TrainingFailed: the loss or its gradient is not finite, or the features collapsed.
        UserError: a file cannot be written.
    """
    Trainer(method, recipe, content, batches, folder, ranks, name, steps, compute, observer, progress).run()


@dataclass
class Trainer:
    """One training: `run` calls `setup` and `resume`, then `train_step`, `log_step` and `save_or_stop` for each step.

    The attributes are the arguments of `train`. `setup` and `resume` add:
        optimizer, scaler: AdamW, and a gradient scaler that is active with float16 only, because of its small range.
        model: `method`, wrapped for several processes.
        monitor: detects collapse, divergence and stagnation.
        start: the first step of this call.
        conditions: those recorded in checkpoints (resume_check.py).
        recent: losses since the last line of metrics.
        unread: (loss, gradient norm) of steps whose values have not been read from the device yet.
        rank_me: effective rank in the last line of metrics.
    """

    method: Method
    recipe: Recipe
    content: Mapping[str, Any]
    batches: Batches
    folder: Path
    ranks: Ranks
    name: str
    steps: int
    compute: Compute
    observer: TrainingObserver | None
    progress: bool

    def run(self) -> None:
        """Train to the last step.

        Raises:
            Preempted, TrainingFailed, UserError: as `train`.
        """
        self.setup()
        self.resume()
        self._wrap()
        device = self.ranks.device
        with (
            contextlib.closing(self.events),
            stop_requests(self.folder) as stop,
            show_progress(
                self.name, self.start, self.steps, self.recipe.batch_size, wanted=self.progress and self.ranks.first
            ) as show,
            contextlib.closing(self.batches.stream(self.start, self.steps, pin=device.type == "cuda")) as decoded,
            contextlib.closing(prefetch_to_device(decoded, device)) as stream,
        ):
            if self.start == 0:
                self._observe(0)
            for step in range(self.start, self.steps):
                done = step + 1
                logged = done % self.recipe.log_every == 0 or done == self.steps
                saved = done % self.recipe.machine.checkpoint_every == 0 or done == self.steps
                read = logged or saved or done % self.read_every == 0
                watch = Stopwatch(device, on=logged)
                result = self.train_step(step, stream, watch, read=read)
                images_per_s = self.pace.tick()
                if read:
                    show(done, self.recent[-1], images_per_s)
                if logged:
                    self.log_step(done, result, images_per_s, watch)
                self._observe(done)
                self.save_or_stop(done, stop, saved=saved, read=read)

    def setup(self) -> None:
        """1. The optimizer and the monitor.

        Biases, norms, positions and tokens are not decayed; after a warm start, lower layers have lower learning rates.
        """
        recipe = self.recipe
        self.method.to(self.ranks.device)
        self.trained = [p for p in self.method.parameters() if p.requires_grad]
        groups = parameter_groups(self.method, recipe.warm_start.layer_factor)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.optimizer.betas, fused=True)
        self.monitor = Monitor.from_recipe(recipe, dim=int(self.method.backbone().num_features), steps=self.steps)
        self.pace = Pace(recipe.batch_size)
        self.read_every = READ_GPU_EVERY if self.ranks.device.type == "cuda" else 1
        self.unread: list[Tensor] = []
        self.start, self.recent = 0, list[float]()

    def resume(self) -> None:
        """2. Continue from the newest checkpoint, if there is one, and remove log lines of later steps."""
        recipe, ranks, device = self.recipe, self.ranks, self.ranks.device
        checkpoint = load_newest(self.folder, device)
        if checkpoint is not None and recipe.precision == "auto":
            begun = precision_kept(self.compute, checkpoint.get("conditions"))
            if begun.precision != self.compute.precision and ranks.first:
                print(
                    f"pretrain {self.name}: resumed in {begun.precision}, the number type of its checkpoint",
                    file=sys.stderr,
                )
            self.compute = begun
        apply(self.method, self.compute)
        self.conditions = conditions(
            self.content, world=ranks.world, steps=self.steps, device=device, compute=self.compute
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.compute.precision == "float16")
        if checkpoint is not None:
            self.method.load_state_dict(checkpoint["method"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.scaler.is_enabled() and checkpoint.get("scaler"):
                self.scaler.load_state_dict(checkpoint["scaler"])
            self.start, self.recent = int(checkpoint["step"]), list(checkpoint["recent"])
        ranks.wait()  # all processes have read the checkpoint before the first one writes
        ranks.first_does(functools.partial(self._tidy_logs, checkpoint))
        so_far = read_lines(self.folder / METRICS)
        self.monitor.replay(so_far)
        self.rank_me: float | None = so_far[-1]["effective_rank"] if so_far else None
        self.events = Events(self.folder, wanted=recipe.machine.tensorboard and ranks.first)
        self.events.replay([*so_far, *read_lines(self.folder / WATCH_LINES)])

    def _tidy_logs(self, checkpoint: Mapping[str, Any] | None) -> None:
        drop_lines_after(self.folder / METRICS, self.start)
        drop_lines_after(self.folder / WATCH_LINES, self.start if self.start else -1)  # step 0 is observed again
        if checkpoint is not None:
            for change in changes(checkpoint.get("conditions"), self.conditions):
                append_line(self.folder / RESUMED, {"step": self.start, "changed": change})
                print(f"pretrain {self.name}: resumed from step {self.start:,}: {change}", file=sys.stderr)

    def _wrap(self) -> None:
        """Compile or recompute blocks if the recipe asks for it, and wrap the method in DDP for several processes."""
        machine, device = self.recipe.machine, self.ranks.device
        if machine.compile == "on" or (machine.compile == "auto" and device.type == "cuda"):
            compile_blocks(self.method)
        if machine.checkpoint_activations:
            checkpoint_activations(self.method)
        self.model: torch.nn.Module = self.method
        if self.ranks.world > 1:
            on = [device.index] if device.type == "cuda" else None
            with warnings.catch_warnings():
                # DDP warns without broadcast buffers; methods synchronise centres and statistics themselves.
                warnings.simplefilter("ignore", FutureWarning)
                self.model = DistributedDataParallel(self.method, device_ids=on, broadcast_buffers=False)

    def train_step(self, step: int, stream: Iterator[Tensor], watch: Stopwatch, *, read: bool) -> StepResult:
        """Steps 3 to 5: images, loss and gradient, update.

        Args:
            read: read loss and gradient norm from the device, which synchronises a GPU.

        Raises:
            TrainingFailed: loss or gradient is not finite (detected when they are read).
        """
        recipe, ranks, device = self.recipe, self.ranks, self.ranks.device
        # 3. Images, as uint8: (b, source_px, source_px, 3).
        images = next(stream)
        watch.lap("wait")
        # 4. Views, loss and gradient, for each micro-batch. Randomness depends on (seed, step) only: no state to save.
        self.optimizer.zero_grad(set_to_none=True)
        outputs: list[StepOutput] = []
        for part, rows in enumerate(micro_batches(self.batches.rows, recipe.accumulate)):
            pixels = images[rows.start - self.batches.rows.start : rows.stop - self.batches.rows.start]
            views = self.method.views(pixels, Draw(recipe.seed, step, recipe.batch_size, rows, device))
            # Drop path uses the global generator.
            torch.manual_seed(step_seed(recipe.seed, step, 1 + ranks.rank * recipe.accumulate + part))
            watch.lap("views")
            with sync_gradients_last(self.model, done=part + 1 == recipe.accumulate):
                with self.compute.autocast(device.type):
                    output = self.model(to_memory_layout(views, self.compute), step)
                watch.lap("forward")
                self.scaler.scale(output.loss / recipe.accumulate).backward()
                watch.lap("backward")
            outputs.append(output._replace(loss=output.loss.detach()))
        self.scaler.unscale_(self.optimizer)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.trained, recipe.optimizer.clip_grad or math.inf)
        loss = ranks.mean(torch.stack([output.loss for output in outputs]).mean())
        self.unread.append(torch.stack([loss, grad_norm.detach().float()]))
        norm = self._read_losses(step + 1) if read else math.nan
        # 5. Update: learning rate and weight decay of this step, then the optimizer, then the teacher if there is one.
        lr, weight_decay = scheduled(recipe, step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = weight_decay if group["decayed"] else 0.0
        self.method.before_update(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        extra = self.method.after_update(step)
        watch.lap("optimizer")
        return StepResult(outputs, lr, weight_decay, norm, extra)

    def _read_losses(self, done: int) -> float:
        """Read the losses and gradient norms that are still on the device; return the last gradient norm."""
        numbers: list[list[float]] = torch.stack(self.unread).tolist()
        self.unread.clear()
        for at, (loss, norm) in enumerate(numbers, start=done - len(numbers)):
            # With float16 the scaler skips steps whose gradient overflows; they do not end the training.
            if diagnosis := not_finite(at, loss, 0.0 if self.scaler.is_enabled() else norm):
                raise self._failure(diagnosis)
        self.recent += [loss for loss, _ in numbers]
        return numbers[-1][1]

    def log_step(self, done: int, result: StepResult, images_per_s: float, watch: Stopwatch) -> None:
        """6. Write one line of metrics, and the timings to a separate file: metrics.jsonl does not depend on speed.

        Raises:
            TrainingFailed: the monitor detected a collapse.
        """
        line = {
            "step": done,
            "images": done * self.recipe.batch_size,
            "loss": sum(self.recent) / len(self.recent),
            "lr": result.lr,
            "weight_decay": result.weight_decay,
            "grad_norm": result.grad_norm,
            **step_metrics(result.outputs, self.ranks),
            **result.extra,
        }
        self.recent.clear()
        self.rank_me = line["effective_rank"]
        speed = {"step": done, "images_per_s": round(images_per_s, 2), **watch.seconds()}
        self.ranks.first_does(functools.partial(append_line, self.folder / METRICS, line))
        self.ranks.first_does(functools.partial(append_line, self.folder / TIMINGS, speed))
        self.events.line(line)
        found = self.ranks.broadcast(self.monitor.feed(line))  # all processes use the first one's diagnosis
        if found is not None and found.stops:
            raise self._failure(found)
        if found is not None and self.ranks.first:
            print(f"pretrain {self.name}: step {done:,}: {found.sentence()}", file=sys.stderr)

    def save_or_stop(self, done: int, stop: StopRequests, *, saved: bool, read: bool) -> None:
        """7. Save at intervals, at the end, and in all processes when any of them received a stop request.

        While a failure is suspected no checkpoint is pruned, because the last good one may be old.

        Raises:
            Preempted: a stop was requested.
        """
        stopping = read and self.ranks.any(stop.reason() is not None) and done < self.steps
        if saved or stopping:
            state = {
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "recent": self.recent,
                "conditions": self.conditions,
                **({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}),
            }
            keep = self.recipe.machine.checkpoints if self.monitor.suspect_since is None else sys.maxsize
            # The best checkpoint must not depend on the time of a stop; the rank of untrained networks is meaningless.
            score = self.rank_me if saved and done > self.monitor.grace_steps else None
            self.ranks.first_does(functools.partial(save_checkpoint, self.folder, done, state, keep, score))
        if stopping:
            if self.ranks.first:
                (self.folder / PREEMPT).unlink(missing_ok=True)  # it must not stop the resumed training again
            raise Preempted(
                f"pretrain {self.name}: stopped after step {done:,} of {self.steps:,} "
                f"({stop.reason() or 'stop requested in another process'}); a checkpoint is saved, rerun the command "
                "to continue"
            )

    def _observe(self, done: int) -> None:
        if self.observer is not None and self.observer.due(done):
            self.ranks.first_does(functools.partial(self.observer.at, self.method, done))
            for line in read_lines(self.folder / WATCH_LINES) if self.recipe.machine.tensorboard else ():
                if line["step"] == done:
                    self.events.line(line)

    def _failure(self, diagnosis: Diagnosis) -> TrainingFailed:
        checkpoints = ((int(path.stem.rpartition("-")[2]), path) for path in list_checkpoints(self.folder))
        good = last_good(checkpoints, diagnosis)
        if self.observer is not None:
            self.ranks.first_does(functools.partial(self.observer.write, stopped=diagnosis, last_good=good))
        return TrainingFailed(diagnosis, good)


class StepResult(NamedTuple):
    """The values of one step that a line of metrics needs."""

    outputs: list[StepOutput]
    lr: float
    weight_decay: float
    grad_norm: float  # nan where it was not read
    extra: dict[str, float]


def micro_batches(rows: slice, parts: int) -> list[slice]:
    """This process's rows of the global batch in `parts` equal micro-batches."""
    share = (rows.stop - rows.start) // parts
    return [slice(rows.start + i * share, rows.start + (i + 1) * share) for i in range(parts)]


@contextlib.contextmanager
def sync_gradients_last(model: torch.nn.Module, *, done: bool) -> Iterator[None]:
    """Let DDP exchange gradients once per step, with the last micro-batch (`done`)."""
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not done else contextlib.nullcontext():
        yield


def step_metrics(outcomes: list[StepOutput], ranks: Ranks) -> dict[str, float]:
    """Feature statistics and terms of the loss of one step, over all processes."""
    features = ranks.gather(torch.cat([outcome.features for outcome in outcomes]))
    partners = [outcome.partner for outcome in outcomes if outcome.partner is not None]
    partner = ranks.gather(torch.cat(partners)) if partners else None
    terms = {
        name: ranks.mean(torch.stack([outcome.terms[name].float() for outcome in outcomes]).mean()).item()
        for name in outcomes[0].terms
    }
    return {**terms, **feature_statistics(features, partner)}


def scheduled(recipe: Recipe, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and weight decay of step `step` of `steps`."""
    o = recipe.optimizer
    peak = scaled_lr(o.base_lr, recipe.batch_size) * recipe.warm_start.rate_factor
    lr = warmup_cosine(step, steps, round(o.warmup * steps), peak, min(o.final_lr, peak))
    return lr, cosine(step, steps, o.weight_decay, o.final_weight_decay)
