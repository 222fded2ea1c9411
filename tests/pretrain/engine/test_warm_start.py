"""Warm start: what fits is loaded, what does not is named, positions keep their place, and the address knows the
weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.weight_loading import load_into, resampled_positions
from pellucid.pretrain.engine.warm_start import (
    Loaded,
    addressed,
    find_weights,
    fingerprint,
    normalisation_differs,
    record,
    warm_start,
)
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.recipe import WarmStart


class Pair(Method):
    """Student and teacher backbones, as DINO has them."""

    pooling = "cls"

    def __init__(self, name: str = "test_vit", **kwargs: Any) -> None:
        super().__init__()
        self.student, self.teacher = vit(name, **kwargs), vit(name, **kwargs)

    def trained_backbone(self) -> Any:
        return self.student

    def backbone(self) -> Any:
        return self.teacher


def vit(name: str = "test_vit", **kwargs: Any) -> Any:
    return timm.create_model(name, num_classes=0, **{"img_size": 32, **kwargs})


def stored(model: nn.Module, path: Path) -> dict[str, Tensor]:
    tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path)
    return tensors


def test_the_same_backbone_is_taken_over_whole_by_student_and_teacher(tmp_path: Path) -> None:
    tensors = stored(vit(), tmp_path / "w.safetensors")
    method = Pair()
    loaded = warm_start(method, find_weights("file:w.safetensors", tmp_path), allow_partial=False)
    assert loaded.whole
    assert sorted(loaded.loaded) == sorted(tensors)
    assert loaded.sentences() == [f"{len(tensors)} tensors loaded"]
    for network in (method.student, method.teacher):
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_convolutional_networks_with_their_buffers_and_without_their_classifier(tmp_path: Path, name: str) -> None:
    tensors = stored(timm.create_model(name, num_classes=7), tmp_path / "w.safetensors")
    ours = timm.create_model(name, num_classes=0)
    loaded = load_into(ours, find_weights(f"file:{tmp_path / 'w.safetensors'}").tensors)
    assert loaded.whole
    assert len(loaded.classifier) == 2
    assert set(loaded.loaded) | set(loaded.classifier) == set(tensors)
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in ours.state_dict().items())


def test_everything_that_does_not_fit_is_named_and_an_error_unless_allowed(tmp_path: Path) -> None:
    tensors = stored(vit(), tmp_path / "whole.safetensors")
    del tensors["norm.bias"]
    tensors["norm.weight"] = torch.ones(3)
    tensors["blocks.99.gamma"] = torch.ones(2)
    save_file(tensors, tmp_path / "partial.safetensors")
    weights = find_weights("file:partial.safetensors", tmp_path)
    method = Pair()
    before = method.student.norm.weight.detach().clone()
    with pytest.raises(
        UserError,
        match=r"`warm_start.weights: file:partial.safetensors` does not fit the backbone: \d+ tensors loaded; 1 "
        r"missing, left at random values: norm.bias; 1 unexpected, ignored: blocks.99.gamma; 1 with another shape, "
        r"left at random values: norm.weight \[3\] instead of \[64\]\. Choose .* warm_start.allow_partial=true",
    ):
        warm_start(method, weights, allow_partial=False)
    loaded = warm_start(method, weights, allow_partial=True)
    assert (loaded.missing, loaded.unexpected) == (["norm.bias"], ["blocks.99.gamma"])
    assert loaded.mismatching == [{"name": "norm.weight", "theirs": [3], "ours": [64]}]
    assert torch.equal(method.student.norm.weight, before)
    assert torch.equal(method.teacher.blocks[0].attn.qkv.weight, tensors["blocks.0.attn.qkv.weight"])
    said = json.loads(json.dumps(record(weights, loaded)))
    assert said["missing"] == ["norm.bias"]
    assert said["sha256"] == weights.sha256


def test_weights_of_another_world_are_refused_even_where_partial_ones_are_allowed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"0 tensors loaded; \d+ missing, .* and \d+ more; 1 unexpected, ignored: a\. "):
        warm_start(Pair(), find_weights("file:w.safetensors", tmp_path), allow_partial=True)


@pytest.mark.parametrize("kwargs", [{}, {"reg_tokens": 3}, {"reg_tokens": 3, "no_embed_class": True}])
def test_positions_are_brought_to_another_grid_and_prefix_tokens_keep_theirs(kwargs: dict[str, Any]) -> None:
    theirs, ours = vit(img_size=64, **kwargs), vit(img_size=96, **kwargs)  # 4 × 4 and 6 × 6 patches of 16 px
    with torch.no_grad():
        theirs.pos_embed.normal_()
    n_prefix = 0 if kwargs.get("no_embed_class") else ours.num_prefix_tokens
    loaded = load_into(ours, theirs.state_dict())
    assert loaded.whole
    assert loaded.resampled == ["pos_embed"]
    assert torch.equal(ours.pos_embed[:, :n_prefix], theirs.pos_embed[:, :n_prefix])
    grid = theirs.pos_embed[:, n_prefix:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours.pos_embed[:, n_prefix:], expected)


def test_a_position_keeps_its_place_in_the_image() -> None:
    """Positions that count columns and rows still do after resampling: left stays left, and the step shrinks in
    step."""
    ours = vit(img_size=192)  # 12 × 12
    column = torch.linspace(1 / 16, 15 / 16, 8)  # centres of 8 patches across an image of width 1
    theirs = torch.zeros(1, 65, 64)
    theirs[0, 1:, 0], theirs[0, 1:, 1] = column.repeat(8), column.repeat_interleave(8)
    new = resampled_positions(ours, theirs)
    assert new is not None
    x, y = new[0, 1:, 0].reshape(12, 12), new[0, 1:, 1].reshape(12, 12)
    centre = (torch.arange(12) + 0.5) / 12
    torch.testing.assert_close(x[:, 3:-3], centre[3:-3].expand(12, 6), atol=1e-4, rtol=0)  # bicubic is exact on a line
    torch.testing.assert_close(y, x.T)


def test_positions_of_no_square_grid_or_of_another_width_are_a_mismatch() -> None:
    ours = vit(img_size=64)
    for shape in ((1, 1 + 15, 64), (1, 17, 32), (17, 64)):
        loaded = load_into(ours, {**vit(img_size=64).state_dict(), "pos_embed": torch.zeros(shape)})
        assert [m["name"] for m in loaded.mismatching] == ["pos_embed"], shape


def test_pretrained_weights_come_from_the_local_cache_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = timm.create_model("test_vit", num_classes=1000)
    repository = "models--" + str(timm.get_pretrained_cfg("test_vit").hf_hub_id).replace("/", "--")
    snapshot = tmp_path / repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / repository / "refs").mkdir()
    (tmp_path / repository / "refs" / "main").write_text("0123")
    tensors = stored(theirs, snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for module in ("huggingface_hub.file_download", "timm.models._hub"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    weights = find_weights("timm:test_vit")
    method = Pair(img_size=64)
    loaded = warm_start(method, weights, allow_partial=False)
    assert loaded.resampled == ["pos_embed"]
    assert torch.equal(method.student.blocks[1].mlp.fc1.weight, tensors["blocks.1.mlp.fc1.weight"])
    assert weights.about["mean"] == [0.5, 0.5, 0.5]


def test_a_run_is_loaded_with_what_it_says_of_itself(tmp_path: Path) -> None:
    run = tmp_path / "mae-1234"
    run.mkdir()
    with pytest.raises(UserError, match=r"backbone.safetensors does not exist; name a finished pretrain run"):
        find_weights("run:mae-1234", tmp_path)
    stored(vit(), run / "backbone.safetensors")
    spec = {"timm_name": "test_vit", "method": "mae", "mean": [0.1] * 3, "std": [0.2] * 3, "dim": 64}
    (run / "preprocess.json").write_text(json.dumps(spec))
    weights = find_weights("run:mae-1234", tmp_path)
    assert weights.about == {"timm_name": "test_vit", "method": "mae", "mean": [0.1] * 3, "std": [0.2] * 3}
    assert normalisation_differs(weights.about, (0.1, 0.1, 0.1), (0.2, 0.2, 0.2)) is None
    said = normalisation_differs(weights.about, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert said is not None
    assert "set `mean` and `std` to those of the weights" in said
    assert normalisation_differs({}, (0.5,) * 3, (0.5,) * 3) is None


def test_damaged_and_unknown_weights_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not this")
    with pytest.raises(UserError, match=r"w\.safetensors cannot be read"):
        find_weights("file:w.safetensors", tmp_path)
    tensors = stored(vit(), tmp_path / "w.safetensors")
    save_file({**tensors, "norm.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"norm\.bias contains values that are not finite"):
        find_weights("file:nan.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"timm has no model `test_vitt`, did you mean|timm has no model `test_vitt`"):
        find_weights("timm:test_vitt")


def test_the_fingerprint_is_of_the_content_and_enters_the_address(tmp_path: Path) -> None:
    tensors = stored(vit(), tmp_path / "a.safetensors")
    save_file(tensors, tmp_path / "b.safetensors", metadata={"written": "another day"})
    one, two = (find_weights(f"file:{name}.safetensors", tmp_path) for name in "ab")
    assert one.sha256 == two.sha256 == fingerprint(tensors)
    content = {"seed": 0, "warm_start": {"weights": "file:a.safetensors", "lr_scale": 0.2}}
    assert addressed(content, one) == addressed(
        {**content, "warm_start": {**content["warm_start"], "weights": "x"}}, two
    )
    assert addressed(content, one)["warm_start"]["lr_scale"] == 0.2
    moved = {**tensors, "norm.bias": tensors["norm.bias"] + 1e-7}
    assert fingerprint(moved) != one.sha256
    assert fingerprint({"a": torch.zeros(2, 3)}) != fingerprint({"a": torch.zeros(3, 2)})
    assert fingerprint({"a": torch.zeros((), dtype=torch.bfloat16)}) != fingerprint({"b": torch.zeros(())})


def test_rates_are_lower_only_where_there_are_weights() -> None:
    assert (WarmStart().rate_factor, WarmStart().layer_factor) == (1.0, 1.0)
    warm = WarmStart(weights="timm:test_vit")
    assert (warm.rate_factor, warm.layer_factor) == (0.2, 0.75)
    assert not warm.allow_partial


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("vit_small", "write timm:NAME, run:FOLDER or file:PATH.safetensors"),
        ("file:w.pth", "only .safetensors files are read, because opening a .pt or .pth file may run code"),
        ("run:", "write timm:NAME"),
    ],
)
def test_a_name_that_names_no_weights_is_refused_when_the_recipe_is_read(named: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WarmStart(weights=named)


def test_sentences_name_what_was_resampled_and_left_out() -> None:
    said = Loaded(["pos_embed"], ["pos_embed"], [], [], [], ["head.weight"]).sentences()
    assert said == [
        "1 tensors loaded",
        "pos_embed: resampled to this image size by bicubic interpolation",
        "head.weight: classifier of the original task, ignored",
    ]
