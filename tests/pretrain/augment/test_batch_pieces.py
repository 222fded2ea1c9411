"""A batch in pieces gives what the whole gives: views to the bit, outputs and gradients to rounding, and the same each
time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pellucid.embed.backbones.compute_choice import threads_of
from pellucid.pretrain.augment.batch_pieces import forward_in_pieces, is_per_image, n_pieces
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.backbones import new_backbone
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with threads_of(2):
        yield


def passed(network: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    network.zero_grad(set_to_none=True)
    out = forward_in_pieces(network, batch)
    (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
    return out.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_outputs_and_gradients_are_those_of_the_whole(precision: str) -> None:
    torch.manual_seed(0)
    network = new_backbone("test_vit", 64, drop_path=0.0, any_size=True)
    batch = torch.randn(11, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert n_pieces(batch) == 2
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        out, gradients = passed(network, batch)
        again, same = passed(network, batch)
        with threads_of(1):
            assert n_pieces(batch) == 1
            whole, expected = passed(network, batch)
        with torch.no_grad():
            assert torch.equal(forward_in_pieces(network, batch), out)
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True)), "the same bytes each time"
    # Sums of eleven images in another order. Bfloat16 rounds to 8 bits, 2⁻⁹, at each of a dozen products on the way
    # back.
    rounding = 1e-4 if precision == "float32" else 0.1
    assert torch.allclose(out, whole, atol=rounding)
    assert len(gradients) == len(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected)  # that of a key's bias is 0 but for rounding
    for found, of_whole in zip(gradients, expected, strict=True):
        assert torch.allclose(found, of_whole, atol=rounding * largest)


def test_what_compares_images_or_is_random_sees_the_whole_batch() -> None:
    assert not is_per_image(new_backbone("test_vit", 64, drop_path=0.2, any_size=True))
    assert not is_per_image(new_backbone("test_resnet", 64, drop_path=0.0, any_size=True))
    assert is_per_image(new_backbone("test_resnet", 64, drop_path=0.0, any_size=True).eval())
    assert n_pieces(torch.zeros(7, 1)) == 1, "too few to share"


@pytest.mark.parametrize("kind", ["lejepa", "mae", "dino", "dinov2"])
def test_views_are_the_same_bytes_and_the_draws_after_them_too(tiny: dict[str, Any], kind: str) -> None:
    recipe = load_recipe(tiny[kind])[1]
    method = build_method(recipe, 10)
    images = torch.randint(0, 256, (10, recipe.source_px, recipe.source_px, 3), dtype=torch.uint8)
    made = []
    for threads in (1, 2):
        with threads_of(threads):
            draw = Draw(3, 5, 10, slice(0, 10), CPU)
            made.append([*method.views(images, draw), draw.uniform(0, 1)])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert torch.equal(made[0][-1], made[1][-1])


@pytest.mark.parametrize("kind", ["lejepa", "mae", "dino"])
def test_a_method_learns_the_same_from_pieces(tiny: dict[str, Any], kind: str) -> None:
    recipe = load_recipe(tiny[kind])[1]
    method = build_method(recipe, 10)
    images = torch.randint(0, 256, (10, recipe.source_px, recipe.source_px, 3), dtype=torch.uint8)
    views = method.views(images, Draw(3, 5, 10, slice(0, 10), CPU))
    found = []
    for threads in (1, 2):
        with threads_of(threads):
            method.zero_grad(set_to_none=True)
            outcome = method(views, 0)
            outcome.loss.backward()
            gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
            found.append((outcome.loss.detach(), outcome.features, gradients))
    (loss, features, expected), (of_pieces, features_of_pieces, gradients) = found
    torch.testing.assert_close(of_pieces, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features_of_pieces, features, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, atol=1e-4 * largest), name
