"""Every backbone's name: the same vectors each time, the real loading of weights, and a sentence where there are
none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import backbone_slug, load_backbone, pick_device
from pellucid.embed.backbones.compute_choice import Compute
from pellucid.embed.backbones.pixel_baseline import PIXELS_DIM, pixel_features

TINY = "test_vit"  # timm's own model for tests: 0.4 million weights


def squares(n: int, size_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)


def test_random_weights_are_everybodys() -> None:
    first, second = load_backbone(f"timm-random:{TINY}", "cpu"), load_backbone(f"timm-random:{TINY}", "cpu")
    assert first.fingerprint == second.fingerprint
    pixels = squares(3, first.size_px)
    assert np.array_equal(first(pixels), second(pixels))
    assert first(pixels).shape == (3, first.dim)


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_backbone(f"timm-random:{TINY}", "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_size_after_at() -> None:
    backbone = load_backbone(f"timm-random:{TINY}@96", "cpu")
    assert backbone.size_px == 96
    assert backbone(squares(2, 96)).shape == (2, backbone.dim)
    with pytest.raises(UserError, match="does not support @SIZE"):
        load_backbone("timm-random:test_resnet@96", "cpu")
    with pytest.raises(UserError, match="after @, write the side of the square"):
        load_backbone(f"timm-random:{TINY}@big", "cpu")
    with pytest.raises(UserError, match="97 pixels are not a multiple of the patch size 16: use @96"):
        load_backbone(f"timm-random:{TINY}@97", "cpu")


def test_convolutional_backbones_work_too() -> None:
    backbone = load_backbone("timm-random:test_resnet", "cpu")
    assert backbone(squares(2, backbone.size_px)).shape == (2, backbone.dim)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_vectors_are_timms_own(precision: str) -> None:
    """The same image through plain timm gives the same vector; in bfloat16 (emulated where need be) the same
    direction."""
    backbone = load_backbone(f"timm-random:{TINY}", "cpu", compute=Compute(precision))
    pixels = squares(2, backbone.size_px)
    assert backbone.model is not None
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(backbone.mean).view(1, 3, 1, 1)) / torch.tensor(backbone.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = backbone.model(x).numpy()
    if precision == "float32":
        assert np.allclose(backbone(pixels), expected, atol=1e-5)
    cosine = (
        (backbone(pixels) * expected).sum(1)
        / np.linalg.norm(expected, axis=1)
        / np.linalg.norm(backbone(pixels), axis=1)
    )
    assert cosine.min() > 0.999  # roundings of 2⁻⁹ in independent directions: 1 − 12 · 2⁻¹⁸ and more


def exported(folder: Path, pooling: str = "mean") -> Path:
    torch.manual_seed(3)
    model = timm.create_model(TINY, pretrained=False, num_classes=0, img_size=64)
    folder.mkdir()
    save_file(model.state_dict(), folder / "backbone.safetensors")
    (folder / "preprocess.json").write_text(
        json.dumps(
            {"schema": "pellucid.preprocess/1", "timm_name": TINY, "img_size": 64,
             "mean": [0.5] * 3, "std": [0.25] * 3, "pooling": pooling, "method": "mae"}
        ), encoding="utf-8",
    )  # fmt: skip
    return folder


def test_own_export_is_loaded_strictly_and_pooled_as_it_says(tmp_path: Path) -> None:
    mean, cls = exported(tmp_path / "a"), exported(tmp_path / "b", "cls")
    pixels = squares(2, 64)
    by_mean, by_cls = load_backbone(f"run:{mean}", "cpu"), load_backbone(f"run:{cls}", "cpu")
    assert by_mean.fingerprint == by_cls.fingerprint
    assert not np.allclose(by_mean(pixels), by_cls(pixels))
    assert by_mean.name == "run:a"
    with torch.inference_mode():
        assert by_mean.model is not None
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
        tokens = by_mean.model.forward_features(x)  # type: ignore[operator]
    assert np.allclose(by_mean(pixels), tokens[:, 1:].mean(1).numpy(), atol=1e-5)
    (mean / "backbone.safetensors").write_bytes((mean / "backbone.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="the exported backbone cannot be loaded"):
        load_backbone(f"run:{mean}", "cpu")
    with pytest.raises(UserError, match=r"contains no backbone\.safetensors with preprocess\.json"):
        load_backbone(f"run:{tmp_path}", "cpu")


def cached_weights(cache: Path) -> torch.nn.Module:
    """What the hub client leaves on disk after a download, with weights that this test makes."""
    torch.manual_seed(11)
    model = timm.create_model(TINY, pretrained=False)
    repository = timm.get_pretrained_cfg(TINY).hf_hub_id
    folder = cache / ("models--" + repository.replace("/", "--"))
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    save_file(model.state_dict(), snapshot / "model.safetensors")
    return model


def test_pretrained_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cached_weights(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    backbone = load_backbone(f"timm:{TINY}", "cpu")
    assert backbone.model is not None
    assert torch.equal(
        backbone.model.state_dict()["blocks.0.attn.qkv.weight"], model.state_dict()["blocks.0.attn.qkv.weight"]
    )


def test_weights_that_are_not_to_be_had_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_network)
    start = time.monotonic()
    with pytest.raises(UserError, match="not in the local cache and the hub cannot be reached") as caught:
        load_backbone("timm:vit_small_patch16_224", "cpu")
    assert "timm-random:vit_small_patch16_224" in str(caught.value)
    assert time.monotonic() - start < 20, "timm's own retries would take most of a minute"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "unknown backbone `resnet50`: write pixels, timm:NAME, timm-random:NAME, run:FOLDER, hf:"),
        ("timm:", "unknown backbone `timm:`"),
        (
            "timm-random:vit_tiny_patch16_242",
            "timm has no model `vit_tiny_patch16_242`; did you mean `vit_tiny_patch16_224`?",
        ),
    ],
)
def test_names_that_are_not_known(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_backbone(name, "cpu")
    assert said in str(caught.value)


def test_pixels_baseline_holds_what_it_says() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    features = pixel_features(image)
    assert features.shape == (PIXELS_DIM,)
    histogram = features[768:816].reshape(3, 16)
    assert np.allclose(histogram.sum(axis=1), 1)
    expected = np.histogram(image[:, :, 1], bins=16, range=(0, 256))[0] / 128**2
    assert np.allclose(histogram[1], expected)
    x = np.arange(128)
    stripes = np.repeat((127 + 100 * np.sin(2 * np.pi * x * 32 / 128))[None, :].repeat(128, 0)[:, :, None], 3, 2)
    spectrum = pixel_features(stripes.astype(np.uint8))[816:]
    assert spectrum.argmax() in {15, 16}, "a frequency of a quarter per pixel lies half-way to Nyquist"


def test_slug() -> None:
    assert backbone_slug("timm-random:vit_tiny_patch16_224@112") == "timm-random-vit-tiny-patch16-224-112"


def test_a_device_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"device `tpu`: choose auto, cpu, cuda or cuda:N"):
        pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    with pytest.raises(UserError, match=r"device `cuda`: PyTorch finds no GPU; use auto or cpu"):
        pick_device("cuda")


def test_each_process_of_torchrun_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("auto", 1) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0), "a number takes precedence"
    with pytest.raises(
        UserError, match=r"device `cuda:7`: PyTorch finds 2 GPU\(s\), but number 7 .* start fewer processes"
    ):
        pick_device("cuda:7")
