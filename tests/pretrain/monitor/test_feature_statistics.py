"""Signs of health against formulas written again, and real trainings that collapse, each in its own way, beside healthy
twins."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.monitor.collapse import Diagnosis, Monitor, last_good, not_finite
from pellucid.pretrain.monitor.feature_statistics import (
    alignment,
    effective_rank,
    feature_statistics,
    feature_std,
    uniformity,
)
from pellucid.pretrain.recipe import Health, load_recipe

Tiny = dict[str, dict[str, Any]]
Line = dict[str, float]


@pytest.mark.parametrize("k", [1, 3, 8])
def test_effective_rank_counts_equal_directions(k: int) -> None:
    assert effective_rank(torch.eye(8)[torch.arange(64) % k]) == pytest.approx(k, rel=1e-3)


def test_effective_rank_is_roy_and_vetterlis() -> None:
    s = torch.tensor([4.0, 2.0, 1.0, 1.0])
    q = s / s.sum()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    assert effective_rank(torch.diag(s) @ rotation[:4]) == pytest.approx(math.exp(-(q * q.log()).sum()), rel=1e-4)


def test_feature_std_is_one_over_root_d_on_the_sphere_and_zero_after_collapse() -> None:
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert feature_std(x) == pytest.approx(1 / math.sqrt(16), rel=0.01)
    assert feature_std(x[:1].expand(50, -1)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("b", "d", "shared"), [(2, 3, 0.0), (17, 5, 0.0), (40, 64, 3.0), (9, 1, 0.5)])
def test_signs_are_the_papers_formulas(b: int, d: int, shared: float) -> None:
    rng = np.random.default_rng(b)
    x = (rng.normal(size=(b, d)) + shared).astype(np.float32)
    y = (x + rng.normal(size=(b, d))).astype(np.float32)
    found = feature_statistics(torch.from_numpy(x), torch.from_numpy(y))
    u, v = (m / np.sqrt((m.astype(float) ** 2).sum(axis=1, keepdims=True)) for m in (x, y))
    apart = [np.exp(-2 * ((u[i] - u[j]) ** 2).sum()) for i in range(b) for j in range(b) if i < j]
    assert found["uniformity"] == pytest.approx(np.log(np.mean(apart)), rel=1e-9, abs=1e-12)
    assert found["alignment"] == pytest.approx(np.mean([((p - q) ** 2).sum() for p, q in zip(u, v, strict=True)]))
    assert found["feature_std"] == pytest.approx(np.mean([u[:, j].std() for j in range(d)]), abs=1e-12)
    for name, m in (("effective_rank", x.astype(float)), ("centred_rank", x - x.astype(float).mean(axis=0))):
        values = np.sqrt(np.clip(np.linalg.eigvalsh(m @ m.T), 0, None))
        p = values / values.sum() + 1e-7
        assert found[name] == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-4), name
    assert "alignment" not in feature_statistics(torch.from_numpy(x))


def test_uniformity_and_alignment_at_their_ends() -> None:
    same = torch.ones(5, 4)
    assert uniformity(same) == pytest.approx(0, abs=1e-12)
    assert alignment(same, -same) == pytest.approx(4)
    many = torch.randn(600, 512, generator=torch.Generator().manual_seed(0))
    assert uniformity(many) == pytest.approx(-4, abs=0.05)  # nearly at right angles: ‖x − y‖² = 2


def with_changes(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(section)
    for key, value in changes.items():
        merged[key] = with_changes(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def course(section: dict[str, Any], lr: float, steps: int = 36, b: int = 12) -> tuple[list[Line], Monitor]:
    """A short training of the real method: a line of metrics every other step, and the monitor to judge them."""
    _, recipe = load_recipe({**section, "batch_size": b, "images_seen": b * steps})
    method = build_method(recipe, steps)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(64, 3, 5, 5, generator=generator)  # blotches of colour, another in each image
    images = torch.nn.functional.interpolate(coarse, size=40, mode="bicubic").clamp(0, 1).mul(255).byte()
    images = images.permute(0, 2, 3, 1).contiguous()
    heard: list[torch.Tensor] = []
    if recipe.method == "lejepa":
        method.projector.register_forward_hook(lambda module, given, result: heard.append(result.detach()))
    lines = []
    for step in range(steps):
        batch = images[torch.randperm(64, generator=generator)[:b]]
        heard.clear()
        outcome = method(method.views(batch, Draw(0, step, b, slice(0, b), torch.device("cpu"))), step)
        optimizer.zero_grad()
        outcome.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        method.before_update(step)
        optimizer.step()
        method.after_update(step)
        line = {
            "step": step + 1,
            "loss": outcome.loss.item(),
            "lr": lr,
            **feature_statistics(outcome.features, outcome.partner),
        }
        line |= {name: float(value) for name, value in outcome.terms.items()}
        if heard:
            line["projection_std"] = float(heard[0].std(dim=0).mean())
        if step % 2:
            lines.append(line)
    return lines, Monitor.from_recipe(recipe, dim=int(method.backbone().num_features), steps=steps)


HEALTHY = {"mae": 1e-3, "dino": 3e-4, "dinov2": 3e-4, "lejepa": 1e-3}
PROTOTYPES = {"output_dim": 64}
HOSTILE = {
    "one answer": ("dino", {"dino": PROTOTYPES | {"center_momentum": 1.0, "teacher_momentum": 0.5}}, 5e-3),
    "uniform collapse": (
        "dino", {"dino": PROTOTYPES | {"teacher_temp": 1.0, "warmup_teacher_temp": 1.0, "teacher_momentum": 0.5}}, 3e-3,
    ),
    "complete collapse": ("lejepa", {"lejepa": {"sigreg_weight": 0.0}}, 3e-3),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("method", ["mae", "dino", pytest.param("dinov2", marks=pytest.mark.slow), "lejepa"])
def test_a_healthy_training_raises_no_alarm(tiny: Tiny, method: str) -> None:
    own = {method: PROTOTYPES} if method.startswith("dino") else {}
    lines, monitor = course(with_changes(tiny[method], own), HEALTHY[method])
    assert [d.what for line in lines if (d := monitor.feed(line))] == []


@pytest.mark.long
@pytest.mark.parametrize("kind", HOSTILE)
def test_each_collapse_is_detected_as_its_kind(tiny: Tiny, kind: str) -> None:
    method, changes, lr = HOSTILE[kind]
    lines, monitor = course(with_changes(tiny[method], changes), lr)
    found = [d for line in lines if (d := monitor.feed(line))]
    assert found, lines[-1]
    assert {d.kind for d in found} == {kind}
    first = found[0]
    shown = [int(line["step"]) for line in lines if first.since <= line["step"] <= first.step]
    assert len(shown) == monitor.config.patience  # a collapse is known five lines after its first
    assert first.stops
    said = first.sentence(Path("checkpoints/step-00000010.pt"))
    assert said.startswith(f"pretraining stopped at step {first.step}: ")
    assert first.sign in said
    assert "the last good checkpoint is checkpoints/step-00000010.pt. " in said
    assert "usually helps" in said
    assert "there is no earlier checkpoint" in first.sentence(None)


def line(step: int, **changes: float) -> Line:
    healthy = {"loss": 1.0, "lr": 1e-3, "feature_std": 0.1, "effective_rank": 20.0, "centred_rank": 20.0}
    return {"step": step, **healthy, **changes}


def monitor(**changes: Any) -> Monitor:
    return Monitor(Health(**changes), dim=64, steps=1000, grace_steps=100, teacher_outputs=100)


def test_nothing_is_judged_in_the_warm_up_nor_on_few_lines() -> None:
    judge = monitor()
    dead = {"feature_std": 1e-7, "centred_rank": 1.0}
    assert all(judge.feed(line(step, **dead)) is None for step in range(10, 101, 10))
    assert all(judge.feed(line(step, **dead)) is None for step in range(110, 150, 10))
    assert judge.suspect_since == 110
    assert judge.feed(line(150)) is None
    assert judge.suspect_since is None
    assert all(judge.feed(line(step, **dead)) is None for step in range(160, 200, 10))
    found = judge.feed(line(200, **dead))
    assert found is not None
    assert (found.kind, found.sign, found.since, found.step) == ("complete collapse", "feature_std", 160, 200)


def test_dimensional_collapse_is_judged_by_what_the_rank_was() -> None:
    judge, low_from_the_start = monitor(), monitor()
    kinds = []
    for step in range(10, 400, 10):
        low_from_the_start.feed(line(step, centred_rank=3.0))
        assert low_from_the_start.suspect_since is None
        found = judge.feed(line(step, centred_rank=20.0 if step < 200 else 3.0))
        kinds += [found.kind] if found else []
    assert set(kinds) == {"dimensional collapse"}


@pytest.mark.parametrize(("batch_size", "judged"), [(2, False), (3, False), (4, True), (0, True)])
def test_the_rank_of_a_batch_that_can_have_no_other_is_not_judged(batch_size: int, judged: bool) -> None:
    judge = Monitor(Health(), dim=64, steps=1000, grace_steps=100, batch_size=batch_size)
    found = [judge.feed(line(step, centred_rank=1.0)) for step in range(10, 300, 10)]
    assert any(found) is judged


def test_the_teachers_output_distinguishes_the_kinds_of_collapse() -> None:
    log_k = math.log(100)
    cases = {
        "uniform collapse": (log_k - 0.001, 0.0005),
        "one answer": (0.001, log_k - 0.002),
        None: (0.5, 0.1),
    }
    for kind, (entropy, kl) in cases.items():
        judge = monitor()
        found = [judge.feed(line(s, teacher_entropy=entropy, teacher_kl_uniform=kl)) for s in range(10, 200, 10)]
        assert {d.kind for d in found if d} == ({kind} if kind else set())


def test_replay_gives_the_state_of_an_undisturbed_monitor() -> None:
    lines = [line(step, feature_std=0.1 if step < 300 else 1e-6, loss=1 / step) for step in range(10, 500, 10)]
    whole = monitor()
    expected = [whole.feed(one) for one in lines]
    for cut in (3, 31, 33, 40):
        resumed = monitor()
        resumed.replay(lines[:cut])
        assert [resumed.feed(one) for one in lines[cut:]] == expected[cut:]


def noisy(steps: range, drift: float) -> Iterator[Line]:
    rng = np.random.default_rng(0)
    for step in steps:
        noise = {name: 1 + 0.02 * rng.normal() for name in ("loss", "feature_std", "effective_rank", "centred_rank")}
        base = line(step)
        yield base | {name: base[name] * factor for name, factor in noise.items()} | {
            "loss": base["loss"] * noise["loss"] - drift * step
        }  # fmt: skip


def test_stagnation_gives_one_warning_and_slow_learning_none() -> None:
    still, slow, planned = monitor(), monitor(), monitor()
    warned = [d for one in noisy(range(5, 1000, 5), 0.0) if (d := still.feed(one))]
    assert [(d.kind, d.stops) for d in warned] == [("stagnation", False)]
    assert "stagnation: " in warned[0].sentence()
    assert "stopped" not in warned[0].sentence()
    assert not any(slow.feed(one) for one in noisy(range(5, 1000, 5), 2e-4))
    cooled = (one | {"lr": 1e-3 if one["step"] < 200 else 1e-6} for one in noisy(range(5, 1000, 5), 0.0))
    assert not any(planned.feed(one) for one in cooled)  # the schedule's own end is no standstill


def test_what_the_recipe_wants_is_done() -> None:
    dead = [line(step, feature_std=1e-7) for step in range(10, 300, 10)]
    warn, off = monitor(collapse="warn"), monitor(collapse="off", stagnation="off")
    assert [d.stops for one in dead if (d := warn.feed(one))] == [False]
    assert not any(off.feed(one) for one in dead)


@pytest.mark.parametrize(("loss", "norm", "said"), [(math.nan, 1.0, "the loss is nan"), (1.0, math.inf, "norm is inf")])
def test_not_finite(loss: float, norm: float, said: str) -> None:
    found = not_finite(6, loss, norm)
    assert found is not None
    assert found.step == 7
    assert said in found.sentence()
    assert "optimizer.base_lr" in found.help
    assert isinstance(found.record()["value"], str)  # JSON knows no NaN
    assert not_finite(6, 1.0, 1.0) is None


def test_the_last_good_checkpoint_is_from_before_the_first_sign() -> None:
    found = Diagnosis("complete collapse", "feature_std", 0.0, 0.1, 300, 340, "x", True)
    saved = [(200, Path("a")), (280, Path("b")), (300, Path("c")), (340, Path("d"))]
    assert last_good(saved, found) == Path("b")
    assert last_good(saved[2:], found) is None
