"""DINO against its paper: the loss, the centre, the teacher and the layer held still."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import DINOLoss
from numpy.typing import NDArray

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.engine.loop import parameter_groups
from pellucid.pretrain.methods.dino import Dino
from pellucid.pretrain.methods.distillation import TeacherTarget, multi_crop_loss, sinkhorn_knopp, teacher_terms
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe

STEPS = 10
Array = NDArray[np.float64]


def build(tiny: dict[str, Any], section: dict[str, Any] | None = None, **changes: Any) -> Dino:
    section = {**tiny["dino"], **(section or {})}
    section["dino"] = {**section["dino"], **changes}
    _, recipe = load_recipe(section)
    method = build_method(recipe, STEPS)
    assert isinstance(method, Dino)
    return method


def some_views(dino: Dino, b: int = 4, rows: slice | None = None) -> list[torch.Tensor]:
    images = torch.randint(0, 256, (b, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = rows or slice(0, b)
    return dino.views(images[rows], Draw(0, 0, b, rows, torch.device("cpu")))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def algorithm_1(teacher: Array, student: Array, centre: Array, temp: float, student_temp: float) -> float:
    """H(t, s) = −softmax((t − C) / τ_t) · log softmax(s / τ_s), over images and pairs of different views."""
    terms = [
        -(softmax((teacher[t] - centre) / temp) * np.log(softmax(student[s] / student_temp))).sum(-1).mean()
        for t in range(len(teacher))
        for s in range(len(student))
        if s != t
    ]
    return float(np.mean(terms))


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 6), k=st.integers(2, 40), n_local=st.integers(0, 5), temp=st.floats(0.03, 1.0),
    student_temp=st.floats(0.05, 1.0), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_loss_is_algorithm_1_and_lightlys(
    b: int, k: int, n_local: int, temp: float, student_temp: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    teacher, student = rng.uniform(-1, 1, (2, b, k)), rng.uniform(-1, 1, (2 + n_local, b, k))
    centre = rng.normal(0, 0.1, k)
    target = TeacherTarget(k, "mean", 0.9)
    target.centre.copy_(torch.tensor(centre))
    t, s = torch.tensor(teacher).float(), torch.tensor(student).float()
    ours = float(multi_crop_loss(target(t.flatten(0, 1), temp).unflatten(0, (2, b)), s, student_temp))
    assert ours == pytest.approx(algorithm_1(teacher, student, centre, temp, student_temp), rel=1e-4)
    reference = DINOLoss(k, student_temp=student_temp)
    reference.center.data = target.centre.view(1, 1, k).clone()
    assert ours == pytest.approx(float(reference(list(t), list(s), teacher_temp=temp)), rel=1e-4)


@pytest.mark.parametrize("temps", [(0.04, 0.07, 0.1), (0.04, 0.04, 0.2)])
@pytest.mark.parametrize("count", [0, 2])
def test_the_method_computes_algorithm_1_and_moves_the_centre_once_a_step(
    tiny: dict[str, Any], temps: tuple[float, float, float], count: int
) -> None:
    warm, final, student_temp = temps
    tiny["dino"]["views"]["local"]["count"] = count
    dino = build(tiny, warmup_teacher_temp=warm, teacher_temp=final, teacher_temp_warmup=0.5, student_temp=student_temp)
    views, b = some_views(dino), 4
    dino.target.centre.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.01)
    centre = dino.target.centre.double().numpy().copy()
    with torch.no_grad():
        teacher = dino.teacher(views[:1])[1].double().numpy().reshape(2, b, -1)
        student = dino.student(views)[1].double().numpy().reshape(2 + count, b, -1)
    step = 3
    expected = algorithm_1(teacher, student, centre, warm + (final - warm) * step / 5, student_temp)
    assert dino.forward(views, step).loss.item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(dino.target.centre.double().numpy(), centre)  # still: a micro-batch may follow
    dino.after_update(step)
    moved = 0.9 * centre + 0.1 * teacher.reshape(2 * b, -1).mean(0)
    np.testing.assert_allclose(dino.target.centre.numpy(), moved, atol=1e-6)
    dino.target.update()  # nothing was seen since
    np.testing.assert_allclose(dino.target.centre.numpy(), moved, atol=1e-6)


def test_two_micro_batches_give_the_gradient_and_the_centre_of_the_whole(tiny: dict[str, Any]) -> None:
    whole, parts = build(tiny), build(tiny)
    whole.forward(some_views(whole, 8), 0).loss.backward()
    for rows in (slice(0, 4), slice(4, 8)):
        (parts.forward(some_views(parts, 8, rows), 0).loss / 2).backward()
    for (name, a), b in zip(whole.student.named_parameters(), parts.student.parameters(), strict=True):
        if a.requires_grad:
            assert a.grad is not None
            assert b.grad is not None
            torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-3, msg=name)
    whole.after_update(0)
    parts.after_update(0)
    torch.testing.assert_close(parts.target.centre, whole.target.centre)


@pytest.mark.parametrize(("m", "k"), [(8, 5), (6, 40), (30, 30)])
def test_sinkhorn_knopp_is_swavs_and_balances(m: int, k: int) -> None:
    rng = np.random.default_rng(m)
    scores = rng.uniform(-1, 1, (m, k)) / 0.1
    q = np.exp(scores)
    q /= q.sum()
    for _ in range(3):  # SwAV, appendix: each prototype 1/K, then each sample 1/B
        q /= q.sum(axis=0, keepdims=True) * k
        q /= q.sum(axis=1, keepdims=True) * m
    ours = sinkhorn_knopp(torch.tensor(scores).float()).double().numpy()
    np.testing.assert_allclose(ours, q * m, atol=1e-5)
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-5)
    shares = ours.sum(0) / m * k
    plain = softmax(scores).sum(0) / m * k
    assert np.abs(shares - 1).max() < np.abs(plain - 1).max() / 2
    padded = torch.cat([torch.tensor(scores).float(), 9 * torch.rand(3, k)])
    weight = torch.cat([torch.ones(m), torch.zeros(3)])
    np.testing.assert_allclose(sinkhorn_knopp(padded, weight)[:m].double().numpy(), ours, atol=1e-5)


def test_a_balanced_teacher_trains_too(tiny: dict[str, Any]) -> None:
    dino = build(tiny, centering="sinkhorn_knopp")
    outcome = dino.forward(some_views(dino), 0)
    outcome.loss.backward()
    dino.after_update(0)
    assert math.isfinite(outcome.loss.item())
    assert float(dino.target.centre.abs().max()) == 0
    assert outcome.terms["teacher_kl_uniform"] < 1.0  # log 32 = 3.5 is the most


def test_teacher_terms_in_cases_whose_answer_is_known() -> None:
    k = 16
    uniform = torch.full((5, k), 1 / k)
    one_for_all = torch.eye(k)[[3] * 5]
    each_its_own = torch.eye(k)[:8]
    for target, entropy, kl in [
        (uniform, math.log(k), 0.0),
        (one_for_all, 0.0, math.log(k)),
        (each_its_own, 0.0, math.log(k / 8)),
    ]:
        terms = teacher_terms(target)
        assert float(terms["teacher_entropy"]) == pytest.approx(entropy, abs=1e-6)
        assert float(terms["teacher_kl_uniform"]) == pytest.approx(kl, abs=1e-6)
    p = softmax(np.random.default_rng(0).normal(0, 2, (9, k)))
    terms = teacher_terms(torch.tensor(p))
    assert float(terms["teacher_entropy"]) == pytest.approx(-(p * np.log(p)).sum(1).mean())
    assert float(terms["teacher_kl_uniform"]) == pytest.approx((p.mean(0) * np.log(p.mean(0) * k)).sum())


def test_views_have_the_sizes_of_multi_crop(tiny: dict[str, Any]) -> None:
    shapes = [tuple(v.shape) for v in some_views(build(tiny))]
    assert shapes == [(8, 3, 32, 32), (8, 3, 16, 16)]


def test_the_teacher_starts_as_the_student_and_gets_no_gradient(tiny: dict[str, Any]) -> None:
    dino = build(tiny)
    for a, b in zip(dino.teacher.parameters(), dino.student.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b
    dino.forward(some_views(dino), 0).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in dino.teacher.parameters())
    assert all(p.grad is not None for p in dino.student.parameters() if p.requires_grad)


def test_the_teacher_is_the_moving_average_with_a_momentum_that_rises_to_one(tiny: dict[str, Any]) -> None:
    dino = build(tiny, teacher_momentum=0.9)
    before = [p.clone() for p in dino.teacher.parameters()]
    with torch.no_grad():
        for p in dino.student.parameters():
            p.add_(torch.randn_like(p))
    told = dino.after_update(4)
    momentum = 1 - (1 - 0.9) * (np.cos(np.pi * 4 / STEPS) + 1) / 2  # BYOL's form, which DINO names
    assert told["teacher_momentum"] == pytest.approx(momentum)
    for old, new, student in zip(before, dino.teacher.parameters(), dino.student.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * student, atol=1e-6, rtol=1e-5)
    assert dino.schedules.teacher_momentum(0) == pytest.approx(0.9)
    assert dino.schedules.teacher_momentum(STEPS) == pytest.approx(1.0)


def test_the_last_layer_is_held_still_and_then_let_go(tiny: dict[str, Any]) -> None:
    dino = build(tiny, freeze_last_layer=0.2)  # 2 of 10 steps
    optimizer = torch.optim.AdamW(parameter_groups(dino), lr=1e-2, weight_decay=0.4)
    last = dino.student.head.last_layer.weight_v
    for step, moves in [(0, False), (1, False), (2, True)]:
        before = last.detach().clone()
        optimizer.zero_grad()
        dino.forward(some_views(dino), step).loss.backward()
        dino.before_update(step)
        optimizer.step()
        assert torch.equal(last, before) != moves


def test_the_exported_backbone_is_the_teachers_and_the_trained_one_the_students(tiny: dict[str, Any]) -> None:
    dino = build(tiny)
    assert dino.backbone() is dino.teacher.backbone
    assert dino.trained_backbone() is dino.student.backbone
    assert dino.pooling == "cls"


def test_features_and_partner_are_the_teachers_of_the_two_global_views(tiny: dict[str, Any]) -> None:
    dino = build(tiny)
    views = some_views(dino)
    outcome = dino.forward(views, 0)
    with torch.no_grad():
        features = dino.teacher.backbone(views[0])
    assert outcome.partner is not None
    torch.testing.assert_close(outcome.features, features[:4])
    torch.testing.assert_close(outcome.partner, features[4:])
    assert not outcome.features.requires_grad


@pytest.mark.long
def test_a_resnets_teacher_keeps_running_statistics_of_its_own_outputs(tiny: dict[str, Any]) -> None:
    """Of its own weights on global views: in evaluation it then says about what it said in training."""
    section = {"backbone": "test_resnet", "img_size": 64, "views": {"local": {"count": 2, "size_px": 32}}}
    dino = build(tiny, section, teacher_momentum=0.5)
    views = some_views(dino, 8)
    with torch.no_grad():
        for p in dino.student.parameters():
            p.add_(0.1 * torch.randn_like(p))
        fresh = dino.teacher.backbone.eval()(views[0])
        dino.train()
        dino.after_update(0)  # the teacher's weights have moved: statistics of before would be wrong
        for _ in range(80):
            dino.teacher(views[:1])
        trained = dino.teacher.backbone(views[0])
        exported = dino.teacher.backbone.eval()(views[0])
    assert float((exported - trained).norm() / trained.norm()) < 0.1
    assert float((fresh - trained).norm() / trained.norm()) > 0.3
