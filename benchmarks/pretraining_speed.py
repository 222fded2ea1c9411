"""Pretraining speed, compared in one run with lightly's documented example (PIL transforms in workers) and the
hardware's limit.

    python -m benchmarks.pretraining_speed [--method dino mae] [--backbone vit_tiny_patch16_224] [--batch 32] [--rounds
    3]

Both train the same network on the same 640 × 480 JPEGs of a phantom cohort: DINO with 2 × 224 and 6 × 96 px, MAE at 224
px. Ours is the whole of `pellucid pretrain`, from prepared images to metrics and checkpoint; lightly's is the loop of
its documentation without logging. Both may use all cores. Rounds alternate. Prints medians, the parts of our step, the
floating-point operations of a step, and their rate as a share of the device's measured rate of matrix products.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightly
import timm
import torch
from lightly.loss import DINOLoss
from lightly.models.modules import (
    DINOProjectionHead,
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
)
from lightly.models.utils import get_at_index, patchify, random_token_mask, update_momentum
from lightly.transforms import DINOTransform, MAETransform
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.photographs import Photographs
from pellucid.cohort.phantom.population import PhantomConfig, write_phantom
from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study
from pellucid.embed.backbones.compute_choice import Compute, Hardware
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.engine.step_timer import PARTS
from pellucid.pretrain.engine.training_compute import COMPUTE
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe
from pellucid.pretrain.stage import pretrain


class LightlyDino(nn.Module):
    """DINO as in lightly's documentation, with a timm backbone."""

    def __init__(self, backbone: str, dim: int) -> None:
        super().__init__()
        self.student = nn.Sequential(_vit(backbone), DINOProjectionHead(dim, 2048, 256, 65536))
        self.teacher = nn.Sequential(_vit(backbone), DINOProjectionHead(dim, 2048, 256, 65536))
        self.teacher.requires_grad_(False)
        self.criterion = DINOLoss(output_dim=65536)

    def forward(self, views: list[Tensor]) -> Tensor:
        update_momentum(self.student, self.teacher, m=0.996)
        with torch.no_grad():
            teacher_out = [self.teacher(view) for view in views[:2]]
        student_out = [self.student(view) for view in views]
        loss: Tensor = self.criterion([t.float() for t in teacher_out], [s.float() for s in student_out])
        return loss


class LightlyMae(nn.Module):
    """MAE as in lightly's documentation, with the decoder that our recipe has."""

    def __init__(self, backbone: str, width: int, depth: int, heads: int) -> None:
        super().__init__()
        vit = timm.create_model(backbone, num_classes=0)
        self.patch = int(vit.patch_embed.patch_size[0])
        self.backbone = MaskedVisionTransformerTIMM(vit)
        n = int(vit.patch_embed.num_patches)
        self.n_tokens = n + 1
        self.embed = nn.Linear(vit.embed_dim, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(n, width, depth, heads)
        self.predict = nn.Linear(width, 3 * self.patch**2)
        self.criterion = nn.MSELoss()

    def forward(self, views: list[Tensor]) -> Tensor:
        images = views[0]
        keep, mask = random_token_mask((len(images), self.n_tokens), mask_ratio=0.75, device=images.device)
        encoded = self.embed(self.backbone.encode(images, idx_keep=keep))
        full = self.decoder.mask_token.repeat(len(images), self.n_tokens, 1).type_as(encoded)
        full = full.scatter(1, keep[:, :, None].expand(-1, -1, encoded.shape[2]), encoded)
        predicted = get_at_index(self.predict(self.decoder(full)), mask)
        target = get_at_index(patchify(images, self.patch), mask - 1)
        loss: Tensor = self.criterion(predicted.float(), target)
        return loss


def _vit(name: str) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    return model


def lightly_rate(
    method: str,
    backbone: str,
    paths: list[Path],
    batch: int,
    steps: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> float:
    """Images per second of lightly's form, after two steps of warming up."""
    recipe = load_recipe(section(method, backbone, batch, steps))[1]
    model: nn.Module
    if method == "dino":
        model = LightlyDino(backbone, timm.create_model(backbone, num_classes=0).num_features)
    else:
        model = LightlyMae(backbone, recipe.mae.decoder_dim, recipe.mae.decoder_depth, recipe.mae.decoder_heads)
    model.to(device)
    transform = (
        DINOTransform() if method == "dino" else MAETransform(normalize={"mean": recipe.mean, "std": recipe.std})
    )
    repeated = (paths * (1 + (steps + 2) * batch // len(paths)))[: (steps + 2) * batch]
    loader: DataLoader[Any] = DataLoader(
        Photographs(repeated, transform), batch, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    began = time.perf_counter()
    for step, views in enumerate(loader):
        if step == 2:
            _synchronize(device)
            began = time.perf_counter()
        views = [view.to(device, non_blocking=True) for view in views]
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    _synchronize(device)
    return batch * steps / (time.perf_counter() - began)


def section(method: str, backbone: str, batch: int, steps: int) -> dict[str, Any]:
    """The `pretrain:` section of our side."""
    views = {"views": {"local": {"count": 6, "size_px": 96}}} if method == "dino" else {}
    return {
        "recipe": f"{method}-vits16",
        "backbone": backbone,
        "batch_size": batch,
        "images_seen": batch * steps,
        "epochs": None,
        "log_every": 1,  # each step is timed
        "watch": {"every": 0},
        "machine": {"checkpoint_every": 10**9, "cache_gb": 8.0},
        **views,
    }


def our_rate(
    study: Path, wanted: dict[str, Any], seed: int, device: str, steps: int
) -> tuple[float, dict[str, float], Compute]:
    """Images per second and median seconds of each part, over the second half of the steps; and what was chosen."""
    made = load_study(study, [f"pretrain={json.dumps({**wanted, 'seed': seed})}"])
    run = pretrain(made, scan(made, progress=False), device=device, progress=False)
    lines = [json.loads(line) for line in (run.path / "timings.jsonl").read_text(encoding="utf-8").splitlines()]
    late = lines[len(lines) // 2 :]
    parts = {part: statistics.median(line[f"{part}_s"] for line in late) for part in PARTS}
    chosen = Compute.from_record(json.loads((run.path / COMPUTE).read_text(encoding="utf-8")))
    return wanted["batch_size"] / statistics.fmean(line["step_s"] for line in late), parts, chosen


def flops_per_image(wanted: dict[str, Any], device: torch.device) -> float:
    """Floating-point operations of matrix products, forward and backward, for one image."""
    recipe = load_recipe({**wanted, "batch_size": 4})[1]
    method = build_method(recipe, 10).to(device)
    pixels = torch.zeros((4, recipe.source_px, recipe.source_px, 3), dtype=torch.uint8, device=device)
    views = method.views(pixels, Draw(0, 0, 4, slice(0, 4), device))
    with FlopCounterMode(display=False) as counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method(views, 0).loss.backward()
    return counter.get_total_flops() / 4


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large matrix product: what no network can exceed."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(8):
        _synchronize(device)
        began = time.perf_counter()
        a @ b
        _synchronize(device)
        rates.append(2 * n**3 / (time.perf_counter() - began))
    return max(rates)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="*", default=["dino", "mae"], choices=["dino", "mae"])
    parser.add_argument("--backbone", default="vit_tiny_patch16_224", help="vit_small_patch16_224 on a GPU")
    parser.add_argument("--batch", type=int, default=32, help="images; 256 or more on a GPU")
    parser.add_argument("--steps", type=int, default=8, help="steps of each round; 60 on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=256, help="files of the cohort, at least a batch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("overrides", nargs="*", help="pretrain keys of ours, for example machine.compile=off")
    arguments = parser.parse_args()
    name = arguments.device if arguments.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    hardware = Hardware.from_device(device)
    types = [torch.float32, *([getattr(torch, hardware.half)] if hardware.half else [])]
    limits = {dtype: matmul_rate(device, dtype) for dtype in types}
    rates = ", ".join(f"{str(dtype).removeprefix('torch.')} {limit / 1e12:.2f}" for dtype, limit in limits.items())
    print(
        f"{hardware.name}, {os.cpu_count()} cores, torch {torch.__version__}, lightly {lightly.__version__}, "
        f"matrix products {rates} TFLOP/s, load {os.getloadavg()[0]:.1f}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        study = Path(temporary) / "study"
        cohort = PhantomConfig(
            patients=arguments.images, images_per_patient=(1, 1), width_px=640, height_px=480, unreadable=0
        )
        write_phantom(study, cohort)
        paths = sorted(p for p in (study / "images").rglob("*") if p.suffix == ".jpg")
        scan(load_study(study), progress=False)
        print(
            "| method | lightly's form | with autocast | ours | ratio | "
            + " | ".join(PARTS)
            + " | GFLOP/image | of the limit |"
        )
        print("|---" * (8 + len(PARTS)) + "|", flush=True)
        for method in arguments.method:
            wanted = section(method, arguments.backbone, arguments.batch, arguments.steps)
            for override in arguments.overrides:
                key, _, value = override.partition("=")
                wanted.setdefault(key.split(".")[0], {})
                place = wanted
                *path, last = key.split(".")
                for step in path:
                    place = place.setdefault(step, {})
                place[last] = json.loads(value) if value[:1] in "0123456789tfn[{" else value
            theirs, cast, ours, parts = [], [], [], []
            for round_ in range(arguments.rounds):
                rate, split, chosen = our_rate(study, wanted, round_, name, arguments.steps)
                ours.append(rate)
                parts.append(split)
                call = (method, arguments.backbone, paths, arguments.batch, arguments.steps, device)
                theirs.append(lightly_rate(*call, None))
                if hardware.half:
                    cast.append(lightly_rate(*call, types[-1]))
            median = {part: statistics.median(split[part] for split in parts) for part in PARTS}
            whole = sum(median.values())
            flops = flops_per_image(wanted, device)
            mine, other = statistics.median(ours), statistics.median(theirs)
            limit = limits[chosen.dtype]
            shares = " | ".join(f"{100 * median[part] / whole:.1f} %" for part in PARTS)
            print(
                f"| {method} | {other:.1f}/s | {f'{statistics.median(cast):.1f}/s' if cast else '–'} | {mine:.1f}/s | "
                f"{mine / other:.2f} | {shares} | {flops / 1e9:.1f} | {100 * mine * flops / limit:.0f} % |",
                flush=True,
            )
            print(f"\n{method}: chosen {chosen.sentence()}\n", flush=True)


if __name__ == "__main__":
    main()
