"""Schedules of learning rate, weight decay, teacher momentum and temperature as closed-form functions of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """end + (start − end) · (1 + cos(π · step / steps)) / 2: half a cosine from `start` at 0 to `end` at `steps`.

    Loshchilov & Hutter 2017, eq. 5, without restarts.
    """
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(step, steps) / max(1, steps)))


def warmup_cosine(step: int, steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """Linear from peak/warmup_steps to `peak` over `warmup_steps`, then a cosine to `final`.

    The first step has a learning rate of peak/warmup_steps, not 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine(step - warmup_steps, steps - warmup_steps, peak, final)


def warmup_linear(step: int, warmup_steps: int, start: float, end: float) -> float:
    """Linear from `start` at step 0 to `end` at `warmup_steps`, then constant."""
    if step >= warmup_steps:
        return end
    return start + (end - start) * step / warmup_steps


def scaled_lr(base_lr: float, batch_size: int) -> float:
    """base_lr · batch_size / 256: the linear scaling rule (Goyal et al. 2017), as in MAE and DINO."""
    return base_lr * batch_size / 256
