"""DINOv2 against its papers: three losses, masks that hide, and a teacher that sees everything."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import IBOTPatchLoss, KoLeoLoss
from numpy.typing import NDArray

from pellucid.cohort.errors import UserError
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.backbones import masked_tokens
from pellucid.pretrain.methods.block_masks import random_block_masks
from pellucid.pretrain.methods.dinov2 import DinoV2
from pellucid.pretrain.methods.distillation import row_cross_entropy
from pellucid.pretrain.methods.koleo import koleo_loss
from pellucid.pretrain.methods.mae import patchify
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe

CPU = torch.device("cpu")
Array = NDArray[np.float64]


def build(tiny: dict[str, Any], top: dict[str, Any] | None = None, **changes: Any) -> DinoV2:
    section = {**tiny["dinov2"], "img_size": 64, **(top or {})}
    section["dinov2"] = {**section["dinov2"], "mask_probability": 1.0, **changes}
    _, recipe = load_recipe(section)
    method = build_method(recipe, 10)
    assert isinstance(method, DinoV2)
    return method


def some_views(method: DinoV2, b: int = 4, step: int = 0) -> list[torch.Tensor]:
    images = torch.randint(0, 256, (b, 70, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return method.views(images, Draw(0, step, b, slice(0, b), CPU))


def log_softmax(x: Array) -> Array:
    e = x - x.max(axis=-1, keepdims=True)
    return np.asarray(e - np.log(np.exp(e).sum(axis=-1, keepdims=True)))


def koleo(x: Array) -> float:
    """−1/n Σ log min_j≠i ‖x_i − x_j‖ on the unit sphere (Sablayrolles et al., eq. 2)."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.linalg.norm(x[:, None] - x, axis=2) + 10 * np.eye(len(x))
    return float(-np.log(distance.min(axis=1)).mean())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 20), d=st.integers(2, 30), seed=st.integers(0, 99))
def test_koleo_is_the_papers_and_lightlys(n: int, d: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    ours = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_(True)
    loss, reference = koleo_loss(ours), KoLeoLoss()(theirs)
    assert loss.item() == pytest.approx(koleo(x), rel=1e-3, abs=1e-3)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)


def test_koleo_falls_as_features_spread() -> None:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    crowded, spread = x + 5, x
    assert koleo_loss(spread) < koleo_loss(crowded)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("temps", "ratio"), [((0.04, 0.1), (0.1, 0.5)), ((0.07, 0.2), (0.4, 0.8))])
def test_the_loss_is_the_papers(
    tiny: dict[str, Any], tied: bool, temps: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """L = DINO + iBOT + 0.1 · Σ over global views of KoLeo, in float64 from the networks' outputs."""
    teacher_temp, student_temp = temps
    method = build(
        tiny, separate_heads=not tied, ibot_output_dim=None if tied else 24, mask_ratio=list(ratio),
        teacher_temp=teacher_temp, warmup_teacher_temp=teacher_temp, student_temp=student_temp, mask_probability=0.6,
    )  # fmt: skip
    b, views = 4, some_views(method)
    for target in (method.target, method.patch_target):
        target.centre.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.05)
    with torch.no_grad():
        method.mask_token.normal_(generator=torch.Generator().manual_seed(2))
        teacher_tokens = method.teacher.backbone.forward_features(views[0])
        student_tokens = masked_tokens(method.student.backbone, views[0], views[1], method.mask_token)
        local = method.student.backbone(views[4])
        t_cls = method.teacher.head(teacher_tokens[:, 0]).double().numpy().reshape(2, b, -1)
        t_patch = method.teacher.patch_head(teacher_tokens[:, 1:]).double().numpy()
        s_cls = method.student.head(torch.cat([student_tokens[:, 0], local])).double().numpy().reshape(4, b, -1)
        s_patch = method.student.patch_head(student_tokens[:, 1:]).double().numpy()
    centre, patch_centre = method.target.centre.double().numpy(), method.patch_target.centre.double().numpy()
    p = np.exp(log_softmax((t_cls - centre) / teacher_temp))
    q = log_softmax(s_cls / student_temp)
    dino = np.mean([-(p[t] * q[s]).sum(-1).mean() for t in range(2) for s in range(4) if s != t])
    p = np.exp(log_softmax((t_patch - patch_centre) / teacher_temp))
    each = -(p * log_softmax(s_patch / student_temp)).sum(-1)  # (2b, n)
    mask = views[1].numpy()
    assert 0 < mask.any(1).sum() < 2 * b  # some views are masked and some are not
    ibot = sum((each[i][mask[i]]).mean() for i in range(2 * b) if mask[i].any()) / (2 * b)  # iBOT, eq. 2
    spread = sum(koleo(view) for view in student_tokens[:, 0].double().numpy().reshape(2, b, -1))
    outcome = method.forward(views, 0)
    for name, expected in (("dino_loss", dino), ("ibot_loss", ibot), ("koleo_loss", spread)):
        assert outcome.terms[name].item() == pytest.approx(expected, rel=1e-3), name
    assert outcome.loss.item() == pytest.approx(dino + ibot + 0.1 * spread, rel=1e-3)
    method.after_update(0)
    moved = 0.9 * patch_centre + 0.1 * t_patch[mask].mean(0)
    np.testing.assert_allclose(method.patch_target.centre.numpy(), moved, atol=1e-6)


def test_ibot_is_lightlys(tiny: dict[str, Any]) -> None:
    method = build(tiny)
    views, b, n = some_views(method), 4, 16
    rng = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2 * b * n, 32, generator=rng), torch.randn(2 * b * n, 32, generator=rng)
    mask, hidden, weight = views[1:4]
    reference = IBOTPatchLoss(32, teacher_temp=0.05, student_temp=0.1)
    theirs = reference(teacher[hidden], student[hidden], mask.view(2 * b, 4, 4))
    target = method.patch_target(teacher[hidden], 0.05)
    ours = (row_cross_entropy(target, student[hidden], 0.1) * weight).sum() / len(mask)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)


def test_the_student_sees_no_hidden_pixel_and_the_teacher_sees_all(tiny: dict[str, Any]) -> None:
    method = build(tiny)
    pixels, mask = some_views(method)[:2]
    assert bool(mask.any(dim=1).all())
    for seen, tokens in (
        (~mask, lambda x: masked_tokens(method.student.backbone, x, mask, method.mask_token)),
        (torch.ones_like(mask), method.student.backbone.forward_features),
    ):
        x = pixels.clone().requires_grad_(True)
        out = tokens(x)
        (out * torch.randn_like(out)).sum().backward()
        assert x.grad is not None
        felt = patchify(x.grad, 16).abs().sum(dim=2)
        assert float(felt[seen].min()) > 0
        assert not (~seen).any() or float(felt[~seen].max()) == 0


def test_with_nothing_hidden_the_student_is_timms(tiny: dict[str, Any]) -> None:
    vit = build(tiny).student.backbone
    x = torch.randn(3, 3, 64, 64)
    ours = masked_tokens(vit, x, torch.zeros(3, 16, dtype=torch.bool), torch.full((1, 1, 64), 9.0))
    torch.testing.assert_close(ours, vit.forward_features(x))


def test_the_teacher_gets_no_gradient_and_the_student_gets_all(tiny: dict[str, Any]) -> None:
    for probability in (1.0, 1e-9):  # with nothing hidden too: DDP waits for every gradient
        method = build(tiny, separate_heads=True, mask_probability=probability)
        outcome = method.forward(some_views(method), 0)
        outcome.loss.backward()
        assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
        missing = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        assert (outcome.terms["ibot_loss"] == 0) == (probability < 1)
        method.after_update(0)
        assert (method.patch_target.centre == 0).all() == (probability < 1)


@pytest.mark.long
def test_a_transformer_with_registers_and_what_is_refused(tiny: dict[str, Any]) -> None:
    method = build(
        tiny,
        {
            "backbone": "vit_small_patch14_reg4_dinov2",
            "img_size": 56,
            "views": {"local": {"count": 1, "size_px": 28}},
        },
    )
    assert method.student.backbone.num_prefix_tokens == 5
    assert math.isfinite(method.forward(some_views(method, 2), 0).loss.item())
    assert method.pooling == "cls"
    for backbone, message in [
        ("test_vit2", r"`backbone: test_vit2`: DINOv2 compares class tokens, but this network does not use one"),
        ("test_resnet", r"`backbone: test_resnet` is not a Vision Transformer, but method dinov2 masks patches"),
    ]:
        with pytest.raises(UserError, match=message):
            build(tiny, {"backbone": backbone})


@pytest.mark.parametrize("ratio", [(0.1, 0.5), (0.3, 0.3), (0.6, 0.9)])
@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (4, 4)])
def test_masks_hide_the_share_asked_for_of_the_views_asked_for(
    ratio: tuple[float, float], grid: tuple[int, int]
) -> None:
    b, n = 300, grid[0] * grid[1]
    masks = random_block_masks(Draw(0, 0, b, slice(0, b), CPU), 2, grid, 0.5, ratio)
    share = masks.float().mean(dim=1)
    assert masks.shape == (2 * b, n)
    hidden = share[share > 0]
    assert abs(len(hidden) / (2 * b) - 0.5) < 0.1  # five standard errors
    half_a_patch = 0.5 / n + 1e-6
    assert float(hidden.min()) >= ratio[0] - half_a_patch
    assert float(hidden.max()) <= ratio[1] + half_a_patch
    assert float(hidden.mean()) == pytest.approx(np.mean(ratio), abs=0.05)


def test_masks_are_blocks_and_lie_everywhere() -> None:
    masks = random_block_masks(Draw(0, 0, 400, slice(0, 400), CPU), 1, (14, 14), 1.0, (0.3, 0.3)).view(-1, 14, 14)
    together = (masks[:, 1:] & masks[:, :-1]).float().mean() / masks.float().mean()
    assert float(together) > 0.65  # the next patch below is hidden too; 0.3 were they strewn
    share = masks.float().mean(dim=0)
    assert 0.02 < float(share.min()) < float(share.max()) < 0.65  # corners lie in few rectangles, as in BEiT
    torch.testing.assert_close(share, share.flip(0), atol=0.1, rtol=0)
    torch.testing.assert_close(share, share.T, atol=0.1, rtol=0)


def test_masks_depend_on_seed_and_step_and_not_on_how_the_batch_is_shared() -> None:
    def masks(rows: slice, step: int = 3) -> torch.Tensor:
        return random_block_masks(Draw(0, step, 8, rows, CPU), 2, (7, 7), 0.5, (0.1, 0.5)).view(2, -1, 49)

    whole = masks(slice(0, 8))
    assert torch.equal(whole, torch.cat([masks(slice(0, 4)), masks(slice(4, 8))], dim=1))
    assert not torch.equal(whole, masks(slice(0, 8), step=4))
