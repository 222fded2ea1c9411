"""What is done to a backbone's blocks for speed: weights keep their names, and what listens to them still hears."""

from __future__ import annotations

import shutil

import pytest
import timm
import torch

from pellucid.cohort.errors import UserError
from pellucid.pretrain.engine.block_wrappers import blocks, checkpoint_activations, compile_blocks
from pellucid.pretrain.monitor.attention_maps import class_attention


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_attention_is_still_heard_where_blocks_are_compiled() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    before, names = class_attention(model, images), list(model.state_dict())
    assert before is not None
    assert compile_blocks(model) == len(blocks(model)) > 0
    after = class_attention(model, images)
    assert after is not None
    torch.testing.assert_close(after, before)
    assert list(model.state_dict()) == names
    assert blocks(model)[-1]._compiled_call_impl is not None  # and the last block is compiled again


def test_forgotten_activations_give_the_same_gradient() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, img_size=32)
    images = torch.randn(2, 3, 32, 32)
    model(images).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    assert checkpoint_activations(model) > 0
    model(images).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, expected[name]), name


def test_batch_norm_would_count_twice() -> None:
    with pytest.raises(UserError, match="would count each batch twice in the statistics of batch norm"):
        checkpoint_activations(timm.create_model("test_resnet", num_classes=0))
