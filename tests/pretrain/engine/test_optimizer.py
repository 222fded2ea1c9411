"""Groups of parameters: who is decayed, and layer-wise rates against BEiT's rule and timm's own grouping."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from pellucid.pretrain.engine.optimizer import layer_scales, parameter_groups
from pellucid.pretrain.methods.method import Method


class OnlyBackbone(Method):
    """A backbone with a head, as the optimizer sees any method."""

    pooling = "cls"

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.student = backbone
        self.head = nn.Linear(backbone.num_features, 4)

    def trained_backbone(self) -> Any:
        return self.student


def rates(method: Method, layer_decay: float) -> dict[str, float]:
    """Parameter name → factor, from the groups."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = parameter_groups(method, layer_decay)
    return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}


def test_without_layer_decay_there_are_two_groups_and_vectors_positions_and_tokens_are_not_decayed() -> None:
    method = OnlyBackbone(timm.create_model("test_vit", num_classes=0, img_size=32, reg_tokens=2))
    decayed, plain = parameter_groups(method)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    free = {names[id(p)] for p in plain["params"]}
    assert {"student.pos_embed", "student.cls_token", "student.reg_token", "head.bias"} <= free
    assert {"student.blocks.0.norm1.weight", "student.patch_embed.proj.bias"} <= free
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert (decayed["decayed"], plain["decayed"]) == (True, False)
    assert {decayed["lr_scale"], plain["lr_scale"]} == {1.0}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(method.parameters()))


def test_what_does_not_train_is_in_no_group() -> None:
    method = OnlyBackbone(timm.create_model("test_vit", num_classes=0, img_size=32))
    method.student.pos_embed.requires_grad_(False)
    assert "student.pos_embed" not in rates(method, 0.75)
    assert len(rates(method, 0.75)) == len(list(method.parameters())) - 1


def test_beits_rule_written_out() -> None:
    """lr of block i × layer_decay^(depth − i), the embedding below block 0, and the full rate above the last block."""
    with torch.device("meta"):
        method = OnlyBackbone(timm.create_model("vit_tiny_patch16_224", num_classes=0, reg_tokens=4))
    found = rates(method, 0.65)
    for i in range(12):
        assert found[f"student.blocks.{i}.attn.qkv.weight"] == pytest.approx(0.65 ** (12 - i))
        assert found[f"student.blocks.{i}.norm1.bias"] == pytest.approx(0.65 ** (12 - i))
    for name in ("pos_embed", "cls_token", "reg_token", "patch_embed.proj.weight"):
        assert found[f"student.{name}"] == pytest.approx(0.65**13)
    assert found["student.norm.weight"] == pytest.approx(0.65)  # timm's: the last norm learns with the last block
    assert found["head.weight"] == found["head.bias"] == 1.0


@pytest.mark.parametrize("name", ["test_vit", "test_vit4", "vit_tiny_patch16_224", "convnext_tiny", "resnet18"])
def test_timms_own_groups_with_its_classifier_are_the_oracle(name: str) -> None:
    with torch.device("meta"):
        classifier, backbone = timm.create_model(name), timm.create_model(name, num_classes=0)
    names = {id(parameter): n for n, parameter in classifier.named_parameters()}
    theirs = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(classifier, layer_decay=0.75)
        for p in group["params"]
    }
    ours = layer_scales(backbone, 0.75)
    assert len(set(ours.values())) >= 3
    for parameter, scale in ours.items():
        assert scale == pytest.approx(theirs[parameter]), parameter


def test_the_order_of_the_groups_is_the_same_each_time_so_that_a_saved_optimizer_finds_its_own() -> None:
    def shapes() -> list[list[tuple[int, ...]]]:
        method = OnlyBackbone(timm.create_model("test_vit", num_classes=0, img_size=32))
        return [[tuple(p.shape) for p in group["params"]] for group in parameter_groups(method, 0.75)]

    assert shapes() == shapes()
    first = OnlyBackbone(timm.create_model("test_vit", num_classes=0, img_size=32))
    saved = torch.optim.AdamW(parameter_groups(first, 0.75), lr=0.1).state_dict()
    again = torch.optim.AdamW(parameter_groups(first, 0.75), lr=0.1)
    again.load_state_dict(saved)
    assert [g["lr_scale"] for g in again.param_groups] == [g["lr_scale"] for g in saved["param_groups"]]
