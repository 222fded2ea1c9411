"""The training loop: the same few lines for every method, on one device or on several under torchrun."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from cohort.errors import Preempted, UserError
from cohort.runs import atomic_path
from embed.backbone import has_bf16
from pretrain.batches import Batches, step_seed
from pretrain.checkpoint import list_checkpoints, load_newest, save_checkpoint
from pretrain.health import effective_rank, feature_std
from pretrain.method import Method
from pretrain.progress import Pace, show_progress
from pretrain.ranks import Ranks
from pretrain.recipe import Recipe
from pretrain.schedules import cosine, scaled_lr, warmup_cosine
from pretrain.views import Draw

PREEMPT = "PREEMPT"  # a file of this name in the run's folder asks the training to save itself and stop


def train(
    method: Method,
    recipe: Recipe,
    batches: Batches,
    folder: Path,
    ranks: Ranks,
    *,
    name: str,
    steps: int,
    progress: bool = True,
) -> None:
    """Train `method` in place for `steps` steps, continuing from the newest checkpoint in `folder`.

    Writes `metrics.jsonl` (the same bytes however often it was interrupted), `timings.jsonl` and `checkpoints/`.

    Raises:
        Preempted: SIGTERM, SIGUSR2 or a file named PREEMPT in `folder`; everything is saved.
        UserError: the loss or its gradient is not finite, or a checkpoint cannot be written.
    """
    device, machine = ranks.device, recipe.machine

    # 1. The optimizer. Biases, norms, positions and the class token are not decayed.
    method.to(device)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(method), lr=0.0, betas=recipe.optimizer.betas, fused=True)
    dtype = autocast_dtype(recipe.precision, device)

    # 2. Take up the thread where the newest checkpoint left it; metrics of steps it does not know are dropped.
    start, recent = 0, list[float]()  # recent: losses since the last line of metrics
    checkpoint = load_newest(folder, device)
    if checkpoint is not None:
        method.load_state_dict(checkpoint["method"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        start, recent = int(checkpoint["step"]), list(checkpoint["recent"])
    ranks.wait()  # nobody still reads when the first process goes on to write
    if ranks.first:
        drop_lines_after(folder / "metrics.jsonl", start)

    model: torch.nn.Module = method
    if ranks.world > 1:
        on = [device.index] if device.type == "cuda" else None
        model = DistributedDataParallel(method, device_ids=on, broadcast_buffers=False)

    pace = Pace(recipe.batch_size)
    with (
        stop_requests(folder) as stop,
        show_progress(name, start, steps, recipe.batch_size, wanted=progress and ranks.first) as show,
        contextlib.closing(batches.stream(start, steps, pin=device.type == "cuda")) as stream,
    ):
        for step in range(start, steps):
            began = time.perf_counter()

            # 3. Images, as uint8: (b, source_px, source_px, 3).
            images = next(stream).to(device, non_blocking=True)
            arrived = time.perf_counter()

            # 4. Views. All that is random depends on (seed, step) alone: there is no generator state to save.
            views = method.views(images, Draw(recipe.seed, step, recipe.batch_size, batches.rows, device))
            torch.manual_seed(step_seed(recipe.seed, step, 1 + ranks.rank))  # for drop path, which knows no other
            seen = time.perf_counter()

            # 5. Loss and gradient.
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                outcome = model(views, step)
            optimizer.zero_grad(set_to_none=True)
            outcome.loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, recipe.optimizer.clip_grad or math.inf).item()
            loss = ranks.mean(outcome.loss.detach()).item()
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise not_finite(folder, step, loss, grad_norm)

            # 6. Update: what the schedules say for this step, then the optimizer, then the teacher if there is one.
            lr, weight_decay = scheduled(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
                group["weight_decay"] = weight_decay if group["decayed"] else 0.0
            method.before_update(step)
            optimizer.step()
            extra = method.after_update(step)

            # 7. Tell. Nothing that depends on the machine's speed goes into metrics.jsonl.
            done = step + 1
            recent.append(loss)
            images_per_s = pace.tick()
            show(done, loss, images_per_s)
            if done % recipe.log_every == 0 or done == steps:
                features = ranks.gather(outcome.features)
                line = {
                    "step": done,
                    "images": done * recipe.batch_size,
                    "loss": sum(recent) / len(recent),
                    "lr": lr,
                    "weight_decay": weight_decay,
                    "grad_norm": grad_norm,
                    "feature_std": feature_std(features),
                    "effective_rank": effective_rank(features),
                    **extra,
                }
                recent.clear()
                if ranks.first:
                    append_line(folder / "metrics.jsonl", line)
                    append_line(
                        folder / "timings.jsonl",
                        {
                            "step": done,
                            "images_per_s": round(images_per_s, 2),
                            "step_s": round(time.perf_counter() - began, 5),
                            "wait_s": round(arrived - began, 5),
                            "views_s": round(seen - arrived, 5),  # on CUDA: to enqueue them
                        },
                    )

            # 8. Save: at times, at the end, and when asked to stop, which all processes must have heard.
            stopping = ranks.any(stop.reason() is not None) and done < steps
            if done % machine.checkpoint_every == 0 or done == steps or stopping:
                if ranks.first:
                    state = {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "recent": recent}
                    save_checkpoint(folder, done, state, machine.checkpoints)
                ranks.wait()  # nobody leaves before it is on the disk
            if stopping:
                if ranks.first:
                    (folder / PREEMPT).unlink(missing_ok=True)  # heard, and not to be heard again
                raise Preempted(
                    f"pretrain {name}: stopped after step {done:,} of {steps:,} ({stop.reason() or 'another process was asked'}"
                    "), everything is saved; repeat the command to continue"
                )


def parameter_groups(method: Method) -> list[dict[str, Any]]:
    """Two groups for AdamW: decayed weights, and vectors, positions and tokens, which are not."""
    free = ("pos_embed", "cls_token", "reg_token", "mask_token")
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or name.rpartition(".")[2] in free
            (plain if exempt else decayed).append(parameter)
    return [{"params": decayed, "decayed": True}, {"params": plain, "decayed": False}]


def scheduled(recipe: Recipe, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and weight decay of step `step` of `steps`."""
    o = recipe.optimizer
    peak = scaled_lr(o.base_lr, recipe.batch_size)
    lr = warmup_cosine(step, steps, round(o.warmup * steps), peak, min(o.final_lr, peak))
    return lr, cosine(step, steps, o.weight_decay, o.final_weight_decay)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 if asked for, or under `auto` if the hardware computes in it; None for float32."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


class StopRequests:
    """Whether somebody has asked the training to stop, and how."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PREEMPT
        self._heard: str | None = None

    def hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._heard is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self._heard = signal.Signals(number).name

    def reason(self) -> str | None:
        if self._heard is None and self._file.exists():
            self._heard = f"a file named {PREEMPT}"
        return self._heard


@contextlib.contextmanager
def stop_requests(folder: Path) -> Iterator[StopRequests]:
    """Listen for SIGTERM, SIGUSR2, Ctrl-C and the PREEMPT file while the block runs."""
    requests = StopRequests(folder)
    earlier = {}
    if threading.current_thread() is threading.main_thread():  # only there may Python set handlers
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            earlier[number] = signal.signal(number, requests.hear)
    try:
        yield requests
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def not_finite(folder: Path, step: int, loss: float, grad_norm: float) -> UserError:
    """What to tell the user when training has blown up; the weights of this step were not touched by it."""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {grad_norm}"
    saved = list_checkpoints(folder)
    last = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
    return UserError(
        f"pretraining stopped at step {step + 1}: {what}; {last}. A lower learning rate (optimizer.base_lr), a longer "
        "warm-up (optimizer.warmup) or precision=fp32 usually helps"
    )


def append_line(path: Path, content: dict[str, Any]) -> None:
    """One line of JSON."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(content) + "\n")


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the whole lines of metrics up to `step`; what a killed process wrote beyond it is written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except ValueError:  # torn by the kill
            continue
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
