"""Detect a failing training from its lines of metrics: collapse, non-finite loss or gradient, stagnation.

The monitor uses only the lines of metrics.jsonl. A resumed training and all processes of a distributed one therefore
reach the same result. Nothing is judged during the warm-up. The rank is computed after the mean of the batch is
subtracted, and relative to the first lines: the features of untrained networks, and those of MAE at all times, are
similar for all images although nothing is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal

from pellucid.cohort.errors import UserError
from pellucid.pretrain.recipe.base import Recipe
from pellucid.pretrain.recipe.monitoring import Health

Kind = Literal[
    "complete collapse", "dimensional collapse", "uniform collapse", "one answer", "not finite", "stagnation"
]
REFERENCE_LINES = 3
FEWEST_FOR_STAGNATION = 20  # lines; with fewer, stagnation cannot be distinguished from noise
_MOVING = ("loss", "feature_std", "effective_rank", "centred_rank", "teacher_entropy")

_HELP: dict[str, str] = {
    "complete collapse": "a lower learning rate (optimizer.base_lr), a longer warm-up (optimizer.warmup) or a larger "
    "batch_size usually helps; with LeJEPA also a larger sigreg_weight; with a teacher also a slower one "
    "(teacher_momentum closer to 1) and a center_momentum below 1",
    "dimensional collapse": "a larger batch_size, a lower learning rate (optimizer.base_lr) or a larger weight of the "
    "regulariser (koleo_weight with dinov2, sigreg_weight with lejepa) usually helps",
    "uniform collapse": "a lower teacher_temp with a longer teacher_temp_warmup, a longer warm-up, a lower learning "
    "rate (optimizer.base_lr), fewer prototypes (output_dim) for a small study, or a koleo_weight (method dinov2) "
    "usually helps",
    "one answer": "a center_momentum below 1 (for example 0.9; 1 never updates the centre), a larger batch_size, a "
    "slower teacher (teacher_momentum closer to 1) or a lower learning rate (optimizer.base_lr) usually helps",
    "not finite": "a lower learning rate (optimizer.base_lr), a longer warm-up (optimizer.warmup) or precision=fp32 "
    "usually helps",
    "stagnation": "a higher learning rate (optimizer.base_lr) usually helps; if the loss fell before, the training may "
    "simply have converged",
}


@dataclass(frozen=True)
class Diagnosis:
    """One sign that something is wrong.

    Attributes:
        sign: key of the metrics line.
        since: step of the first line (if not finite: the step itself) with the sign; earlier checkpoints are good.
        what: the finding, without advice.
        stops: whether it stops the training (`health:` of the recipe).
    """

    kind: Kind
    sign: str
    value: float
    threshold: float
    since: int
    step: int
    what: str
    stops: bool

    @property
    def help(self) -> str:
        return _HELP[self.kind]

    def sentence(self, last_good: Path | None = None) -> str:
        """Finding and advice as one sentence; `last_good`: the newest checkpoint saved before `since`."""
        helps = self.help[0].upper() + self.help[1:]
        if not self.stops:
            return f"{self.what}. {helps}"
        last = f"the last good checkpoint is {last_good}" if last_good else "there is no earlier checkpoint"
        return f"pretraining stopped at step {self.step:,}: {self.what}; {last}. {helps}"

    def record(self) -> dict[str, Any]:
        """Its content for health.json, the training page and the report; without paths."""
        names = ("kind", "sign", "value", "threshold", "since", "step", "what", "stops")
        found = {name: getattr(self, name) for name in names} | {"help": self.help}
        return {k: (str(v) if isinstance(v, float) and not math.isfinite(v) else v) for k, v in found.items()}


def not_finite(step: int, loss: float, grad_norm: float) -> Diagnosis | None:
    """A diagnosis if the loss or gradient norm of step `step` (from 0) is not finite; the weights were not yet
    updated."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return None
    of_loss = not math.isfinite(loss)
    what = f"the loss is {loss}" if of_loss else f"the gradient norm is {grad_norm}"
    sign, value = ("loss", loss) if of_loss else ("grad_norm", grad_norm)
    return Diagnosis("not finite", sign, value, math.inf, step + 1, step + 1, what, True)


def last_good(checkpoints: Iterable[tuple[int, Path]], diagnosis: Diagnosis) -> Path | None:
    """The newest checkpoint, of (step, path), that was saved before the first line with the sign."""
    before = [(step, path) for step, path in checkpoints if step < diagnosis.since]
    return max(before)[1] if before else None


class TrainingFailed(UserError):
    """A training was stopped by a diagnosis of `Monitor` or `not_finite`; `last_good`: the newest checkpoint before
    it."""

    def __init__(self, diagnosis: Diagnosis, last_good: Path | None) -> None:
        super().__init__(diagnosis.sentence(last_good))
        self.last_good = last_good


class Monitor:
    """Checks the lines of metrics one after another; its state depends only on these lines."""

    def __init__(
        self, config: Health, *, dim: int, steps: int, grace_steps: int, teacher_outputs: int | None = None,
        batch_size: int = 0,
    ) -> None:  # fmt: skip
        """`dim` of the features; `grace_steps`: steps at the start that are not judged; `teacher_outputs`: K of DINO's
        head; `batch_size`: 0 if unknown."""
        # The centred rank of n images is at most n - 1: of a batch of two or three it says nothing.
        self.judges_rank = not batch_size or batch_size > 2 * config.least_rank
        self.config, self.dim, self.steps, self.grace_steps = config, dim, steps, grace_steps
        self.log_k = math.log(teacher_outputs) if teacher_outputs else None
        self._first: list[Mapping[str, Any]] = []
        self._since: dict[str, list[int]] = {}  # kind of collapse → steps of the lines in a row that showed it
        self._judged: list[Mapping[str, Any]] = []  # for stagnation
        self._peak_lr = 0.0
        self._said: set[str] = set()

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, dim: int, steps: int) -> Monitor:
        """The monitor of a recipe; the warm-up of the learning rate is not judged."""
        own = getattr(recipe, str(getattr(recipe, "method", "")), None)  # the method's own section
        return cls(
            recipe.health,
            dim=dim,
            steps=steps,
            grace_steps=round(recipe.optimizer.warmup * steps),
            teacher_outputs=getattr(own, "output_dim", None),
            batch_size=recipe.batch_size,
        )

    @property
    def suspect_since(self) -> int | None:
        """Step of the first line with a sign that is not yet a diagnosis: the checkpoint before it must be kept."""
        return min((steps[0] for steps in self._since.values()), default=None)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Restore the state after these lines, which were judged before an interruption."""
        for line in lines:
            self.feed(line)

    def feed(self, line: Mapping[str, Any]) -> Diagnosis | None:
        """Check the next line. A warning is returned once; a diagnosis that stops the training, on every line."""
        if len(self._first) < REFERENCE_LINES:
            self._first.append(line)
        self._peak_lr = max(self._peak_lr, float(line.get("lr", 0.0)))
        if int(line["step"]) <= self.grace_steps:
            return None
        found = None
        if self.config.collapse != "off":
            found = self._collapse(line)
        if found is None and self.config.stagnation != "off":
            found = self._stagnation(line)
        if found is None or (not found.stops and found.kind in self._said):
            return None
        self._said.add(found.kind)
        return found

    def _collapse(self, line: Mapping[str, Any]) -> Diagnosis | None:
        shown = self._shown(line)
        step = int(line["step"])
        self._since = {kind: [*self._since.get(kind, []), step] for kind in shown}
        for kind, (sign, value, threshold, what) in shown.items():
            steps = self._since[kind]
            if len(steps) >= self.config.patience:
                what = f"{what}, on {len(steps)} lines of metrics in a row since step {steps[0]:,}"
                stops = self.config.collapse == "stop"
                return Diagnosis(kind, sign, value, threshold, steps[0], step, what, stops)
        return None

    def _shown(self, line: Mapping[str, Any]) -> dict[Kind, tuple[str, float, float, str]]:
        """Each kind of collapse that this line shows, with sign, value, threshold and finding; the most severe
        first."""
        c, found = self.config, dict[Kind, tuple[str, float, float, str]]()
        scale = math.sqrt(self.dim)
        spread = float(line["feature_std"]) * scale
        if spread < c.least_spread:
            least = c.least_spread / scale
            found["complete collapse"] = (
                "feature_std", spread / scale, least,
                f"complete collapse: all images have nearly the same features (feature_std is {spread / scale:.2g}, "
                f"below {least:.2g}; features spread evenly have {1 / scale:.2g})",
            )  # fmt: skip
        if line.get("projection_std", 1.0) < c.least_projection:
            found["complete collapse"] = (
                "projection_std", float(line["projection_std"]), c.least_projection,
                f"complete collapse: the projections of all images are nearly the same (projection_std is "
                f"{float(line['projection_std']):.2g}, below {c.least_projection:g}; the target of the regulariser "
                "is 1)",
            )  # fmt: skip
        if self.log_k is not None and "teacher_entropy" in line:
            found |= self._teacher(float(line["teacher_entropy"]), float(line["teacher_kl_uniform"]), self.log_k)
        if not found and self.judges_rank and "centred_rank" in line:
            rank = float(line["centred_rank"])
            at_first = median(float(first["centred_rank"]) for first in self._first)
            least = max(c.least_rank, c.rank_kept * at_first)
            if rank < least:
                found["dimensional collapse"] = (
                    "centred_rank", rank, least,
                    f"dimensional collapse: the images differ in only {rank:.1f} of {self.dim} directions "
                    f"(centred_rank is below {least:.1f}; it was {at_first:.1f} at the start)",
                )  # fmt: skip
        return found

    def _teacher(self, entropy: float, kl: float, log_k: float) -> dict[Kind, tuple[str, float, float, str]]:
        """Mutual information of image and teacher output p: I = H(mean of p) − mean of H(p) = log K − KL − entropy."""
        information, least = log_k - kl - entropy, self.config.least_information
        if information >= least:
            return {}
        informs = f"its output carries {max(information, 0):.2g} nats of information about the image, below {least:.2g}"
        if kl < 0.05 * log_k:
            what = (
                "uniform collapse: the teacher assigns every image to all prototypes equally (teacher_entropy is "
                f"{entropy:.3g} of log K = {log_k:.3g}, teacher_kl_uniform {kl:.2g}; {informs})"
            )
            return {"uniform collapse": ("teacher_entropy", entropy, log_k - kl - least, what)}
        what = (
            "collapse to one output: the teacher assigns every image to the same prototypes (teacher_entropy is "
            f"{entropy:.3g}, teacher_kl_uniform {kl:.3g} of log K = {log_k:.3g}; {informs})"
        )
        return {"one answer": ("teacher_kl_uniform", kl, log_k - entropy - least, what)}

    def _stagnation(self, line: Mapping[str, Any]) -> Diagnosis | None:
        """Nothing changes by more than its noise over a long window, although the learning rate is still high."""
        self._judged.append(line)
        span = self.config.window * self.steps
        step = int(line["step"])
        start = step - span
        if start < self.grace_steps or float(line.get("lr", 0.0)) < 0.5 * self._peak_lr:
            return None
        self._judged = window = [past for past in self._judged if int(past["step"]) > start]
        if len(window) < FEWEST_FOR_STAGNATION:
            return None
        half = len(window) // 2
        for name in _MOVING:
            values = [float(past[name]) for past in window if name in past]
            if len(values) == len(window) and _moves(values[:half], values[-half:]):
                return None
        early = fmean(float(past["loss"]) for past in window[:half])
        late = fmean(float(past["loss"]) for past in window[-half:])
        what = (
            f"stagnation: over the {int(window[-1]['step']) - int(window[0]['step']):,} steps before step {step:,} "
            f"neither the loss ({early:.4g}, then {late:.4g}) nor the features changed by more than their noise"
        )
        stops = self.config.stagnation == "stop"
        return Diagnosis("stagnation", "loss", late, early, int(window[0]["step"]), step, what, stops)


def _moves(early: list[float], late: list[float]) -> bool:
    """Whether two halves differ by more than two standard errors (Welch's t)."""
    error = math.sqrt(stdev(early) ** 2 / len(early) + stdev(late) ** 2 / len(late))
    return abs(fmean(late) - fmean(early)) > 2 * max(error, 1e-12)
