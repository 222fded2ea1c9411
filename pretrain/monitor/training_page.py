"""The training page: one self-contained file, `training.html`, that shows the progress of a training in a browser.

It is built from metrics.jsonl, watch.jsonl and timings.jsonl of the run folder, together with health.json. It loads
nothing from the network, and images carry research ids only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import torch
from markupsafe import Markup

from pellucid.cohort.errors import UserError
from pellucid.cohort.progress import duration
from pellucid.cohort.runs import RunFolder, atomic_path, write_json
from pellucid.cohort.study import Study
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.monitor.collapse import FEWEST_FOR_STAGNATION, Diagnosis, Monitor
from pellucid.pretrain.monitor.image_strips import Strip, strips
from pellucid.pretrain.monitor.jsonl_logs import PAGE, WATCH_LINES, append_line, read_lines
from pellucid.pretrain.monitor.svg_curves import CSS_VARIABLES, SCRIPT, STYLE
from pellucid.pretrain.monitor.training_curves import training_curves, watch_curves, watch_sentences
from pellucid.pretrain.monitor.watch import Watch
from pellucid.pretrain.recipe import Recipe

HEALTH_SCHEMA = "pellucid.health/1"
_REFRESH_S = 60


@dataclass
class TrainingPage:
    """The training's observer: writes watch.jsonl, health.json and the page at each monitoring step.

    Only the first process monitors and writes; in all processes `held_out` is the same.

    Attributes:
        facts: shown at the top of the page, by name, in this order.
        sentences: shown below the facts, for example about augmentation and warm start.
    """

    folder: Path
    recipe: Recipe
    name: str
    steps: int
    watch: Watch | None
    facts: Mapping[str, str] = field(default_factory=dict)
    sentences: Sequence[str] = ()
    _strips: list[Strip] = field(default_factory=list)
    _dim: int | None = None

    @classmethod
    def open(
        cls, study: Study, scan: RunFolder, recipe: Recipe, *, folder: Path, name: str, steps: int
    ) -> TrainingPage:
        """The page of a training of `steps` steps with run folder `folder`."""
        return cls(folder, recipe, name, steps, Watch.open(study, scan, recipe, steps))

    @property
    def held_out(self) -> frozenset[str]:
        """image_ids that are excluded from training."""
        return self.watch.held_out if self.watch is not None else frozenset()

    def due(self, done: int) -> bool:
        """Whether `at` must be called after `done` steps, before the checkpoint of that step is saved."""
        return self.watch.due(done, self.steps) if self.watch is not None else done == self.steps

    def at(self, method: Method, done: int) -> None:
        """Monitor the method after `done` steps (0: untrained): append to watch.jsonl, render the images and write the
        page."""
        self._dim = int(method.backbone().num_features)
        if self.watch is not None:
            vectors = self.watch.vectors(method)
            for line in self.watch.lines(vectors, done):
                append_line(self.folder / WATCH_LINES, line)
            self._strips = self._image_strips(method, vectors)
        self.write()

    def finish(self, method: Method) -> None:
        """Write the page of a finished training, also after an interruption between the last step and the last page."""
        self._dim = int(method.backbone().num_features)
        if self.watch is not None and not self._strips:
            self._strips = self._image_strips(method, self.watch.vectors(method))
        self.write(finished=True)

    def write(self, *, finished: bool = False, stopped: Diagnosis | None = None, last_good: Path | None = None) -> None:
        """Write the page and health.json from the files of the folder; the images are those of the last monitoring
        step.

        Args:
            finished: the training is complete.
            stopped: the diagnosis that stopped it.
            last_good: the newest checkpoint before the diagnosis.

        Raises:
            UserError: a file cannot be written.
        """
        try:
            self._write(finished=finished, stopped=stopped, last_good=last_good)
        except OSError as error:
            raise UserError(
                f"{self.folder / PAGE}: cannot be written ({error.strerror}). Free disk space and rerun the command: "
                "it continues from the newest checkpoint"
            ) from None

    def _write(self, *, finished: bool, stopped: Diagnosis | None, last_good: Path | None) -> None:
        metrics = read_lines(self.folder / "metrics.jsonl")
        diagnoses = diagnose(metrics, self.recipe, dim=self._dim or 1, steps=self.steps) if self._dim else []
        if stopped is not None:
            diagnoses = [found for found in diagnoses if found.kind != stopped.kind] + [stopped]
        health = health_record(diagnoses, metrics, self.recipe, finished=finished, steps=self.steps, dim=self._dim)
        health["log_k"] = log_outputs(self.recipe)
        write_json(self.folder / "health.json", health)
        watched = read_lines(self.folder / WATCH_LINES)
        groups = watch_curves(watched, steps=self.steps)
        page = (
            _environment()
            .get_template("training.html.j2")
            .render(
                name=self.name,
                palette=Markup(CSS_VARIABLES),
                style=Markup(STYLE),
                script=Markup(SCRIPT),
                script_tag=Markup("script"),
                refresh_s=0 if finished or stopped else _REFRESH_S,
                state=_state(metrics, self.steps, finished, stopped),
                health=health,
                stopped=stopped.sentence(Path("checkpoints") / last_good.name if last_good else None)
                if stopped
                else "",
                facts={
                    **self.facts,
                    **_pace(self.folder, metrics, self.recipe, self.steps, done=finished or stopped is not None),
                },
                sentences=self.sentences,
                curves=[curve.svg() for curve in self._curves(metrics)],
                watch_note=self.watch.sentence() if self.watch is not None and watched else "",
                watch_sentences=watch_sentences(watched),
                groups={group: [curve.svg() for curve in curves] for group, curves in groups.items()},
                strips=self._strips,
            )
        )
        with atomic_path(self.folder / PAGE) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def _curves(self, metrics: list[dict[str, Any]]) -> Any:
        return training_curves(metrics, dim=self._dim, steps=self.steps, log_k=log_outputs(self.recipe))

    def _image_strips(self, method: Method, vectors: Any) -> list[Strip]:
        assert self.watch is not None
        modes = [(module, module.training) for module in method.modules()]
        method.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                return strips(method, self.recipe, self.watch, vectors)
        finally:
            for module, was in modes:
                module.training = was


def health_record(
    diagnoses: Sequence[Diagnosis],
    metrics: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    *,
    finished: bool,
    steps: int,
    dim: int | None,
) -> dict[str, Any]:
    """Content of health.json: a verdict in a sentence, the diagnoses, and the last values of the statistics."""
    if diagnoses:
        verdict = "; ".join(dict.fromkeys(found.what for found in diagnoses)) + "."
        verdict = verdict[0].upper() + verdict[1:]
    elif not metrics:
        verdict = "No metrics yet."
    else:
        so_far = "" if finished else f" in the first {int(metrics[-1]['step']):,} steps"
        verdict = _nothing_found(metrics, recipe, steps, so_far)
    names = (
        "loss", "feature_std", "effective_rank", "centred_rank", "uniformity", "alignment", "teacher_entropy",
        "teacher_kl_uniform", "grad_norm",
    )  # fmt: skip
    last = metrics[-1] if metrics else {}
    return {
        "schema": HEALTH_SCHEMA,
        "healthy": not diagnoses,
        "verdict": verdict,
        "diagnoses": [found.record() for found in diagnoses],
        "finished": finished,
        "steps": steps,
        "dim": dim,
        "last": {name: last[name] for name in names if name in last},
    }


def _nothing_found(metrics: Sequence[Mapping[str, Any]], recipe: Recipe, steps: int, so_far: str) -> str:
    """The verdict without a diagnosis: what was checked."""
    health, grace = recipe.health, round(recipe.optimizer.warmup * steps)
    judged = sum(int(line["step"]) > grace for line in metrics)
    if health.collapse == "off":
        return f"No divergence{so_far}. Collapse was not checked (health.collapse: off)."
    if judged < health.patience:
        return (
            f"No divergence{so_far}. Too few lines of metrics after the warm-up to check for collapse: {judged}, and "
            f"{health.patience} are needed."
        )
    long_enough = health.stagnation != "off" and health.window * judged >= FEWEST_FOR_STAGNATION
    return f"No sign of collapse{', divergence or stagnation' if long_enough else ' or divergence'}{so_far}."


def diagnose(metrics: Sequence[Mapping[str, Any]], recipe: Recipe, *, dim: int, steps: int) -> list[Diagnosis]:
    """The diagnoses from these lines: the last one of each kind."""
    monitor = Monitor.from_recipe(recipe, dim=dim, steps=steps)
    found = {diagnosis.kind: diagnosis for line in metrics if (diagnosis := monitor.feed(line)) is not None}
    return list(found.values())


def log_outputs(recipe: Recipe) -> float | None:
    """log K of the teacher's K outputs; None for methods without a teacher."""
    own = getattr(recipe, str(getattr(recipe, "method", "")), None)
    outputs = getattr(own, "output_dim", None)
    return math.log(outputs) if outputs else None


def _state(metrics: Sequence[Mapping[str, Any]], steps: int, finished: bool, stopped: Diagnosis | None) -> str:
    if finished:
        return f"Finished, {steps:,} steps."
    done = stopped.step if stopped else int(metrics[-1]["step"]) if metrics else 0
    if stopped:
        return f"Stopped at step {done:,} of {steps:,}."
    return f"In progress: step {done:,} of {steps:,} ({done / steps:.0%})."


def _pace(
    folder: Path, metrics: Sequence[Mapping[str, Any]], recipe: Recipe, steps: int, *, done: bool
) -> dict[str, str]:
    """Speed and time from timings.jsonl."""
    timings = [line for line in read_lines(folder / "timings.jsonl") if line.get("images_per_s")]
    if not timings:
        return {}
    rate = median(float(line["images_per_s"]) for line in timings[-50:])
    found = {"speed": f"{rate:,.0f} images/s"}
    waits = [float(i["wait_s"]) / float(i["step_s"]) for i in timings[-50:] if i.get("step_s") and "wait_s" in i]
    if waits:
        found["waiting for data"] = f"{median(waits):.1%} of the time"
    if not done and metrics:
        found["time left"] = duration((steps - int(metrics[-1]["step"])) * recipe.batch_size / rate)
    else:
        done_steps = int(metrics[-1]["step"]) if metrics else 0
        found["compute time"] = duration(done_steps * recipe.batch_size / rate)
    return found


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
