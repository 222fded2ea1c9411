"""Backbones: what kinds are taken, what their feature is, and that an export of each is read back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.pretrain.export.backbone_export import export_backbone
from pellucid.pretrain.methods.backbones import masked_tokens, new_backbone, new_transformer, timm_kwargs
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe

KINDS = [
    ("test_vit", "cls"),  # class token
    ("test_vit2", "model"),  # a register, no class token, mean of the patches and a norm after it
    ("test_vit3", "model"),  # pooled by attention
    ("vit_small_patch14_reg4_dinov2", "cls"),  # four registers, which have no positions
    ("test_convnext", "model"),
    ("test_resnet", "model"),
]


@pytest.mark.long
@pytest.mark.parametrize(("name", "pooling"), KINDS)
@pytest.mark.parametrize("method", ["dino", "lejepa"])
def test_an_export_is_read_back_as_the_feature_that_was_trained(
    tiny: dict[str, Any], tmp_path: Path, name: str, pooling: str, method: str
) -> None:
    patch = 14 if "patch14" in name else 16
    if method == "dino" and patch == 14:
        pytest.skip("22 million weights twice, for what the other method shows")
    section = {**tiny[method], "backbone": name, "img_size": 4 * patch}
    section["views"] = {"local": {"count": 2, "size_px": 2 * patch if name.startswith("vit") else 32}}
    recipe = load_recipe(section)[1]
    made = build_method(recipe, 10)
    assert made.pooling == pooling
    export_backbone(tmp_path, made, recipe, {})
    network = made.backbone().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4 * patch, 4 * patch, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(recipe.mean).view(3, 1, 1)) / torch.tensor(recipe.std).view(3, 1, 1)
    with torch.no_grad():
        feature = network(x).numpy()
    read = load_backbone(f"run:{tmp_path}", device="cpu")
    tolerance = 1e-5
    np.testing.assert_allclose(read(pixels), feature, atol=tolerance * np.abs(feature).max(), rtol=tolerance)
    rebuilt = timm.create_model(name, pretrained=False, num_classes=0, **timm_kwargs(made.backbone(), 4 * patch))
    rebuilt.load_state_dict(network.state_dict(), strict=True)


@pytest.mark.parametrize("name", ["test_vit", "test_vit4", "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize("any_size", [True, False])
def test_masking_nothing_is_timm_and_checkpointing_changes_nothing(name: str, any_size: bool) -> None:
    side = 56 if "patch14" in name else 64
    vit = new_transformer(name, side, drop_path=0.0, any_size=any_size, wanted_by="this test")
    x, nothing = torch.randn(2, 3, side, side), torch.zeros(2, 16, dtype=torch.bool)
    token = torch.ones(1, 1, vit.embed_dim)
    torch.testing.assert_close(masked_tokens(vit, x, nothing, token), vit.forward_features(x))
    half = nothing.clone()
    half[:, ::2] = True
    plain = masked_tokens(vit, x, half, token)
    assert (plain - vit.forward_features(x)).abs().max() > 1e-3
    vit.set_grad_checkpointing(True)
    torch.testing.assert_close(masked_tokens(vit, x, half, token), plain)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_drop_path_reaches_every_kind(name: str) -> None:
    for rate in (0.0, 0.3):
        network = new_backbone(name, 64, drop_path=rate, any_size=True)
        rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
        assert max(rates, default=0) == pytest.approx(rate)


def test_what_is_refused() -> None:
    for name, side, message in [
        ("resnet5O", 64, r"`backbone: resnet5O` is not a timm model; did you mean `resnet50`"),
        ("test_mambaout", 64, r"is neither a Vision Transformer nor a ConvNeXt nor a ResNet; choose one"),
        ("test_efficientnet", 64, r"is neither a Vision Transformer nor a ConvNeXt nor a ResNet; choose one"),
        ("test_convnext", 24, r"`img_size` is 24, but a convolutional backbone has a stride of 32 pixels"),
        ("test_vit", 40, r"`img_size` is 40, but the backbone's patches are 16 pixels wide: choose 32 or 48"),
    ]:
        with pytest.raises(UserError, match=message):
            new_backbone(name, side, drop_path=0.0, any_size=True)
