"""MAE against its paper: what the encoder sees, where tokens go, and the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch

from pellucid.cohort.errors import UserError
from pellucid.pretrain.augment.views import Draw
from pellucid.pretrain.methods.mae import Mae, gather_tokens, patchify, reconstruction_loss
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe


@pytest.fixture(params=["test_vit", "registers"])
def mae(tiny: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Mae:
    """With one class token, and with two registers beside it that have no positions."""
    if request.param == "registers":
        create = timm.create_model
        monkeypatch.setattr(
            timm, "create_model", lambda name, **k: create(name, **k, reg_tokens=2, no_embed_class=True)
        )
    _, recipe = load_recipe({**tiny["mae"], "img_size": 64})
    method = build_method(recipe, 10)
    assert isinstance(method, Mae)
    return method


def some_views(mae: Mae, b: int = 4) -> list[torch.Tensor]:
    images = torch.randint(0, 256, (b, 70, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return mae.views(images, Draw(0, 0, b, slice(0, b), torch.device("cpu")))


@pytest.mark.parametrize(("b", "patches", "d"), [(1, 1, 12), (3, 5, 48), (7, 2, 768)])
@pytest.mark.parametrize("normalized", [True, False])
def test_loss_is_the_papers(normalized: bool, b: int, patches: int, d: int) -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(b, patches, d)), rng.normal(2, 3, size=(b, patches, d))
    total = 0.0
    for i in range(b):
        for patch in range(patches):
            t = target[i, patch]
            if normalized:
                t = (t - t.mean()) / np.sqrt(((t - t.mean()) ** 2).sum() / (len(t) - 1) + 1e-6)
            total += ((predicted[i, patch] - t) ** 2).mean()
    ours = reconstruction_loss(torch.tensor(predicted), torch.tensor(target), normalized=normalized)
    assert float(ours) == pytest.approx(total / (b * patches), rel=1e-5)


def test_the_encoder_sees_no_masked_pixel(mae: Mae) -> None:
    crops, keep, masked = some_views(mae)
    crops.requires_grad_(True)
    tokens = mae.encode(gather_tokens(patchify(crops, mae.patch_px), keep), keep)
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert crops.grad is not None
    felt = patchify(crops.grad, mae.patch_px).abs().sum(dim=2)
    assert float(gather_tokens(felt[..., None], masked).max()) == 0
    assert float(gather_tokens(felt[..., None], keep).min()) > 0


def test_the_prediction_does_not_depend_on_masked_pixels_and_the_loss_does(mae: Mae) -> None:
    crops, keep, masked = some_views(mae)
    hidden = torch.ones(len(crops), mae.n_patches).scatter(1, keep, 0.0)
    noise = torch.randn_like(patchify(crops, mae.patch_px)) * hidden[:, :, None]
    g, p = 4, mae.patch_px
    changed = crops + noise.reshape(-1, g, g, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(crops.shape)
    a, b = (mae.forward([x, keep, masked], 0) for x in (crops, changed))
    assert torch.equal(a.features, b.features)
    assert a.loss != b.loss


def test_with_nothing_masked_the_encoder_is_timms(mae: Mae) -> None:
    crops = some_views(mae)[0]
    everything = torch.arange(mae.n_patches).expand(len(crops), -1)
    ours = mae.encode(patchify(crops, mae.patch_px), everything)
    torch.testing.assert_close(ours, mae.backbone().forward_features(crops), atol=1e-5, rtol=1e-4)


def test_tokens_return_to_their_places(mae: Mae) -> None:
    crops, keep, _ = some_views(mae)
    patches = patchify(crops, mae.patch_px)
    turned = keep.flip(1)  # the same patches, handed in the other way round
    a = mae.decode(mae.encode(gather_tokens(patches, keep), keep), keep)
    b = mae.decode(mae.encode(gather_tokens(patches, turned), turned), turned)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_every_weight_that_trains_gets_a_gradient_and_positions_stay(mae: Mae) -> None:
    mae.forward(some_views(mae), 0).loss.backward()
    for name, parameter in mae.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, parameter in mae.named_parameters() if not parameter.requires_grad}
    assert frozen == {"encoder.pos_embed", "decoder.pos_embed"}


def test_two_micro_batches_give_the_gradient_of_the_whole(mae: Mae) -> None:
    views = some_views(mae, 8)
    mae.forward(views, 0).loss.backward()
    whole = {name: p.grad.clone() for name, p in mae.named_parameters() if p.grad is not None}
    mae.zero_grad()
    for rows in (slice(0, 4), slice(4, 8)):
        (mae.forward([x[rows] for x in views], 0).loss / 2).backward()
    for name, p in mae.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, whole[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.9])
def test_the_share_of_patches_asked_for_is_hidden(tiny: dict[str, Any], ratio: float) -> None:
    tiny["mae"]["mae"]["mask_ratio"] = ratio
    _, recipe = load_recipe({**tiny["mae"], "img_size": 112})
    method = build_method(recipe, 10)
    assert isinstance(method, Mae)
    _, keep, masked = some_views(method)
    assert keep.shape[1] == int(49 * (1 - ratio))
    assert keep.shape[1] + masked.shape[1] == 49


@pytest.mark.long
def test_refusals(tiny: dict[str, Any]) -> None:
    for change, message in [
        ({"img_size": 40}, r"`img_size` is 40, but the backbone's patches are 16 pixels wide: choose 32 or 48"),
        ({"backbone": "vit_tinny_patch16_224"}, r"is not a timm model; did you mean `vit_tiny_patch16_224`"),
        ({"backbone": "resnet18"}, r"`backbone: resnet18` is not a Vision Transformer"),
        (
            {"backbone": "test_vit2"},
            r"`backbone: test_vit2`: MAE needs a class token or registers, a norm after the last",
        ),
        (
            {"backbone": "test_vit3"},
            r"`backbone: test_vit3`: MAE needs .* no attention pooling, unlike this network",
        ),
        ({"mae": {"decoder_dim": 34}}, r"`mae.decoder_dim` is 34: it must be a multiple of 4"),
    ]:
        _, recipe = load_recipe({**tiny["mae"], **change})
        with pytest.raises(UserError, match=message):
            build_method(recipe, 10)
