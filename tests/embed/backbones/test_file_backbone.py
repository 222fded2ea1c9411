"""Weights in a file: taken over whole, brought to another image size, or refused with every tensor that does not
fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from pellucid.cohort.errors import UserError
from pellucid.cohort.study import load_study
from pellucid.embed.backbones.backbone import load_backbone

TINY = "test_vit"
ROUNDING = 2e-5  # of float32


def stored(path: Path, **kwargs: object) -> torch.nn.Module:
    torch.manual_seed(8)
    model: torch.nn.Module = timm.create_model(TINY, **kwargs)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return model.eval()


def squares(n: int, size_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)


def test_vectors_are_those_of_the_weights_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a@home" / "weights.safetensors"  # a folder may be called so
    model = stored(path, num_classes=7)  # its classifier is left out
    backbone = load_backbone(f"file:{path}@{TINY}", "cpu")
    assert (backbone.name, backbone.size_px) == ("file:weights.safetensors@test_vit", 160)
    assert str(tmp_path) in backbone.spec()["location"]
    pixels = squares(2, 160)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - torch.tensor(backbone.mean).view(1, 3, 1, 1)) / (
        torch.tensor(backbone.std).view(1, 3, 1, 1)
    )
    with torch.inference_mode():
        expected = model.forward_features(x)[:, 0].numpy()  # type: ignore[operator]
    assert np.allclose(backbone(pixels), expected, atol=ROUNDING)
    assert backbone.fingerprint != load_backbone(f"timm-random:{TINY}", "cpu").fingerprint


def test_positions_are_resampled_for_another_size(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = stored(path, num_classes=0)
    backbone = load_backbone(f"file:{path}@{TINY}@64", "cpu")
    assert (backbone.size_px, backbone.token_grid) == (64, (4, 4))
    positions = model.state_dict()["pos_embed"]
    expected = resample_abs_pos_embed(positions, [4, 4], [10, 10], num_prefix_tokens=positions.shape[1] - 100)
    assert backbone.model is not None
    assert torch.allclose(backbone.model.state_dict()["pos_embed"], expected)
    assert "positions" in backbone.spec()
    assert backbone(squares(1, 64)).shape == (1, 64)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {k: v.contiguous() for k, v in stored(path, num_classes=0).state_dict().items()}
    lost = tensors.pop("norm.bias")
    save_file({**tensors, "decoder.weight": torch.zeros(2), "norm.weight": torch.zeros(5)}, path)
    with pytest.raises(UserError) as caught:
        load_backbone(f"file:{path}@{TINY}", "cpu")
    said = str(caught.value)
    assert "do not fit test_vit" in said
    assert "1 missing, left at random values: norm.bias" in said
    assert "1 unexpected, ignored: decoder.weight" in said
    assert "norm.weight [5] instead of [64]" in said
    save_file({**tensors, "norm.bias": lost * float("nan")}, path)
    with pytest.raises(UserError, match=r"norm\.bias contain NaN or infinite values"):
        load_backbone(f"file:{path}@{TINY}", "cpu")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file:weights.pth@test_vit", r"write file:, the path of a \.safetensors file"),
        ("file:weights.safetensors", r"write file:, the path of a \.safetensors file"),
        ("file:weights.safetensors@test_vjt", "timm has no model `test_vjt`; did you mean `test_vit`?"),
        ("file:nowhere/weights.safetensors@test_vit", "the file nowhere/weights.safetensors does not exist"),
        ("file:w.safetensors@test_vit@big", "after @, write the side of the square in pixels"),
    ],
)
def test_names_that_say_too_little(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        load_backbone(name, "cpu")


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    stored(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_backbone(f"file:{path}@{TINY}", "cpu")


def test_a_study_of_eyes_is_not_mirrored(phantom: Path, tmp_path: Path) -> None:
    """`embed` refuses before anything is loaded or read."""
    from pellucid.cohort.runs.folder import RunFolder
    from pellucid.embed.extract.stage import embed

    study = load_study(phantom, ["specialty=fundus", "embed.average=flip", f"analysis={tmp_path}"])
    with pytest.raises(UserError, match="images of the specialty `fundus` must not be mirrored"):
        embed(study, RunFolder(tmp_path, "scan", "scan", "0", True), "pixels", progress=False)


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod.model."])
def test_prefixes_and_tensors_of_pretraining_only_do_not_make_weights_unfit(tmp_path: Path, prefix: str) -> None:
    model = stored(tmp_path / "w.safetensors", num_classes=0)
    tensors = {**model.state_dict(), "mask_token": torch.zeros(1, 64)}
    save_file({f"{prefix}{k}": v.contiguous() for k, v in tensors.items()}, tmp_path / "w.safetensors")
    loaded = load_backbone(f"file:{tmp_path / 'w.safetensors'}@{TINY}", "cpu")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "plain.safetensors")
    plain = load_backbone(f"file:{tmp_path / 'plain.safetensors'}@{TINY}", "cpu")
    assert loaded.fingerprint == plain.fingerprint


def test_counters_of_batch_normalisation_may_be_missing_but_nothing_else(tmp_path: Path) -> None:
    tensors = timm.create_model("test_resnet", num_classes=0).state_dict()
    without = {k: v.contiguous() for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert len(without) < len(tensors)
    save_file(without, tmp_path / "w.safetensors")
    load_backbone(f"file:{tmp_path / 'w.safetensors'}@test_resnet", "cpu")
    del without["bn1.running_mean"]
    save_file(without, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"1 missing, left at random values: bn1\.running_mean"):
        load_backbone(f"file:{tmp_path / 'w.safetensors'}@test_resnet", "cpu")
