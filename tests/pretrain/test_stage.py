"""The whole verb on a hand-made scan: what is fed, what is written, and what interruption and mistakes do."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import pellucid.pretrain.engine.loop
import pellucid.pretrain.stage
from pellucid.cohort.errors import Preempted, UserError
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.pretrain.engine.warm_start import find_weights
from pellucid.pretrain.methods.mae import Mae
from pellucid.pretrain.methods.method import StepOutput
from pellucid.pretrain.stage import pretrain as run_pretrain

Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]
ROOT = Path(__file__).parents[2]

# What `pellucid pretrain` does, in a process of its own; with a step as last argument it dies there without warning.
CHILD = """
import os, sys
from pathlib import Path
import pellucid.pretrain.engine.loop as loop
from pellucid.cohort.runs.history import open_finished
from pellucid.cohort.study import load_study
from pellucid.pretrain.stage import pretrain
folders, ports, die_at = sys.argv[1].split(","), sys.argv[2].split(","), int(sys.argv[3])
scheduled = loop.scheduled
loop.scheduled = lambda recipe, step, steps: os._exit(9) if step == die_at else scheduled(recipe, step, steps)
for folder, port in zip(folders, ports):
    os.environ["MASTER_PORT"] = port
    (scan,) = (Path(folder) / "analysis/scan").glob("scan-*")
    pretrain(load_study(Path(folder)), open_finished(scan), device="cpu", progress=False)
"""


def start(folders: list[Path], ports: list[int], die_at: int = -1, **env: str) -> subprocess.Popen[str]:
    arguments = [",".join(map(str, folders)), ",".join(map(str, ports)), str(die_at)]
    full = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, *arguments], env=full, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def results(run: RunFolder) -> tuple[bytes, bytes]:
    return (run.path / "metrics.jsonl").read_bytes(), (run.path / "backbone.safetensors").read_bytes()


def working_folder(study: Study) -> Path:
    (folder,) = (study.analysis / "pretrain").glob(".*.partial")
    return folder


@pytest.mark.long
@pytest.mark.parametrize("method", ["mae", "dino"])
def test_a_finished_run_loads_in_plain_timm_and_is_not_repeated(cohort: Cohort, tiny: Tiny, method: str) -> None:
    study, scan = cohort(tiny[method])
    run = run_pretrain(study, scan, device="cpu", progress=False)
    assert run.path.is_dir()
    spec = run.read_json("preprocess.json")
    model = timm.create_model(spec["timm_name"], pretrained=False, num_classes=0, **spec["timm_kwargs"])
    model.load_state_dict(load_file(run.path / "backbone.safetensors"), strict=True)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, spec["dim"])
    assert spec["schema"] == "pellucid.preprocess/1"
    assert load_backbone(f"run:{run.path}", "cpu").pooling == spec["pooling"]
    assert (spec["fit"], spec["method"]) == ("stretch", method)
    assert (spec["n_images_trained"], spec["n_patients_trained"], spec["images_seen"]) == (24, 12, 96)
    lines = metrics(run)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    expected = {"step", "images", "loss", "lr", "weight_decay", "grad_norm", "feature_std", "effective_rank"}
    assert expected <= set(lines[0])
    assert ("teacher_momentum" in lines[0]) == (method == "dino")
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["step-00000012.pt"]
    changed = (run.path / "run.json").stat().st_mtime_ns
    again = run_pretrain(study, scan, device="cpu", progress=False)
    assert again.done
    assert again.path == run.path
    assert (run.path / "run.json").stat().st_mtime_ns == changed


@pytest.mark.long
@pytest.mark.parametrize("include_test", [False, True])
def test_test_patients_are_fed_only_if_asked_and_external_ones_never(
    cohort: Cohort, tiny: Tiny, include_test: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: set[str] = set()
    square = PreparedImages.square

    def spy(self: PreparedImages, i: int, size_px: int) -> Any:
        fed.add(self.image_ids[i])
        return square(self, i, size_px)

    monkeypatch.setattr(PreparedImages, "square", spy)
    study, scan = cohort({**tiny["mae"], "include_test": include_test})
    run = run_pretrain(study, scan, device="cpu", progress=False)
    expected = {f"train/{i:03d}.jpg" for i in range(24)} | {f"test/{24 + i:03d}.jpg" for i in range(8) if include_test}
    assert fed == expected
    assert run.read_json("preprocess.json")["splits_trained"] == (["train", "test"] if include_test else ["train"])


@pytest.mark.long
@pytest.mark.parametrize("method", ["mae", pytest.param("dino", marks=pytest.mark.slow)])
def test_the_loss_falls(cohort: Cohort, tiny: Tiny, method: str) -> None:
    tiny[method].update(images_seen=8 * 48, log_every=8, optimizer={"base_lr": 2e-2})
    # DINO's own loss need not fall while its teacher moves on; against a teacher that stands still it must.
    if method == "dino":
        tiny[method]["dino"]["teacher_momentum"] = 1.0
    study, scan = cohort(tiny[method])
    lines = metrics(run_pretrain(study, scan, device="cpu", progress=False))
    assert lines[-1]["loss"] < 0.97 * lines[0]["loss"]


@pytest.mark.long
@pytest.mark.parametrize("method", ["mae", pytest.param("dino", marks=pytest.mark.slow)])
def test_killed_in_the_middle_and_repeated_gives_the_undisturbed_result(
    cohort: Cohort, tiny: Tiny, method: str
) -> None:
    study, scan = cohort(tiny[method], "undisturbed")
    expected = results(run_pretrain(study, scan, device="cpu", progress=False))
    tiny[method]["machine"]["workers"] = 1  # another number of workers, the same result
    study, scan = cohort(tiny[method], "killed")
    child = start([study.path.parent], [0], die_at=7)
    child.communicate(timeout=300)
    assert child.returncode == 9
    folder = working_folder(study)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-00000004.pt", "best-00000004.pt"}
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"step": 8, "lo')  # as a kill in the middle of a write leaves it
    run = run_pretrain(study, scan, device="cpu", progress=False)
    assert results(run) == expected


@pytest.mark.long
@pytest.mark.parametrize("how", ["file", "SIGTERM", "SIGUSR2"])
def test_asked_to_stop_it_saves_and_continues_to_the_same_result(
    cohort: Cohort, tiny: Tiny, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, scan = cohort(tiny["mae"], "undisturbed")
    expected = results(run_pretrain(study, scan, device="cpu", progress=False))
    study, scan = cohort(tiny["mae"], "stopped")
    scheduled = pellucid.pretrain.engine.loop.scheduled
    before = signal.getsignal(signal.SIGTERM)

    def ask(recipe: Any, step: int, steps: int) -> tuple[float, float]:
        if step == 4:
            if how == "file":
                (working_folder(study) / "PREEMPT").touch()
            else:
                os.kill(os.getpid(), getattr(signal, how))
        return scheduled(recipe, step, steps)

    with monkeypatch.context() as patch:
        patch.setattr(pellucid.pretrain.engine.loop, "scheduled", ask)
        said = "a file named PREEMPT" if how == "file" else how
        with pytest.raises(Preempted, match=rf"stopped after step 5 of 12 \({said}\); a checkpoint is saved, rerun"):
            run_pretrain(study, scan, device="cpu", progress=False)
    assert signal.getsignal(signal.SIGTERM) == before
    assert results(run_pretrain(study, scan, device="cpu", progress=False)) == expected


@pytest.mark.long
@pytest.mark.parametrize(("where", "said"), [("loss", "the loss is nan"), ("gradient", "the gradient norm is inf")])
def test_nan_stops_with_a_sentence_and_is_never_saved(
    cohort: Cohort, tiny: Tiny, where: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Mae.forward

    def blow_up(self: Mae, views: list[torch.Tensor], step: int) -> StepOutput:
        outcome = forward(self, views, step)
        loss = outcome.loss
        if step == 6:
            loss = loss * math.nan if where == "loss" else loss + 1e38 * (loss - loss.detach())
        return outcome._replace(loss=loss)

    monkeypatch.setattr(Mae, "forward", blow_up)
    study, scan = cohort(tiny["mae"])
    with pytest.raises(
        UserError, match=rf"stopped at step 7: {said}; the last good checkpoint is .*step-00000004\.pt.*base_lr"
    ):
        run_pretrain(study, scan, device="cpu", progress=False)
    saved = torch.load(working_folder(study) / "checkpoints" / "step-00000004.pt", weights_only=True)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved["method"].values())


def test_too_few_images_and_unknown_device_are_sentences(cohort: Cohort, tiny: Tiny) -> None:
    study, scan = cohort({**tiny["mae"], "batch_size": 25})
    with pytest.raises(
        UserError,
        match=r"24 readable images in the train split are too few: one batch has 25\. .*pretrain.batch_size=6",
    ):
        run_pretrain(study, scan, device="cpu")
    study, scan = cohort(tiny["mae"])
    with pytest.raises(UserError, match=r"device `gpu`: choose auto, cpu, cuda or cuda:N"):
        run_pretrain(study, scan, device="gpu")


@pytest.mark.long
@pytest.mark.parametrize("methods", [["mae"], pytest.param(["dino", "dinov2", "lejepa"], marks=pytest.mark.slow)])
def test_two_gloo_processes_give_the_single_process_result(cohort: Cohort, tiny: Tiny, methods: list[str]) -> None:
    expected, folders = [], []
    for method in methods:
        study, scan = cohort(tiny[method], f"one-{method}")
        expected.append(metrics(run_pretrain(study, scan, device="cpu", progress=False)))
        folders.append(cohort(tiny[method], f"two-{method}")[0].path.parent)
    ports = [free_port() for _ in folders]
    env = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    children = [start(folders, ports, RANK=str(rank), LOCAL_RANK=str(rank), **env) for rank in range(2)]
    for child in children:
        _, error = child.communicate(timeout=300)
        assert child.returncode == 0, error
    for folder, lines in zip(folders, expected, strict=True):
        (path,) = (folder / "analysis" / "pretrain").glob("*/metrics.jsonl")
        ours = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for one, two in zip(lines, ours, strict=True):
            for key in ("step", "loss", "grad_norm", "feature_std", "effective_rank"):
                assert two[key] == pytest.approx(one[key], rel=1e-3 if key == "grad_norm" else 1e-4), (one["step"], key)


@pytest.mark.long
def test_progress_is_a_line_in_a_log_and_nothing_when_not_wanted(
    cohort: Cohort, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    study, scan = cohort(tiny["mae"])
    run_pretrain(study, scan, device="cpu", progress=True)
    said = capsys.readouterr().err
    assert "pretrain mae-tiny-cpu: step 12 of 12, loss " in said
    assert "images/s" in said
    study, scan = cohort({**tiny["mae"], "seed": 1})
    run_pretrain(study, scan, device="cpu", progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_a_hostile_recipe_collapses_and_is_caught_by_the_verb(cohort: Cohort, tiny: Tiny) -> None:
    """A centre that never moves and a teacher that follows at once: soon every image gets one answer."""
    section = tiny["dino"]
    section.update(images_seen=8 * 80, log_every=1, optimizer={"base_lr": 5e-2, "warmup": 0.05})
    section["dino"].update(center_momentum=1.0, teacher_momentum=0.5, freeze_last_layer=0.0)
    study, scan = cohort(section)
    with pytest.raises(UserError, match=r"pretraining stopped at step \d+: .*collapse.* usually helps") as stopped:
        run_pretrain(study, scan, device="cpu", progress=False)
    folder = working_folder(study)
    health = json.loads((folder / "health.json").read_text(encoding="utf-8"))
    assert health["healthy"] is False
    assert "collapse" in health["diagnoses"][-1]["kind"] or health["diagnoses"][-1]["kind"] == "one answer"
    since = health["diagnoses"][-1]["since"]
    good = [path for path in (folder / "checkpoints").glob("step-*.pt") if int(path.stem[5:]) < since]
    assert good, "the state from before the collapse is kept"
    assert max(good).name in str(stopped.value)
    named = re.search(r"pretrain\.warm_start\.weights=(run:\S+)", str(stopped.value))
    assert named, "what to begin anew from is said as it is to be written"
    weights = find_weights(named[1])
    assert weights.about["method"] == "dino"
    assert "Stopped at step" in (folder / "training.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_batch_in_pieces_gives_the_whole_ones_result(cohort: Cohort, tiny: Tiny) -> None:
    study, scan = cohort(tiny["dino"], "whole")
    whole = metrics(run_pretrain(study, scan, device="cpu", progress=False))
    study, scan = cohort({**tiny["dino"], "accumulate": 4}, "pieces")
    pieces = metrics(run_pretrain(study, scan, device="cpu", progress=False))
    for one, other in zip(whole, pieces, strict=True):
        for key in ("loss", "grad_norm", "feature_std", "effective_rank", "teacher_entropy"):
            assert other[key] == pytest.approx(one[key], rel=1e-3), (one["step"], key)
    study, scan = cohort({**tiny["dino"], "accumulate": 3}, "uneven")
    with pytest.raises(
        UserError, match=r"a batch of 8 cannot be divided among 1 process with 3 micro-batches each: .* example 6"
    ):
        run_pretrain(study, scan, device="cpu", progress=False)


@pytest.mark.long
def test_forgetting_activations_changes_nothing(cohort: Cohort, tiny: Tiny) -> None:
    study, scan = cohort(tiny["mae"], "kept")
    expected = results(run_pretrain(study, scan, device="cpu", progress=False))
    tiny["mae"]["machine"]["checkpoint_activations"] = True
    study, scan = cohort(tiny["mae"], "forgotten")
    assert results(run_pretrain(study, scan, device="cpu", progress=False)) == expected
    section = {**tiny["dino"], "backbone": "test_resnet", "machine": {"checkpoint_activations": True}}
    section["views"] = {"local": {"count": 0, "size_px": 32}}
    study, scan = cohort(section, "resnet")
    with pytest.raises(UserError, match="would count each batch twice in the statistics of batch norm"):
        run_pretrain(study, scan, device="cpu", progress=False)


@pytest.mark.slow
def test_compiled_blocks_train_to_the_same_result(cohort: Cohort, tiny: Tiny) -> None:
    study, scan = cohort(tiny["dino"], "plain")
    plain = metrics(run_pretrain(study, scan, device="cpu", progress=False))
    tiny["dino"]["machine"]["compile"] = "on"
    study, scan = cohort(tiny["dino"], "compiled")
    run = run_pretrain(study, scan, device="cpu", progress=False)
    for one, other in zip(plain, metrics(run), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert load_backbone(f"run:{run.path}", "cpu").dim == 64  # names of the weights are those of plain timm
