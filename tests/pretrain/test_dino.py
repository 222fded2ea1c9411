"""DINO against its paper: the loss, the centre, the teacher and the layer held still."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pretrain.dino import Dino
from pretrain.loop import parameter_groups
from pretrain.recipe import load_recipe
from pretrain.train import build_method
from pretrain.views import Draw

STEPS = 10


def build(tiny: dict[str, Any], **changes: Any) -> Dino:
    section = tiny["dino"]
    section["dino"] = {**section["dino"], **changes}
    _, recipe = load_recipe(section)
    method = build_method(recipe, STEPS)
    assert isinstance(method, Dino)
    return method


def some_views(dino: Dino, b: int = 4) -> list[torch.Tensor]:
    images = torch.randint(0, 256, (b, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return dino.views(images, Draw(0, 0, b, slice(0, b), torch.device("cpu")))


def softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("temps", [(0.04, 0.07, 0.1), (0.04, 0.04, 0.2)])
@pytest.mark.parametrize("count", [0, 2])
def test_loss_and_centre_are_algorithm_1(tiny: dict[str, Any], temps: tuple[float, float, float], count: int) -> None:
    """H(t, s) = −softmax((t − C) / τ_t) · log softmax(s / τ_s), summed over pairs of different views."""
    warm, final, student_temp = temps
    tiny["dino"]["views"]["local"]["count"] = count
    dino = build(tiny, warmup_teacher_temp=warm, teacher_temp=final, teacher_temp_warmup=0.5, student_temp=student_temp)
    views, b = some_views(dino), 4
    dino.loss.center.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.01)
    centre = dino.loss.center.double().numpy().ravel().copy()
    with torch.no_grad():
        teacher = dino.teacher(views[:1])[1].double().numpy().reshape(2, b, -1)
        student = dino.student(views)[1].double().numpy().reshape(2 + count, b, -1)
    step = 3
    temp = warm + (final - warm) * step / 5
    terms = [
        -(softmax((teacher[t] - centre) / temp) * np.log(softmax(student[s] / student_temp))).sum(-1).mean()
        for t in range(2)
        for s in range(2 + count)
        if s != t
    ]
    assert dino.forward(views, step).loss.item() == pytest.approx(np.mean(terms), rel=1e-5)
    expected = 0.9 * centre + 0.1 * teacher.reshape(2 * b, -1).mean(0)
    np.testing.assert_allclose(dino.loss.center.numpy().ravel(), expected, atol=1e-6)


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
    assert dino.teacher_momentum(0) == pytest.approx(0.9)
    assert dino.teacher_momentum(STEPS) == pytest.approx(1.0)


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


def test_the_exported_backbone_is_the_teachers(tiny: dict[str, Any]) -> None:
    dino = build(tiny)
    assert dino.backbone() is dino.teacher.backbone
    assert dino.pooling == "cls"
