"""Lines of metrics → what is wrong with a training, in words: collapse, a loss that is no number, or standing still.

The monitor sees nothing but the lines of metrics.jsonl, so that a resumed training judges as an undisturbed one does, and
every process of a distributed one alike. Signs are judged after the warm-up, and the rank relative to the first lines
and with the batch's mean taken off: the features of untrained networks, and those of MAE at all times, are much alike
from image to image without anything being wrong.
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
FEWEST_FOR_STAGNATION = 20  # lines; under this a standstill cannot be told from noise
_MOVING = ("loss", "feature_std", "effective_rank", "centred_rank", "teacher_entropy")

_HELP: dict[str, str] = {
    "complete collapse": "a lower learning rate (optimizer.base_lr), a longer warm-up (optimizer.warmup) or a larger "
    "batch_size usually helps; with LeJEPA also a larger weight of its regulariser, with a teacher a slower one "
    "(teacher_momentum nearer 1) and a center_momentum below 1",
    "dimensional collapse": "a larger batch_size, a lower learning rate (optimizer.base_lr) or a weight that spreads the "
    "features (KoLeo with dinov2, the regulariser's with lejepa) usually helps",
    "uniform collapse": "a colder teacher (a lower teacher_temp, with a longer teacher_temp_warmup), a longer warm-up or a "
    "lower learning rate (optimizer.base_lr), fewer prototypes (output_dim) for a small cohort, or a KoLeo weight "
    "(method dinov2) usually helps",
    "one answer": "a center_momentum below 1 (0.9 lets the centre follow; 1 holds it still), a larger batch_size, a slower "
    "teacher (teacher_momentum nearer 1) or a lower learning rate (optimizer.base_lr) usually helps",
    "not finite": "a lower learning rate (optimizer.base_lr), a longer warm-up (optimizer.warmup) or precision=fp32 usually "
    "helps",
    "stagnation": "a higher learning rate (optimizer.base_lr) usually helps; if the loss had fallen before, the training may "
    "simply have come to its end",
}


@dataclass(frozen=True)
class Diagnosis:
    """One sign that something is wrong.

    Attributes:
        sign: key of the metrics line, or what is computed from several.
        since: step of the first line (or, if not finite, the step) that showed it; a checkpoint before it is good.
        stops: whether the recipe wants the training stopped.
    """

    kind: Kind
    sign: str
    value: float
    threshold: float
    since: int
    step: int
    what: str  # the finding, without where to go from here
    stops: bool

    @property
    def help(self) -> str:
        return _HELP[self.kind]

    def sentence(self, last_good: Path | None = None) -> str:
        """All of it for a person; `last_good`: the newest checkpoint that was saved before `since`."""
        helps = self.help[0].upper() + self.help[1:]
        if not self.stops:
            return f"{self.what}. {helps}"
        last = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint from before it"
        return f"pretraining stopped at step {self.step:,}: {self.what}; {last}. {helps}"

    def record(self) -> dict[str, Any]:
        """For health.json, the training sheet and the report; without paths."""
        names = ("kind", "sign", "value", "threshold", "since", "step", "what", "stops")
        found = {name: getattr(self, name) for name in names} | {"help": self.help}
        return {k: (str(v) if isinstance(v, float) and not math.isfinite(v) else v) for k, v in found.items()}


def not_finite(step: int, loss: float, grad_norm: float) -> Diagnosis | None:
    """Whether step number `step` (from 0) has blown up; the weights are those from before it."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return None
    of_loss = not math.isfinite(loss)
    what = f"the loss is {loss}" if of_loss else f"the gradient's norm is {grad_norm}"
    sign, value = ("loss", loss) if of_loss else ("grad_norm", grad_norm)
    return Diagnosis("not finite", sign, value, math.inf, step + 1, step + 1, what, True)


def last_good(checkpoints: Iterable[tuple[int, Path]], diagnosis: Diagnosis) -> Path | None:
    """The newest of (step, path) that was saved before the first line with the sign."""
    before = [(step, path) for step, path in checkpoints if step < diagnosis.since]
    return max(before)[1] if before else None


class TrainingFailed(UserError):
    """A training that has been stopped because of what `Monitor` or `not_finite` found; `last_good`: checkpoint before it."""

    def __init__(self, diagnosis: Diagnosis, last_good: Path | None) -> None:
        super().__init__(diagnosis.sentence(last_good))
        self.last_good = last_good


class Monitor:
    """Judges the lines of metrics one after the other; its state is a function of the lines it has been fed."""

    def __init__(
        self, config: Health, *, dim: int, steps: int, grace_steps: int, teacher_outputs: int | None = None
    ) -> None:
        """`dim` of the features; `grace_steps`: how long nothing is judged; `teacher_outputs`: K of DINO's head."""
        self.config, self.dim, self.steps, self.grace_steps = config, dim, steps, grace_steps
        self.log_k = math.log(teacher_outputs) if teacher_outputs else None
        self._first: list[Mapping[str, Any]] = []
        self._since: dict[str, list[int]] = {}  # kind of collapse → steps of the lines in a row that showed it
        self._judged: list[Mapping[str, Any]] = []  # for stagnation
        self._peak_lr = 0.0
        self._said: set[str] = set()

    @classmethod
    def from_recipe(cls, recipe: Recipe, *, dim: int, steps: int) -> Monitor:
        """The recipe's; nothing is judged within its learning rate's warm-up."""
        own = getattr(recipe, str(getattr(recipe, "method", "")), None)  # the method's own section
        return cls(
            recipe.health,
            dim=dim,
            steps=steps,
            grace_steps=round(recipe.optimizer.warmup * steps),
            teacher_outputs=getattr(own, "output_dim", None),
        )

    @property
    def suspect_since(self) -> int | None:
        """Step of the first line of a suspicion that is not yet a diagnosis: keep the checkpoint before it."""
        return min((steps[0] for steps in self._since.values()), default=None)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take up the state after these lines, which have been judged before."""
        for line in lines:
            self.feed(line)

    def feed(self, line: Mapping[str, Any]) -> Diagnosis | None:
        """The next line; what it makes certain. A warning is given once, a collapse that stops on every line."""
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
        """Each kind of collapse that this line shows: sign, value, threshold and the finding; the worst first."""
        c, found = self.config, dict[Kind, tuple[str, float, float, str]]()
        scale = math.sqrt(self.dim)
        spread = float(line["feature_std"]) * scale
        if spread < c.least_spread:
            least = c.least_spread / scale
            found["complete collapse"] = (
                "feature_std", spread / scale, least,
                f"complete collapse: all images are given nearly the same features (feature_std is {spread / scale:.2g}, "
                f"less than {least:.2g}; spread evenly it would be {1 / scale:.2g})",
            )  # fmt: skip
        if line.get("projection_std", 1.0) < c.least_projection:
            found["complete collapse"] = (
                "projection_std", float(line["projection_std"]), c.least_projection,
                f"complete collapse: the projections of all images are nearly the same (projection_std is "
                f"{float(line['projection_std']):.2g}, less than {c.least_projection:g}; the regulariser wants 1)",
            )  # fmt: skip
        if self.log_k is not None and "teacher_entropy" in line:
            found |= self._teacher(float(line["teacher_entropy"]), float(line["teacher_kl_uniform"]), self.log_k)
        if not found and "centred_rank" in line:
            rank = float(line["centred_rank"])
            at_first = median(float(first["centred_rank"]) for first in self._first)
            least = max(c.least_rank, c.rank_kept * at_first)
            if rank < least:
                found["dimensional collapse"] = (
                    "centred_rank", rank, least,
                    f"dimensional collapse: {rank:.1f} of {self.dim} directions tell the images apart (centred_rank is "
                    f"less than {least:.1f}; it was {at_first:.1f} at first)",
                )  # fmt: skip
        return found

    def _teacher(self, entropy: float, kl: float, log_k: float) -> dict[Kind, tuple[str, float, float, str]]:
        """What the teacher's answers p say of the image: I = H(mean of p) − mean of H(p) = log K − KL − entropy."""
        information, least = log_k - kl - entropy, self.config.least_information
        if information >= least:
            return {}
        says = f"its answers tell {max(information, 0):.2g} nats of the image, less than {least:.2g}"
        if kl < 0.05 * log_k:
            what = (
                f"uniform collapse: the teacher gives every image all prototypes alike (teacher_entropy is {entropy:.3g} of "
                f"log K = {log_k:.3g}, teacher_kl_uniform {kl:.2g}; {says})"
            )
            return {"uniform collapse": ("teacher_entropy", entropy, log_k - kl - least, what)}
        what = (
            f"collapse to one answer: the teacher gives every image the same prototypes (teacher_entropy is {entropy:.3g}, "
            f"teacher_kl_uniform {kl:.3g} of log K = {log_k:.3g}; {says})"
        )
        return {"one answer": ("teacher_kl_uniform", kl, log_k - entropy - least, what)}

    def _stagnation(self, line: Mapping[str, Any]) -> Diagnosis | None:
        """Over a long window nothing moves by more than its own noise, while the learning rate is not small by plan."""
        self._judged.append(line)
        span = self.config.window * self.steps
        step = int(line["step"])
        start = step - span
        if start < self.grace_steps or float(line.get("lr", 0.0)) < 0.5 * self._peak_lr:
            return None
        self._judged = window = [one for one in self._judged if int(one["step"]) > start]
        if len(window) < FEWEST_FOR_STAGNATION:
            return None
        half = len(window) // 2
        for name in _MOVING:
            values = [float(one[name]) for one in window if name in one]
            if len(values) == len(window) and _moves(values[:half], values[-half:]):
                return None
        early = fmean(float(one["loss"]) for one in window[:half])
        late = fmean(float(one["loss"]) for one in window[-half:])
        what = (
            f"standing still: over the {int(window[-1]['step']) - int(window[0]['step']):,} steps before step {step:,} "
            f"neither the loss ({early:.4g}, then {late:.4g}) nor the features have moved by more than their noise"
        )
        stops = self.config.stagnation == "stop"
        return Diagnosis("stagnation", "loss", late, early, int(window[0]["step"]), step, what, stops)


def _moves(early: list[float], late: list[float]) -> bool:
    """Whether two halves differ by more than two standard errors (Welch's t)."""
    error = math.sqrt(stdev(early) ** 2 / len(early) + stdev(late) ** 2 / len(late))
    return abs(fmean(late) - fmean(early)) > 2 * max(error, 1e-12)
