"""LeJEPA against its paper: the statistic, the loss, and no gradient stopped anywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.lejepa_loss import LeJEPALoss
from scipy.integrate import quad

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.lejepa import LeJepa, prediction_loss
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.methods.sigreg import CharacteristicSums, random_directions, sigreg
from pellucid.pretrain.recipe import load_recipe


def build(tiny: dict[str, Any], top: dict[str, Any] | None = None, **changes: Any) -> LeJepa:
    section = {**tiny["lejepa"], **(top or {})}
    section["lejepa"] = {**section["lejepa"], **changes}
    method = build_method(load_recipe(section)[1], 10)
    assert isinstance(method, LeJepa)
    return method


def some_views(method: LeJepa, b: int = 6) -> list[torch.Tensor]:
    images = torch.randint(0, 256, (b, 70, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return method.views(images, Draw(0, 0, b, slice(0, b), torch.device("cpu")))


@settings(max_examples=30, deadline=None)
@given(
    v=st.integers(1, 4), n=st.integers(1, 12), d=st.integers(2, 12), m=st.integers(1, 20), knots=st.integers(3, 21),
    t_max=st.floats(0.5, 6.0), scale=st.floats(0.1, 3.0), seed=st.integers(0, 99),
)  # fmt: skip
def test_sigreg_is_the_papers_statistic(
    v: int, n: int, d: int, m: int, knots: int, t_max: float, scale: float, seed: int
) -> None:
    """N ∫ |φ_N − φ|² φ dt over [−t_max, t_max] by trapezoids, in float64 with complex exponentials."""
    rng = np.random.default_rng(seed)
    z, a = rng.normal(0.3, scale, (v, n, d)), rng.normal(size=(d, m))
    a /= np.linalg.norm(a, axis=0)
    t = np.linspace(-t_max, t_max, 2 * knots - 1)
    phi = np.exp(-(t**2) / 2)
    empirical = np.exp(1j * (z @ a)[..., None] * t).mean(axis=1)  # (v, m, knots)
    expected = n * np.trapezoid(np.abs(empirical - phi) ** 2 * phi, t, axis=2).mean()
    ours = sigreg(torch.tensor(z).float(), torch.tensor(a).float(), knots=knots, t_max=t_max)
    assert float(ours) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_gradient_of_the_characteristic_sums_is_right() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: CharacteristicSums.apply(y, 0.3, 6), (x,))
    t = 0.3 * torch.arange(6, dtype=torch.float64)
    sums = CharacteristicSums.apply(x, 0.3, 6)
    torch.testing.assert_close(sums[0], (x[..., None] * t).cos().sum(1))
    torch.testing.assert_close(sums[1], (x[..., None] * t).sin().sum(1))


def test_sigreg_of_gaussian_embeddings_is_its_expectation_and_rises_off_it() -> None:
    """Under the null E T = ∫ (1 − φ²) φ dt, whatever N: the variance of the empirical characteristic function."""
    generator = torch.Generator().manual_seed(0)
    a = random_directions(0, 0, 16, 100)
    null, _ = quad(lambda t: (1 - math.exp(-(t**2))) * math.exp(-(t**2) / 2), -3, 3)
    for n in (50, 200):
        gaussian = torch.randn(40, n, 16, generator=generator)
        assert float(sigreg(gaussian, a, knots=33, t_max=3.0)) == pytest.approx(null, rel=0.1)
    gaussian = torch.randn(4, 200, 16, generator=generator)
    for wrong in (
        0.5 * gaussian,
        gaussian + 0.5,
        torch.zeros_like(gaussian),  # collapse
        gaussian * (torch.arange(16) < 4),  # dimensional collapse
    ):
        assert float(sigreg(wrong, a, knots=17, t_max=3.0)) > 3 * null


def test_directions_are_unit_and_new_at_each_step() -> None:
    a = random_directions(3, 5, 32, 500)
    torch.testing.assert_close(a.norm(dim=0), torch.ones(500))
    assert torch.equal(a, random_directions(3, 5, 32, 500))
    assert not torch.equal(a, random_directions(3, 6, 32, 500))
    assert not torch.equal(a, random_directions(4, 5, 32, 500))
    assert float((a @ a.T / 500 - torch.eye(32) / 32).abs().max()) < 0.02  # every direction alike


@pytest.mark.parametrize("n_local", [1, 4])
@pytest.mark.parametrize("weight", [0.02, 0.5])
def test_loss_and_gradient_are_lightlys(monkeypatch: pytest.MonkeyPatch, n_local: int, weight: float) -> None:
    z = torch.randn(2 + n_local, 6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    a = random_directions(0, 0, 8, 30)
    loss = (1 - weight) * prediction_loss(z, 2) + weight * sigreg(z, a, knots=17, t_max=3.0)
    (ours,) = torch.autograd.grad(loss, z)
    reference = LeJEPALoss(lambda_param=weight)
    monkeypatch.setattr(reference.sigreg, "_generate_unit_vectors", lambda *args: a)
    expected = reference(local_proj=z[2:], global_proj=z[:2])
    (theirs,) = torch.autograd.grad(expected, z)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", [0, 3])
def test_the_method_computes_algorithm_2(tiny: dict[str, Any], count: int) -> None:
    tiny["lejepa"]["views"]["local"]["count"] = count
    method, step = build(tiny, sigreg_weight=0.1), 4
    views, b = some_views(method), 6
    with torch.no_grad():
        features = torch.cat([method.encoder(batch) for batch in views])
        z = method.projector(features).double().numpy().reshape(2 + count, b, -1)
    centre = z[:2].mean(axis=0)
    prediction = ((z - centre) ** 2).mean()
    a = random_directions(method.recipe.seed, step, 8, 64).double().numpy()
    t = np.linspace(-3, 3, 33)
    phi = np.exp(-(t**2) / 2)
    empirical = np.exp(1j * (z @ a)[..., None] * t).mean(axis=1)
    gaussian = b * np.trapezoid(np.abs(empirical - phi) ** 2 * phi, t, axis=2).mean()
    outcome = method.forward(views, step)
    assert outcome.terms["prediction_loss"].item() == pytest.approx(prediction, rel=1e-3)
    assert outcome.terms["sigreg_loss"].item() == pytest.approx(gaussian, rel=1e-3)
    assert outcome.loss.item() == pytest.approx(0.9 * prediction + 0.1 * gaussian, rel=1e-3)
    assert outcome.partner is not None
    torch.testing.assert_close(torch.cat([outcome.features, outcome.partner]), features[: 2 * b])


def test_nothing_is_stopped_and_nothing_is_left_out(tiny: dict[str, Any]) -> None:
    for top in (
        {},
        {"backbone": "test_vit2"},  # no class token
        {"backbone": "test_convnext", "img_size": 64, "views": {"local": {"count": 1, "size_px": 32}}},
        {"backbone": "test_resnet", "img_size": 64, "views": {"local": {"count": 1, "size_px": 32}}},
    ):
        method = build(tiny, top)
        method.forward(some_views(method), 0).loss.backward()
        assert all(p.grad is not None for p in method.parameters())
        assert method.backbone() is method.trained_backbone() is method.encoder
        assert method.pooling == ("cls" if not top else "model")
    z = torch.randn(3, 4, 5, requires_grad=True)
    prediction_loss(z, 2).backward()
    assert z.grad is not None
    assert bool((z.grad[:2].abs().sum(dim=(1, 2)) > 0).all())  # the centre is predicted, and learns too
