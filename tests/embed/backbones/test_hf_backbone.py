"""Vision towers of transformers: the library's own numbers from its own files, and a sentence where something is
missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.readout import ReadoutConfig

transformers = pytest.importorskip("transformers", reason="the extra `hf` (transformers) is not installed")

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
KINDS = ["vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "clip", "vit_mae"]
N_PREFIX = {"dinov2_with_registers": 5, "dinov3_vit": 5}


def squares(n: int, size_px: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)


def made(kind: str) -> Any:
    """A small network with random weights, as its authors would train it."""
    torch.manual_seed(4)
    t = transformers
    if kind == "vit":
        model = t.ViTForImageClassification(t.ViTConfig(**SMALL, num_labels=3))  # a classifier, which is left out
    elif kind == "dinov2":
        model = t.Dinov2Model(t.Dinov2Config(**{k: v for k, v in SMALL.items() if k != "intermediate_size"}))
    elif kind == "dinov2_with_registers":
        small = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
        model = t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**small, num_register_tokens=4))
    elif kind == "dinov3_vit":
        model = t.DINOv3ViTModel(t.DINOv3ViTConfig(**SMALL, num_register_tokens=4))
    elif kind == "clip_vision_model":
        model = t.CLIPVisionModel(t.CLIPVisionConfig(**SMALL))
    elif kind == "clip":
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "vocab_size": 40}  # fmt: skip
        model = t.CLIPModel(t.CLIPConfig(vision_config=SMALL, text_config=text, projection_dim=8))
    else:
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
                   "decoder_intermediate_size": 16}  # fmt: skip
        model = t.ViTMAEForPreTraining(t.ViTMAEConfig(**SMALL, **decoder))
    with torch.no_grad():  # norms begin as ones and zeros, which would hide that one is left out
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def saved(folder: Path, kind: str, **processor: Any) -> tuple[Path, Any, Any]:
    """The folder, the model and its image processor, written by transformers itself."""
    model = made(kind)
    model.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    p = transformers.ViTImageProcessor(
        **{"size": side, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], **processor}
    )
    p.save_pretrained(folder)
    return folder, model, p


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, atol=2e-5))


def tower_of(model: Any) -> Any:
    for name in ("vision_model", "vit"):
        inner = getattr(model, name, None)
        if inner is not None:
            return inner
    return model


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """Image processor and forward pass of the library against ours, for both ends of the tokens."""
    folder, model, processor = saved(tmp_path / "model", kind)
    pixels = squares(3)
    inputs = processor(images=list(pixels), return_tensors="pt")["pixel_values"]
    tower = tower_of(model)
    with torch.inference_mode():
        if kind == "vit_mae":
            tower.config.mask_ratio = 0.0
            out = tower(pixel_values=inputs, noise=torch.arange(16.0).expand(3, -1))
        else:
            out = tower(pixel_values=inputs)
        tokens = out.last_hidden_state
        if kind.startswith("clip"):
            tokens = tower.post_layernorm(tokens)
            assert torch.allclose(out.pooler_output, tokens[:, 0])
    n_prefix = N_PREFIX.get(kind, 1)
    backbone = load_backbone(f"hf:{folder}", "cpu")
    assert (backbone.name, backbone.size_px, backbone.dim, backbone.token_grid) == ("hf:model", 32, 32, (4, 4))
    assert close(backbone.tokens(pixels), tokens[:, n_prefix:].numpy())
    expected = tokens[:, n_prefix:].mean(1) if kind == "vit_mae" else tokens[:, 0]
    assert backbone.pooling == ("mean" if kind == "vit_mae" else "cls")
    assert close(backbone(pixels), expected.numpy())


@pytest.mark.parametrize("kind", ["vit", "dinov2_with_registers", "dinov3_vit", "clip", "vit_mae"])
def test_last_four_blocks_are_each_normed(tmp_path: Path, kind: str) -> None:
    """Against hooks on the blocks themselves, so that what transformers calls hidden states is checked too."""
    folder, model, processor = saved(tmp_path / "model", kind)
    tower, heard = tower_of(model), []
    blocks = next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 5)
    for block in blocks:
        block.register_forward_hook(lambda _, __, out: heard.append(out[0] if isinstance(out, tuple) else out))
    pixels = squares(2)
    inputs = processor(images=list(pixels), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        if kind == "vit_mae":
            tower.config.mask_ratio = 0.0
        tower(pixel_values=inputs, **({"noise": torch.arange(16.0).expand(2, -1)} if kind == "vit_mae" else {}))
        norm = getattr(tower, {"clip": "post_layernorm", "dinov3_vit": "norm"}.get(kind, "layernorm"))
        expected = torch.cat([norm(h)[:, 0] for h in heard[-4:]], dim=1)
    backbone = load_backbone(f"hf:{folder}", "cpu", ReadoutConfig(layers="last4", pooling="cls"))
    assert backbone.dim == 4 * 32
    assert close(backbone(pixels), expected.numpy())


def test_pixels_are_prepared_as_the_description_says(tmp_path: Path) -> None:
    """Another rescaling is brought into mean and deviation; a cut centre's side is the side."""
    folder, model, processor = saved(tmp_path / "model", "vit", rescale_factor=1 / 127.5)
    pixels = squares(2)
    inputs = processor(images=list(pixels), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model.vit(pixel_values=inputs).last_hidden_state[:, 0].numpy()
    assert close(load_backbone(f"hf:{folder}", "cpu")(pixels), expected)
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    cut = {**said, "size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    path.write_text(json.dumps(cut), encoding="utf-8")
    assert load_backbone(f"hf:{folder}", "cpu").size_px == 32
    for wrong, message in (
        ({**said, "size": {"height": 32, "width": 48}}, "but a square is needed"),
        ({k: v for k, v in said.items() if k != "image_mean"}, "has no image_mean and image_std"),
    ):
        path.write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_backbone(f"hf:{folder}", "cpu")
    path.unlink()
    with pytest.raises(UserError, match=r"contains no preprocessor_config\.json"):
        load_backbone(f"hf:{folder}", "cpu")


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "vit_mae", "dinov3_vit"])
def test_another_size(tmp_path: Path, kind: str) -> None:
    folder, _, _ = saved(tmp_path / "model", kind)
    backbone = load_backbone(f"hf:{folder}@48", "cpu")
    assert (backbone.name, backbone.size_px, backbone.token_grid) == ("hf:model@48", 48, (6, 6))
    assert backbone(squares(2, 48)).shape == (2, 32)
    with pytest.raises(UserError, match="a side of 50 pixels is not a multiple of the patch size 8: append @48 or @56"):
        load_backbone(f"hf:{folder}@50", "cpu")


def test_weights_that_are_not_all_there_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder, _, _ = saved(tmp_path / "model", "dinov2")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    lost = "layernorm.weight"
    save_file({k: v for k, v in tensors.items() if k != lost}, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"does not contain all weights of the vision tower \(1 missing: layernorm\.weight\)"
    ):
        load_backbone(f"hf:{folder}", "cpu")
    save_file({**tensors, lost: torch.ones(5)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 with another shape: layernorm\.weight"):
        load_backbone(f"hf:{folder}", "cpu")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(f"hf:{folder}", "cpu")
    path.unlink()
    with pytest.raises(UserError, match=r"contains no \.safetensors file"):
        load_backbone(f"hf:{folder}", "cpu")


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(UserError, match="describes a model of type `bert`; supported types are clip"):
        load_backbone(f"hf:{tmp_path}", "cpu")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_backbone(f"hf:{tmp_path}", "cpu")
    with pytest.raises(UserError, match="does not exist"):
        load_backbone(f"hf:{tmp_path}/nothing", "cpu")


def test_a_repository_comes_from_the_cache_or_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = saved(tmp_path / "model", "vit")
    cache = tmp_path / "cache"
    repository = cache / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    for module in ("huggingface_hub.file_download", "huggingface_hub._snapshot_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(cache), raising=False)
    asked = []

    def no_network(*_: object, **__: object) -> None:
        asked.append(1)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", no_network)
    backbone = load_backbone("hf:owner/name", "cpu")
    assert (backbone.name, asked) == ("hf:owner/name", []), "what lies in the cache needs no network"
    with pytest.raises(UserError, match="owner/other is not in the local cache, and it cannot be fetched") as caught:
        load_backbone("hf:owner/other", "cpu")
    assert asked == [1], "the hub was asked once, not again and again"
    assert "hf download owner/other" in str(caught.value)


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UserError, match=r"needs the library transformers: install it with `pip install 'pellucid\[hf\]'`"
    ):
        load_backbone("hf:owner/name", "cpu")
