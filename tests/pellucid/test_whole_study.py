"""From images to report, on a phantom whose truth is known and on real clinical images."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import simplejpeg

from pellucid.cohort.images import PreparedImages
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.explore.thumbnails import letterbox

ROOT = Path(__file__).parents[2]
SHORT = "pretrain.images_seen=320"
TINY = (
    "pretrain.backbone=test_vit",
    "pretrain.img_size=32",
    "pretrain.source_px=40",
    "pretrain.batch_size=16",
    "pretrain.images_seen=640",
)  # of the small phantom, seconds to train


def newest(analysis: Path, stage: str, name: str) -> Any:
    return json.loads(next((analysis / stage).glob(f"*/{name}")).read_text(encoding="utf-8"))


def text_of(report: Path) -> str:
    """What a person reads: no scripts, no tags."""
    page = re.sub(r"(?s)<(script|style).*?</\1>", " ", report.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def pictures_in(page: Path) -> list[np.ndarray[Any, Any]]:
    """Every picture that a page holds, decoded."""
    found = re.findall(r'<img[^>]+src="data:image/jpeg;base64,([^"]+)"', page.read_text(encoding="utf-8"))
    return [simplejpeg.decode_jpeg(base64.b64decode(text)) for text in found]


def no_marked_image_is_shown(analysis: Path) -> None:
    """Compare each picture of report and training page with each image that shows signs of text."""
    scan = next((analysis / "scan").glob("*/manifest.parquet")).parent
    manifest = pd.read_parquet(scan / "manifest.parquet")
    marked = manifest[(manifest["status"] == "ok") & manifest["text_like"].eq(True)]["image_id"].tolist()
    assert marked
    prepared = PreparedImages.open(scan, marked)
    pages = [next((analysis / "report").glob("*/report.html")), next((analysis / "pretrain").glob("*/training.html"))]
    for page in pages:
        pictures = pictures_in(page)
        assert len(pictures) >= 10
        side = pictures[0].shape[0]
        for i in range(len(marked)):
            for own in (letterbox(prepared.decode(i, side), side), prepared.square(i, side)):
                least = min(np.abs(own.astype(int) - shown).mean() for shown in pictures if shown.shape == own.shape)
                assert least > 2, f"{page.name} shows {marked[i]}"  # the same image differs by its JPEG coding only


@pytest.mark.slow
def test_demo_names_the_planted_confounder_and_acquits_the_harmless(pellucid_process, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = pellucid_process("demo", tmp_path / "demo", SHORT, timeout_s=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "The report: " in done.stdout
    assert "pellucid explore" in done.stdout
    analysis = tmp_path / "demo" / "analysis"
    source = newest(analysis, "scan", "source.json")
    assert source["n_images"] >= 400
    assert source["n_unreadable"] > 0
    truth = json.loads((tmp_path / "demo" / "truth.json").read_text(encoding="utf-8"))["acquisition"]
    audit = newest(analysis, "audit", "audit.json")
    accused = {pair["acquisition"] for pair in audit["accused"]}
    assert accused == {name for name, said in truth.items() if said["confounded"]} == {"device"}
    assert {"diagnosis"} <= {pair["clinical"] for pair in audit["accused"]}
    report = next((analysis / "report").glob("*/report.html"))
    said = text_of(report)
    assert "Possible confounding: device is associated with diagnosis" in said
    harmless = re.search(r"No evidence of confounding: ([^.]*)\.", said)
    assert harmless is not None
    assert "operator" in harmless.group(1)
    no_marked_image_is_shown(analysis)
    again = pellucid_process("demo", tmp_path / "demo", SHORT)
    assert again.returncode == 0
    assert again.stdout.count("already done") >= 8
    states = json.loads(pellucid_process("status", tmp_path / "demo", SHORT, "--json").stdout)["runs"]
    assert {row["state"] for row in states} == {"done"}
    assert {row["stage"] for row in states} == {
        "read",
        "scan",
        "pretrain",
        "embed",
        "near",
        "cluster",
        "probe",
        "audit",
        "report",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["busbra", "pad_ufes", "ct_tcga"])
def test_run_on_real_images(pellucid_process, shared_data: Path, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    analysis = tmp_path / "analysis"
    further = str(name == "busbra").lower()  # once is enough
    options = [f"analysis={analysis}", SHORT, "audit.permutations=199", f"audit.further={further}"]
    environment = {"PELLUCID_DATA": str(shared_data)}
    done = pellucid_process("run", ROOT / "configs" / "study" / name, *options, env=environment, timeout_s=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    source = newest(analysis, "scan", "source.json")
    backbones = newest(analysis, "probe", "probes.json")["backbones"]
    assert {b.partition(":")[0] for b in backbones} == {"pixels", "timm-random", "run"}
    said = text_of(next((analysis / "report").glob("*/report.html")))
    if name == "busbra":
        assert (source["n_images"], source["n_patients"]) == (1875, 1064)
        assert source["factors"][0]["patients_with_two_levels"] == 0
        assert source["burned_in"]["share"] > 0.3
        for name_of, rows in backbones.items():
            scores = {row["name"]: row for row in rows["variables"]}
            assert scores["device_model"]["score"] >= (0.9 if name_of.startswith("timm-random") else 0.95)
            assert scores["device_model"]["logistic"]["score"] >= 0.9
            assert scores["pathology"]["ci_low"] < scores["pathology"]["score"] < scores["pathology"]["ci_high"]
        assert "device model: no patient was imaged at two levels" in said.replace("device_model", "device model")
        assert "burned into about" in said
        audit = newest(analysis, "audit", "audit.json")
        pair = next(p for p in audit["pairs"] if (p["clinical"], p["acquisition"]) == ("pathology", "device_model"))
        assert pair["patients_with_several_levels"] == 0
        assert "No patient has images of two levels of device_model" in pair["note"]
        assert len(pair["transfer"]["levels"]) >= 2
        assert pair["transfer"]["ci_low"] < pair["transfer"]["drop"] < pair["transfer"]["ci_high"]
        assert pair["neighbours"]["robustness_index"] < 1
        masked = {row["name"]: row for row in audit["text_masked"]["variables"]}
        assert audit["text_masked"]["n_marked"] > 0.3 * audit["text_masked"]["n_images"]
        assert masked["device_model"]["ci_low"] < masked["device_model"]["change"] < masked["device_model"]["ci_high"]
        assert "painted over" in said
    elif name == "pad_ufes":
        assert (source["n_images"], source["n_patients"]) == (839, 646)
        assert any(gap["variable"] == "sex" and gap["n_images"] == 311 for gap in source["missing"])
        assert "sex: missing for 311 of 839 images" in said
    else:
        assert (source["n_images"], source["n_patients"]) == (100, 54)
        assert "byte-identical" in said
        few = [row for row in backbones["pixels"]["variables"] if row["name"] == "tcga_site_code"]
        assert few[0]["score"] is None
        assert "too few patients" in few[0]["note"].lower()
    for leaked in ("case_0001", "PAT_1006", "TCGA-17", str(shared_data)):
        assert leaked not in said


@pytest.mark.slow
def test_kill_pretrain_then_run_gives_the_report_of_an_undisturbed_one(pellucid_process, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """kill -9 in the middle of pretraining, then the same command: the same audit, byte for byte."""
    folder = tmp_path / "study"
    write_phantom(folder, PhantomConfig(patients=40, width_px=128, height_px=96))
    options = [
        *TINY,
        "pretrain.machine.checkpoint_every=2",
        "audit.permutations=99",
        "audit.bootstrap=100",
        "audit.further=false",
    ]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    done = pellucid_process("run", folder, *options, f"analysis={calm}", timeout_s=900)
    assert done.returncode == 0, done.stderr[-2000:]
    command = [sys.executable, "-m", "pellucid", "run", str(folder), *options, f"analysis={killed}"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list(killed.glob("pretrain/.*.partial/checkpoints/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(killed.glob("pretrain/.*.partial/checkpoints/*")), "it had saved"
    assert not list(killed.glob("pretrain/[!.]*")), "it had not finished"
    done = pellucid_process("run", folder, *options, f"analysis={killed}", timeout_s=900)
    assert done.returncode == 0, done.stderr[-2000:]
    for pattern in (
        "pretrain/lejepa*/metrics.jsonl",
        "pretrain/lejepa*/backbone.safetensors",
        "embed/run*/vectors.npy",
        "audit/run*/audit.json",
    ):
        first, second = next(calm.glob(pattern)), next(killed.glob(pattern))
        assert first.read_bytes() == second.read_bytes(), pattern
