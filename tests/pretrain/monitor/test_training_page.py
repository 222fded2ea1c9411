"""The training page: self-contained, without identifiers, with all findings and the right pixels."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import torch
import yaml

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.checksums import write_sums
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study, load_study
from pellucid.pretrain.methods.mae import patchify
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.monitor.attention_maps import class_attention
from pellucid.pretrain.monitor.collapse import not_finite
from pellucid.pretrain.monitor.image_strips import unpatchify
from pellucid.pretrain.monitor.svg_curves import Curve, number, thinned
from pellucid.pretrain.monitor.tensorboard_log import Events
from pellucid.pretrain.monitor.training_curves import training_curves, watch_curves, watch_sentences
from pellucid.pretrain.monitor.training_page import TrainingPage
from pellucid.pretrain.recipe import load_recipe

Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]
STEPS = 20
SECRETS = ("MRS SECRET", "secret-name")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.said: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}]
        if tag == "meta":
            self.metas.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    @property
    def refreshes(self) -> bool:
        return any(meta.get("http-equiv") == "refresh" for meta in self.metas)


@pytest.fixture
def training_page(cohort: Cohort, tmp_path: Path) -> Callable[[dict[str, Any]], TrainingPage]:
    """The training page of a study with a device, in which some images have burned-in text."""

    def build(section: dict[str, Any]) -> TrainingPage:
        study, scan = cohort(section)
        path = scan.path / "manifest.parquet"
        manifest = pd.read_parquet(path)
        number = manifest["patient"].str[1:].astype(int)
        manifest["device"] = np.where(number % 2, "<b>one</b>", "two")
        manifest["patient_source_id"] = [f"{SECRETS[0]} {n}" for n in number]
        manifest["text_like"] = manifest["image_id"].str.startswith("train/00")
        manifest.to_parquet(path)
        write_sums(scan.path)
        (study.path.parent / "table.csv").write_text("image,device\n", encoding="utf-8")
        config = {"images": ".", "table": "table.csv", "image": "image", "patient": "none", "pretrain": section}
        study.path.write_text(yaml.safe_dump({**config, "acquisition": {"device": "categorical"}}), encoding="utf-8")
        _, recipe = load_recipe(section)
        folder = tmp_path / "run"
        folder.mkdir()
        return TrainingPage.open(load_study(study.path), scan, recipe, folder=folder, name="mine <b>", steps=STEPS)

    return build


def write_metrics(folder: Path, n: int, **changes: float) -> None:
    healthy = {"lr": 1e-3, "grad_norm": 1.0, "feature_std": 0.1, "effective_rank": 9.0, "centred_rank": 9.0}
    lines = [{"step": i + 1, "loss": 2 - i / 10, **healthy, **changes} for i in range(n)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "headings"),
    [("mae", ["Reconstructions"]), ("dino", ["Attention"]), ("dinov2", ["Attention"]), ("lejepa", ["Views"])],
)
def test_the_page_of_each_method(
    training_page: Callable[[dict[str, Any]], TrainingPage], tiny: Tiny, kind: str, headings: list[str]
) -> None:
    sheet = training_page({**tiny[kind], "watch": {"images": 40, "every": 10}})
    _, recipe = load_recipe({**tiny[kind], "watch": {"images": 40, "every": 10}})
    method = build_method(recipe, STEPS)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    sheet.at(method, 0)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(module.training for module in method.modules())
    write_metrics(sheet.folder, 10)
    assert sheet.due(10)
    sheet.at(method, 10)
    page = Page((sheet.folder / "training.html").read_text(encoding="utf-8"))
    assert page.refreshes
    assert "step 10 of 20 (50%)" in page.text
    assert "in the first 10 steps." in page.text
    for heading in ["Nearest neighbours", "Views", "Effective rank", "Gradient norm", *headings]:
        assert heading in page.text
    assert {address.split(":")[0] for address in page.addresses} == {"data"}
    assert not {"link", "iframe", "object"} & set(page.tags)
    raw = (sheet.folder / "training.html").read_text(encoding="utf-8")
    assert "mine <b>" not in raw
    assert not any(private in raw for private in (*SECRETS, "train/", ".jpg", str(sheet.folder)))
    assert "of P000" in page.text
    hidden = [f"image {i} of P0000{patient}" for patient in range(5) for i in (1, 2)]
    assert not any(caption in raw for caption in hidden)  # text is burned into them
    watched = [json.loads(line) for line in (sheet.folder / "watch.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in watched] == [0, 10]
    TrainingPage(sheet.folder, sheet.recipe, sheet.name, STEPS, sheet.watch).finish(method)  # in another process
    page = Page((sheet.folder / "training.html").read_text(encoding="utf-8"))
    assert not page.refreshes
    assert "Finished, 20 steps." in page.text
    assert "Nearest neighbours" in page.text


def test_a_stopped_training_shows_diagnosis_and_advice_on_the_page_and_in_health_json(
    training_page: Any, tiny: Tiny
) -> None:
    sheet = training_page({**tiny["mae"], "watch": {"every": 0}})
    write_metrics(sheet.folder, 7)
    found = not_finite(7, math.nan, 1.0)
    sheet.write(stopped=found, last_good=sheet.folder / "checkpoints" / "step-00000004.pt")
    page = Page((sheet.folder / "training.html").read_text(encoding="utf-8"))
    assert "Stopped at step 8 of 20." in page.text
    assert (
        "the loss is nan; the last good checkpoint is checkpoints/step-00000004.pt. A lower learning rate" in page.text
    )
    assert not page.refreshes
    health = json.loads((sheet.folder / "health.json").read_text(encoding="utf-8"))
    assert (health["schema"], health["healthy"]) == ("pellucid.health/1", False)
    assert health["diagnoses"][0]["kind"] == "not finite"
    assert sheet.held_out == frozenset()


def test_curves_show_the_metrics() -> None:
    metrics = [
        {"step": s, "loss": 3.0 - s / 100, "feature_std": 0.1, "mystery": 1.0, "ibot_loss": 2.0} for s in (10, 90)
    ]
    curves = training_curves(metrics, dim=16, steps=100)
    assert [curve.title for curve in curves] == ["Loss", "Ibot loss", "Feature spread"]
    assert list(curves[0].points) == [(10.0, 2.9), (90.0, 2.1)]
    assert curves[2].reference == (0.25, "evenly spread")
    svg = str(curves[0].svg())
    xs = [float(pair.split(",")[0]) for pair in svg.split('polyline points="')[1].split('"')[0].split()]
    assert (xs[1] - xs[0]) / (226 - 40) == pytest.approx(0.8, abs=0.01)  # of the whole length, done or not
    log_k = math.log(64)
    teacher = [{"step": 1, "loss": 1.0, "teacher_entropy": 1.0, "teacher_kl_uniform": 0.5}]
    points = {curve.title: curve.points for curve in training_curves(teacher, dim=None, steps=1, log_k=log_k)}
    assert points["Teacher information"] == [(1.0, pytest.approx(log_k - 1.5))]


def look(step: int, variable: str, role: str, score: float | None, note: str = "") -> dict[str, Any]:
    spread = None if score is None else 0.05
    return {
        "step": step, "variable": variable, "role": role, "kind": "categorical", "metric": "auroc", "score": score,
        "ci_low": None if score is None else score - spread, "ci_high": None if score is None else score + spread,
        "chance": 0.5, "patients": 30, "images": 60, "levels": {}, "note": note, "held_out": True,
    }  # fmt: skip


def test_monitored_variables_are_grouped_by_role_and_their_change_is_described() -> None:
    lines = [
        look(0, "scanner_model", "acquisition", 0.6), look(0, "grade", "clinical", 0.6),
        look(0, "died", "outcome", None, "too few patients (4)"),
        look(9, "scanner_model", "acquisition", 0.9), look(9, "grade", "clinical", 0.62),
        look(9, "died", "outcome", None, "too few patients (4)"),
    ]  # fmt: skip
    groups = watch_curves(lines, steps=9)
    assert [curve.title for curve in groups["acquisition"]] == ["Scanner model"]
    assert [curve.title for curve in groups["clinical"]] == ["Grade"]
    assert groups["acquisition"][0].last == "0.90 (0.85 to 0.95)"
    said = watch_sentences(lines)
    assert said == [
        "Acquisition factors: scanner model is now predicted better (0.60 → 0.90).",
        "Not scored: died (too few patients (4)).",
    ]


def test_curves_escape_thin_and_write_numbers() -> None:
    assert "<i>" not in str(Curve("<i>x</i>", [(0, 1.0), (1, 2.0)], say="<i>").svg())
    assert str(Curve("none", []).svg()) == ""
    many = [(float(i), float(i)) for i in range(5000)]
    assert len(thinned(many)) <= 301
    assert thinned(many)[-1] == (4999.0, 4999.0)
    assert thinned([(0.0, math.nan), (1.0, 2.0)]) == [(1.0, 2.0)]
    assert [number(v) for v in (0.0, -0.5, 1234.5, 0.00021, 3.14159)] == ["0", "−0.5", "1,234", "2.1·10⁻⁴", "3.14"]


def test_unpatchify_is_the_inverse_of_patchify() -> None:
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatchify(patchify(images, 4), 4), images)


def test_attention_is_what_the_block_computes(tiny: Tiny) -> None:
    _, recipe = load_recipe(tiny["dino"])
    vit: Any = build_method(recipe, 4).backbone()
    vit.eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = class_attention(vit, images)
    assert found is not None
    assert found.sum(dim=(2, 3)) == pytest.approx(torch.ones(found.shape[:2]))
    # The block's own output at the class token must follow from the same weights.
    attention, heard = vit.blocks[-1].attn, {}
    attention.register_forward_hook(lambda module, given, result: heard.update(x=given[0], y=result))
    vit.forward_features(images)
    x = heard["x"].double()
    qkv = torch.nn.functional.linear(x, attention.qkv.weight.double(), attention.qkv.bias.double())
    q, k, v = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
    weights = (q[:, :, 0:1] @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    merged = (weights @ v)[:, :, 0].flatten(1)
    said = torch.nn.functional.linear(merged, attention.proj.weight.double(), attention.proj.bias.double())
    assert said == pytest.approx(heard["y"][:, 0].detach().double(), abs=1e-4)
    patches = weights[:, :, 0, vit.num_prefix_tokens :]
    assert found.flatten(2) == pytest.approx((patches / patches.sum(dim=2, keepdim=True)).detach(), abs=1e-5)
    assert class_attention(torch.nn.Conv2d(3, 3, 1), images) is None


def test_tensorboard_without_its_package_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Events(tmp_path, wanted=False).line({"step": 1, "loss": 2.0})
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UserError, match=r"machine.tensorboard: true.* needs the package tensorboard: .*\[tensorboard\]"
    ):
        Events(tmp_path, wanted=True)


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # written again after an interruption, not twice
        events = Events(tmp_path, wanted=True)
        events.replay([{"step": 1, "loss": 2.0}, look(1, "device", "acquisition", 0.75)])
        events.line({"step": 2, "loss": 1.5})
        events.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(1, 2.0), (2, 1.5)]
    assert [e.value for e in read.Scalars("watch/acquisition/device")] == [0.75]


def test_tiles_are_pictures_of_the_size_said() -> None:
    from pellucid.pretrain.monitor.image_strips import TILE_PX, Tile, as_jpeg

    decoded = simplejpeg.decode_jpeg(Tile(as_jpeg(np.full((32, 32, 3), 90, np.uint8))).jpeg)
    assert decoded.shape == (TILE_PX, TILE_PX, 3)
    assert abs(int(decoded[5, 5, 0]) - 90) <= 2
