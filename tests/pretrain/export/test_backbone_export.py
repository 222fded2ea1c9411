"""Export: plain timm loads it in three lines, the card says who was kept out, and ONNX gives what PyTorch gives."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file

import pellucid.pretrain.export.onnx_export
from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.pretrain.engine.checkpoint import checkpoint_path, save_checkpoint
from pellucid.pretrain.export.backbone_export import export_backbone, export_best, patient_counts
from pellucid.pretrain.export.model_card import model_card, training_sentences
from pellucid.pretrain.export.onnx_export import export_onnx
from pellucid.pretrain.methods.backbones import default_pooling, new_backbone
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.recipe import Recipe

FACTS = {"recipe": "dino-tiny-cpu", "method": "dino", "images_seen": 96}


class Trained(Method):
    """A method reduced to the backbone that is exported."""

    def __init__(self, name: str, img_size: int = 32) -> None:
        super().__init__()
        self.network = new_backbone(name, img_size, drop_path=0.0, any_size=True)
        self.pooling = default_pooling(self.network)

    def backbone(self) -> Any:
        return self.network


def recipe(backbone: str, img_size: int = 32) -> Recipe:
    values = {"backbone": backbone, "img_size": img_size, "mean": (0.5, 0.4, 0.3), "std": (0.2,) * 3, "batch_size": 8}
    return cast(Recipe, SimpleNamespace(**values))


NETWORKS = [
    ("test_vit", 32), ("test_vit", 96), ("test_vit4", 64), ("test_convnext", 64), ("test_resnet", 64),
]  # fmt: skip


@pytest.mark.parametrize(("name", "img_size"), NETWORKS)
def test_plain_timm_loads_it_in_three_lines_and_embed_gives_the_same_vectors(
    tmp_path: Path, name: str, img_size: int
) -> None:
    method = Trained(name, img_size).eval()
    export_backbone(tmp_path, method, recipe(name, img_size), FACTS)
    spec = json.loads((tmp_path / "preprocess.json").read_text())
    model = timm.create_model(spec["timm_name"], pretrained=False, num_classes=0, **spec["timm_kwargs"])
    model.load_state_dict(load_file(tmp_path / "backbone.safetensors"))
    pixels = torch.randint(0, 256, (2, img_size, img_size, 3), dtype=torch.uint8)
    x = (pixels.permute(0, 3, 1, 2).float() / 255 - torch.tensor(spec["mean"]).view(3, 1, 1)) / 0.2
    with torch.inference_mode():
        expected = method.network(x)
        torch.testing.assert_close(model.eval()(x), expected)
    assert expected.shape == (2, spec["dim"])
    loaded = load_backbone(f"run:{tmp_path}", "cpu")
    np.testing.assert_allclose(loaded(pixels.numpy()), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    method = Trained("test_vit")
    for name in "ab":
        export_backbone(tmp_path / name, method, recipe("test_vit"), FACTS)
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]
    assert [name for name, _ in files[0]] == ["MODEL_CARD.md", "backbone.safetensors", "preprocess.json"]


def test_the_best_is_exported_beside_the_last_where_it_is_another(tmp_path: Path) -> None:
    method = Trained("test_vit")
    made = recipe("test_vit")
    for step, score in ((4, 9.0), (8, 3.0), (12, 5.0)):
        with torch.no_grad():
            cast(torch.Tensor, method.network.norm.bias).fill_(float(step))
        save_checkpoint(tmp_path, step, {"method": method.state_dict()}, keep=2, score=score)
    export_backbone(tmp_path, method, made, FACTS)
    assert not checkpoint_path(tmp_path, 4).exists()  # pruned, but for its other name
    apart = export_best(tmp_path, method, made, FACTS)
    assert apart == tmp_path / "best-00000004"
    assert float(load_file(apart / "backbone.safetensors")["norm.bias"][0]) == 4
    assert float(load_file(tmp_path / "backbone.safetensors")["norm.bias"][0]) == 12
    spec = json.loads((apart / "preprocess.json").read_text())
    assert (spec["step"], spec["effective_rank"], spec["images_seen"]) == (4, 9.0, 32)
    assert load_backbone(f"run:{apart}", "cpu").dim == spec["dim"]
    save_checkpoint(tmp_path, 16, {"method": method.state_dict()}, keep=2, score=99.0)
    assert export_best(tmp_path, method, made, FACTS) is None


MANIFEST = pd.DataFrame(
    {
        "status": ["ok"] * 7 + ["unreadable"],
        "patient": ["A", "A", "B", "C", "C", "C", "D", "E"],
        "split": ["train", "train", "train", "test", "test", "test", "external", "train"],
    }
)


def test_excluded_patients_are_counted_without_identifiers() -> None:
    facts = patient_counts(MANIFEST, ["train"], "scan-12345678")
    assert (facts["n_images_trained"], facts["n_patients_trained"]) == (3, 2)
    assert facts["excluded"] == {
        "external": {"n_images": 1, "n_patients": 1},
        "test": {"n_images": 3, "n_patients": 1},
    }
    assert training_sentences(facts) == [
        "Trained on 3 images of 2 patients (train).",
        "Excluded from training: 1 image of 1 patient (external), 3 images of 1 patient (test).",
        "No test patient was used for training, so results on test patients apply to new patients of this kind.",
        "The manifest of `scan-12345678`, which is part of the study, lists these patients.",
    ]
    watched = MANIFEST.assign(image_id=[f"{i}.png" for i in range(len(MANIFEST))])
    first = watched.index[(watched["status"] == "ok") & (watched["split"] == "train")][0]
    facts = patient_counts(watched, ["train"], "s", {watched.loc[first, "image_id"]})
    assert (facts["n_images_trained"], facts["excluded"]["watched"]) == (2, {"n_images": 1, "n_patients": 1})
    seen = training_sentences({**patient_counts(MANIFEST, ["train", "test"], "s"), "warm_start": "timm:test_vit"})
    assert "**Test patients were used for training**: results on them do not apply to new patients." in seen
    assert "The starting weights were `timm:test_vit`" in seen[-1]


def test_the_model_card_is_complete(tmp_path: Path) -> None:
    export_backbone(
        tmp_path, Trained("test_vit"), recipe("test_vit"), {**FACTS, **patient_counts(MANIFEST, ["train"], "s")}
    )
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "# dino-tiny-cpu test_vit" in card
    assert "model = timm.create_model('test_vit', pretrained=False, num_classes=0, img_size=32)\nmodel.load" in card
    assert "stretched to 32 × 32 pixels, minus the mean [0.5, 0.4, 0.3]" in card
    assert "Excluded from training: 1 image of 1 patient (external)" in card
    assert model_card(json.loads((tmp_path / "preprocess.json").read_text())) == card


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    method = Trained("test_vit")
    said = "the backbone cannot be written .* the training is complete and saved in the last checkpoint"
    with pytest.raises(UserError, match=said), files_up_to(100_000):
        export_backbone(tmp_path, method, recipe("test_vit"), FACTS)
    assert list(tmp_path.iterdir()) == []
    export_backbone(tmp_path, method, recipe("test_vit"), FACTS)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "img_size"),
    [("test_vit", 32), *[pytest.param(name, 64, marks=pytest.mark.slow) for name in ("test_vit4", "test_convnext")]],
)
def test_onnx_gives_what_pytorch_gives_for_any_number_of_images(tmp_path: Path, name: str, img_size: int) -> None:
    pytest.importorskip("onnxscript")
    import onnx
    import onnxruntime

    run = tmp_path / "run"
    method = Trained(name, img_size).eval()
    export_backbone(run, method, recipe(name, img_size), FACTS)
    path = export_onnx(run, tmp_path / "backbone.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 2, 5):
        pixels = torch.randn(n, 3, img_size, img_size)
        with torch.inference_mode():
            expected = method.network(pixels).numpy()
        (found,) = session.run(["embedding"], {"pixels": pixels.numpy()})
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(said["pellucid"])["mean"] == [0.5, 0.4, 0.3]


def test_onnx_refuses_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "SHA256SUMS").touch()
    monkeypatch.setattr(pellucid.pretrain.export.onnx_export.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match="is inside a finished run, which must not be changed"):
        export_onnx(tmp_path, tmp_path / "sub" / "b.onnx")
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"the folder .*sub does not exist; create it"):
        export_onnx(tmp_path, tmp_path / "sub" / "b.onnx")
    with pytest.raises(UserError, match="is it a finished pretrain run"):
        export_onnx(tmp_path, tmp_path / "b.onnx")
    monkeypatch.setattr(pellucid.pretrain.export.onnx_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--onnx needs onnx and onnxscript: install them with .*pellucid\[onnx\]"):
        export_onnx(tmp_path, tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("started_from", "said"),
    [
        ({}, "No test patient was used for training, so results on"),
        (
            {"warm_start": "run:x", "warm_start_splits": ["train"]},
            "it is not known whether the starting weights did",
        ),
        (
            {"warm_start": "run:x", "warm_start_splits": ["test", "train"]},
            "**The starting weights were trained on test",
        ),
    ],
)
def test_the_training_data_of_the_starting_weights_are_stated(started_from: dict[str, object], said: str) -> None:
    sentences = training_sentences({**patient_counts(MANIFEST, ["train"], "s"), **started_from})
    assert sum(said in sentence for sentence in sentences) == 1
    assert any("No test patient was used" in sentence for sentence in sentences) == (not started_from)
