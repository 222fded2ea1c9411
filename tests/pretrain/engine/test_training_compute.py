"""A training is computed as its first process has chosen, says so, and goes on in it; float16 has its scaler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid.pretrain.engine.loop
from pellucid.cohort.errors import Preempted, UserError
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study
from pellucid.embed.backbones.compute_choice import FORCED, Compute, Hardware, measured, possible
from pellucid.pretrain import stage
from pellucid.pretrain.engine.training_compute import COMPUTE, timed_step
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe
from pellucid.pretrain.stage import pretrain as run_pretrain

Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]
CPU = torch.device("cpu")


def results(run: RunFolder) -> tuple[bytes, bytes]:
    return (run.path / "metrics.jsonl").read_bytes(), (run.path / "backbone.safetensors").read_bytes()


def stopped_after_five(study: Study, scan: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its working folder."""
    scheduled = pellucid.pretrain.engine.loop.scheduled

    def ask(recipe: Any, step: int, steps: int) -> tuple[float, float]:
        if step == 4:
            (folder,) = (study.analysis / "pretrain").glob(".*.partial")
            (folder / "PREEMPT").touch()
        return scheduled(recipe, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(pellucid.pretrain.engine.loop, "scheduled", ask)
        with pytest.raises(Preempted):
            run_pretrain(study, scan, device="cpu", progress=False)
    (folder,) = (study.analysis / "pretrain").glob(".*.partial")
    return folder


@pytest.mark.number_type
def test_the_run_says_how_it_was_computed(cohort: Cohort, tiny: Tiny) -> None:
    run = run_pretrain(*cohort({**tiny["lejepa"], "precision": "auto"}), device="cpu", progress=False)
    said = run.read_json(COMPUTE)
    assert said["schema"] == "pellucid.compute/1"
    assert said["reason"] == "forced"
    state = torch.load(next((run.path / "checkpoints").iterdir()), weights_only=True)
    name = "fp32" if said["precision"] == "float32" else said["precision"]
    assert state["conditions"]["precision"] == name
    assert state["conditions"]["attention"] == said["attention"]


@pytest.mark.parametrize("record", ["kept", "lost"])
def test_a_resumed_training_goes_on_in_its_number_type(
    cohort: Cohort,
    tiny: Tiny,
    record: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    section = {**tiny["mae"], "precision": "auto"}
    monkeypatch.setenv(FORCED, "bfloat16")
    calm = run_pretrain(*cohort(section, "calm"), device="cpu", progress=False)
    expected = results(calm)
    study, scan = cohort(section, "stopped")
    folder = stopped_after_five(study, scan, monkeypatch)
    if record == "lost":  # a run of an earlier version: its checkpoint says it
        (folder / COMPUTE).unlink()
    monkeypatch.setenv(FORCED, "float32")
    capfd.readouterr()
    run = run_pretrain(study, scan, device="cpu", progress=True)
    assert "resumed in bfloat16" in capfd.readouterr().err
    assert results(run) == expected
    monkeypatch.setenv(FORCED, "float32")
    other = run_pretrain(*cohort(section, "float32"), device="cpu", progress=False)
    assert results(other) != expected, "the two types differ, or this test would show nothing"


def test_float16_is_for_gpus_and_has_a_scaler(cohort: Cohort, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    study, scan = cohort({**tiny["mae"], "precision": "fp16"}, "refused")
    with pytest.raises(UserError, match="float16 is for GPUs: choose auto, float32 or bfloat16 on a CPU"):
        run_pretrain(study, scan, device="cpu", progress=False)
    # Slow on a CPU, but it works: the scaler is saved and restored.
    monkeypatch.setattr(stage, "training_compute", lambda *_, **__: Compute("float16", "explicit"))
    section = {**tiny["mae"], "precision": "auto"}
    expected = results(run_pretrain(*cohort(section, "calm"), device="cpu", progress=False))
    study, scan = cohort(section, "stopped")
    folder = stopped_after_five(study, scan, monkeypatch)
    state = torch.load(folder / "checkpoints" / "step-00000005.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1
    run = run_pretrain(study, scan, device="cpu", progress=False)
    assert results(run) == expected


@pytest.mark.parametrize("kind", ["mae", "dino", "dinov2", "lejepa"])
def test_a_step_of_every_method_can_be_timed(tiny: Tiny, kind: str) -> None:
    recipe = load_recipe(tiny[kind])[1]
    method = build_method(recipe, 10)
    ways = possible(method, Hardware("cpu", "a processor", "bfloat16"))
    seconds = measured(ways, timed_step(method, recipe, CPU), budget_s=0)
    assert len(seconds) == 4
    assert all(s > 0 for s in seconds.values())
