"""The training loop: the same few lines for every method, on one device or on several under torchrun."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pellucid.cohort.errors import Preempted
from pellucid.embed.backbones import Compute, apply
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.data.batches import Batches, step_seed
from pellucid.pretrain.data.device_prefetch import uploaded
from pellucid.pretrain.distributed.process_group import Ranks
from pellucid.pretrain.engine.block_wrappers import checkpoint_activations, compile_blocks
from pellucid.pretrain.engine.checkpoint import list_checkpoints, load_newest, save_checkpoint
from pellucid.pretrain.engine.optimizer import parameter_groups
from pellucid.pretrain.engine.preemption import PREEMPT, stop_requests
from pellucid.pretrain.engine.resume_check import changes, conditions, precision_kept
from pellucid.pretrain.engine.step_timer import Stopwatch
from pellucid.pretrain.engine.training_compute import placed
from pellucid.pretrain.methods.method import Method, Outcome
from pellucid.pretrain.monitor.collapse import Diagnosis, Ill, Monitor, last_good, not_finite
from pellucid.pretrain.monitor.feature_statistics import signs
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

PLAIN = Compute()  # float32, without any choice
ASK_GPU_EVERY = 10  # steps; whoever asks a GPU for a number makes it wait


class Onlooker(Protocol):
    """Who looks at the training from outside now and then; nothing of it comes back."""

    def due(self, done: int) -> bool:
        """Whether `at` wants to be called after `done` steps."""

    def at(self, method: Method, done: int) -> None:
        """In the first process, while the others wait."""

    def write(self, *, stopped: Diagnosis, last_good: Path | None) -> None:
        """The training ends here, because of `stopped`."""


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
    onlooker: Onlooker | None = None,
    progress: bool = True,
) -> None:
    """Train `method` in place for `steps` steps, continuing from the newest checkpoint in `folder`.

    Args:
        content: what the run is addressed by; a checkpoint remembers it.
        compute: number type, attention kernel and layout; a checkpoint of a run that asked for none keeps its own type.

    Writes `metrics.jsonl` (the same bytes however often it was interrupted), `timings.jsonl` and `checkpoints/`.

    Raises:
        Preempted: SIGTERM, SIGUSR2 or a file named PREEMPT in `folder`; everything is saved.
        Ill: the loss or its gradient is not finite, or the features have collapsed.
        UserError: a file cannot be written.
    """
    device, machine = ranks.device, recipe.machine

    # 1. The optimizer. Biases, norms, positions and tokens are not decayed; after a warm start lower layers learn more slowly.
    method.to(device)
    trained = [p for p in method.parameters() if p.requires_grad]
    groups = parameter_groups(method, recipe.warm_start.layer_factor)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.optimizer.betas, fused=True)
    monitor = Monitor.of(recipe, dim=int(method.backbone().num_features), steps=steps)

    # 2. Take up the thread where the newest checkpoint left it; lines of steps that it does not know are dropped.
    start, recent = 0, list[float]()  # recent: losses since the last line of metrics
    checkpoint = load_newest(folder, device)
    if checkpoint is not None and recipe.precision == "auto":
        begun = precision_kept(compute, checkpoint.get("conditions"))
        if begun.precision != compute.precision and ranks.first:
            print(f"pretrain {name}: continued in {begun.precision}, in which it was begun", file=sys.stderr)
        compute = begun
    apply(method, compute)
    here = conditions(content, world=ranks.world, steps=steps, device=device, compute=compute)
    scaler = torch.amp.GradScaler(
        device.type, enabled=compute.precision == "float16"
    )  # float16 alone has too small a range
    if checkpoint is not None:
        method.load_state_dict(checkpoint["method"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        if scaler.is_enabled() and checkpoint.get("scaler"):
            scaler.load_state_dict(checkpoint["scaler"])
        start, recent = int(checkpoint["step"]), list(checkpoint["recent"])
    ranks.wait()  # nobody still reads when the first process goes on to write

    def tidy() -> None:
        drop_lines_after(folder / METRICS, start)
        drop_lines_after(folder / WATCH_LINES, start if start else -1)  # step 0 is looked at again
        if checkpoint is not None:
            for change in changes(checkpoint.get("conditions"), here):
                append_line(folder / RESUMED, {"step": start, "changed": change})
                print(f"pretrain {name}: continued from step {start:,}: {change}", file=sys.stderr)

    ranks.first_does(tidy)
    so_far = read_lines(folder / METRICS)
    monitor.replay(so_far)

    if machine.compile == "on" or (machine.compile == "auto" and device.type == "cuda"):
        compile_blocks(method)
    if machine.checkpoint_activations:
        checkpoint_activations(method)
    model: torch.nn.Module = method
    if ranks.world > 1:
        on = [device.index] if device.type == "cuda" else None
        with warnings.catch_warnings():
            # It would rather share buffers, but a centre or statistic that all agree on is the methods' own affair.
            warnings.simplefilter("ignore", FutureWarning)
            model = DistributedDataParallel(method, device_ids=on, broadcast_buffers=False)

    rank_me = so_far[-1]["effective_rank"] if so_far else None  # of the last line of metrics
    ask_every = ASK_GPU_EVERY if device.type == "cuda" else 1
    unasked: list[Tensor] = []  # (loss, gradient norm) of the steps whose numbers are still on the device
    pace = Pace(recipe.batch_size)
    events = Events(folder, wanted=machine.tensorboard and ranks.first)
    events.replay([*so_far, *read_lines(folder / WATCH_LINES)])
    with (
        contextlib.closing(events),
        stop_requests(folder) as stop,
        show_progress(name, start, steps, recipe.batch_size, wanted=progress and ranks.first) as show,
        contextlib.closing(batches.stream(start, steps, pin=device.type == "cuda")) as decoded,
        contextlib.closing(uploaded(decoded, device)) as stream,
    ):

        def look(done: int) -> None:
            if onlooker is not None and onlooker.due(done):
                ranks.first_does(functools.partial(onlooker.at, method, done))
                for seen in read_lines(folder / WATCH_LINES) if machine.tensorboard else ():
                    if seen["step"] == done:
                        events.line(seen)

        def end(diagnosis: Diagnosis) -> Ill:
            saved = last_good(
                ((int(path.stem.rpartition("-")[2]), path) for path in list_checkpoints(folder)), diagnosis
            )
            if onlooker is not None:
                ranks.first_does(functools.partial(onlooker.write, stopped=diagnosis, last_good=saved))
            return Ill(diagnosis, saved)

        if start == 0:
            look(0)
        for step in range(start, steps):
            done = step + 1
            logged = done % recipe.log_every == 0 or done == steps
            saved = done % machine.checkpoint_every == 0 or done == steps
            asked = logged or saved or done % ask_every == 0
            watch = Stopwatch(device, on=logged)

            # 3. Images, as uint8: (b, source_px, source_px, 3).
            images = next(stream)
            watch.lap("wait")

            # 4. Views, loss and gradient, of the whole batch or part by part. All that is random depends on (seed, step)
            #    alone: there is no generator state to save.
            optimizer.zero_grad(set_to_none=True)
            outcomes: list[Outcome] = []
            for part, rows in enumerate(micro_batches(batches.rows, recipe.accumulate)):
                pixels = images[rows.start - batches.rows.start : rows.stop - batches.rows.start]
                views = method.views(pixels, Draw(recipe.seed, step, recipe.batch_size, rows, device))
                # For drop path, which knows no other generator.
                torch.manual_seed(step_seed(recipe.seed, step, 1 + ranks.rank * recipe.accumulate + part))
                watch.lap("views")
                with gradients_stay_here(model, done=part + 1 == recipe.accumulate):
                    with compute.autocast(device.type):
                        outcome = model(placed(views, compute), step)
                    watch.lap("forward")
                    scaler.scale(outcome.loss / recipe.accumulate).backward()
                    watch.lap("backward")
                outcomes.append(outcome._replace(loss=outcome.loss.detach()))

            scaler.unscale_(optimizer)
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, recipe.optimizer.clip_grad or math.inf)
            loss = ranks.mean(torch.stack([outcome.loss for outcome in outcomes]).mean())
            unasked.append(torch.stack([loss, grad_norm.detach().float()]))
            if asked:
                numbers = torch.stack(unasked).tolist()
                unasked.clear()
                for at, (of_loss, of_norm) in enumerate(numbers, start=done - len(numbers)):
                    # Under float16 a gradient that overflows is a step that the scaler leaves out, not the end.
                    if blown_up := not_finite(at, of_loss, 0.0 if scaler.is_enabled() else of_norm):
                        raise end(blown_up)
                recent += [of_loss for of_loss, _ in numbers]

            # 5. Update: what the schedules say for this step, then the optimizer, then the teacher if there is one.
            lr, weight_decay = scheduled(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
                group["weight_decay"] = weight_decay if group["decayed"] else 0.0
            method.before_update(step)
            scaler.step(optimizer)
            scaler.update()
            extra = method.after_update(step)
            watch.lap("optimizer")

            # 6. Tell. Nothing that depends on the machine's speed goes into metrics.jsonl.
            images_per_s = pace.tick()
            if asked:
                show(done, recent[-1], images_per_s)
            if logged:
                line = {
                    "step": done,
                    "images": done * recipe.batch_size,
                    "loss": sum(recent) / len(recent),
                    "lr": lr,
                    "weight_decay": weight_decay,
                    "grad_norm": numbers[-1][1],
                    **described(outcomes, ranks),
                    **extra,
                }
                recent.clear()
                rank_me = line["effective_rank"]
                speed = {"step": done, "images_per_s": round(images_per_s, 2), **watch.seconds()}
                ranks.first_does(functools.partial(append_line, folder / METRICS, line))
                ranks.first_does(functools.partial(append_line, folder / TIMINGS, speed))
                events.line(line)
                found = ranks.tell(monitor.feed(line))  # the first process's verdict is everybody's
                if found is not None and found.stops:
                    raise end(found)
                if found is not None and ranks.first:
                    print(f"pretrain {name}: step {done:,}: {found.sentence()}", file=sys.stderr)
            look(done)

            # 7. Save: at times, at the end, and when asked to stop, which all processes must have heard. While an illness is
            #    suspected nothing is pruned: the last good state may be an old one.
            stopping = asked and ranks.any(stop.reason() is not None) and done < steps
            if saved or stopping:
                state = {
                    "method": method.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "recent": recent,
                    "conditions": here,
                    **({"scaler": scaler.state_dict()} if scaler.is_enabled() else {}),
                }
                keep = machine.checkpoints if monitor.suspect_since is None else sys.maxsize
                # Which one is best must not depend on when somebody stopped it; untrained networks rank high without merit.
                score = rank_me if saved and done > monitor.grace_steps else None
                ranks.first_does(functools.partial(save_checkpoint, folder, done, state, keep, score))
            if stopping:
                if ranks.first:
                    (folder / PREEMPT).unlink(missing_ok=True)  # heard, and not to be heard again
                raise Preempted(
                    f"pretrain {name}: stopped after step {done:,} of {steps:,} ({stop.reason() or 'another process was asked'}"
                    "), everything is saved; repeat the command to continue"
                )


def micro_batches(rows: slice, parts: int) -> list[slice]:
    """This process's rows of the global batch in `parts` equal pieces; the recipe has seen to it that they are equal."""
    share = (rows.stop - rows.start) // parts
    return [slice(rows.start + i * share, rows.start + (i + 1) * share) for i in range(parts)]


@contextlib.contextmanager
def gradients_stay_here(model: torch.nn.Module, *, done: bool) -> Iterator[None]:
    """Under DDP gradients are exchanged once a step, with the last piece of the batch."""
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not done else contextlib.nullcontext():
        yield


def described(outcomes: list[Outcome], ranks: Ranks) -> dict[str, float]:
    """What a line of metrics says of one step's features and of the parts of its loss, over all processes."""
    features = ranks.gather(torch.cat([outcome.features for outcome in outcomes]))
    partners = [outcome.partner for outcome in outcomes if outcome.partner is not None]
    partner = ranks.gather(torch.cat(partners)) if partners else None
    terms = {
        name: ranks.mean(torch.stack([outcome.terms[name].float() for outcome in outcomes]).mean()).item()
        for name in outcomes[0].terms
    }
    return {**terms, **signs(features, partner)}


def scheduled(recipe: Recipe, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and weight decay of step `step` of `steps`."""
    o = recipe.optimizer
    peak = scaled_lr(o.base_lr, recipe.batch_size) * recipe.warm_start.rate_factor
    lr = warmup_cosine(step, steps, round(o.warmup * steps), peak, min(o.final_lr, peak))
    return lr, cosine(step, steps, o.weight_decay, o.final_weight_decay)
