"""Two gloo processes share a batch and get the loss, the gradient and the update of the one that had it whole."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.distributed.sync_batch_norm import share_batch_norm
from pellucid.pretrain.methods.method_table import build_method
from pellucid.pretrain.recipe import load_recipe

BATCH, STEP = 8, 2
CONVOLUTIONAL = {"backbone": "test_resnet", "img_size": 64, "views": {"local": {"count": 1, "size_px": 32}}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("mae", {}),
    "dino": ("dino", {}),
    "dino, balanced": ("dino", {"dino": {"centering": "sinkhorn_knopp"}}),
    "dino, batch norm": ("dino", CONVOLUTIONAL),
    "dinov2": ("dinov2", {"img_size": 64}),
    "dinov2, balanced": ("dinov2", {"img_size": 64, "dinov2": {"centering": "sinkhorn_knopp"}}),
    "lejepa": ("lejepa", {}),
    "lejepa, batch norm": ("lejepa", CONVOLUTIONAL),
}


def one_step(section: dict[str, Any], rank: int, world: int) -> dict[str, torch.Tensor]:
    """Everything that one step changes or tells, by name."""
    recipe = load_recipe(section)[1]
    method = build_method(recipe, 10)
    model: torch.nn.Module = method
    if world > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a new name for broadcast_buffers, in a version to come
            model = DistributedDataParallel(method, broadcast_buffers=False)
    rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    side = recipe.img_size + 8
    images = torch.randint(
        0, 256, (BATCH, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    outcome = model(method.views(images[rows], Draw(0, STEP, BATCH, rows, torch.device("cpu"))), STEP)
    outcome.loss.backward()
    told = {"loss": outcome.loss.detach(), **{f"term {name}": value for name, value in outcome.terms.items()}}
    if world > 1:
        for value in told.values():
            dist.all_reduce(value)
            value /= world
    gradients = {f"gradient {n}": p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    method.after_update(STEP)
    state = {f"state {name}": value.clone() for name, value in method.state_dict().items()}
    return {**told, **gradients, **state}


@pytest.mark.long
def test_two_processes_are_one(tiny: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    sections = {case: merged(tiny[method], changes) for case, (method, changes) in CASES.items()}
    (tmp_path / "sections.json").write_text(json.dumps(sections), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), env.get("PYTHONPATH", "")])
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path)], env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    for child in children:
        _, error = child.communicate(timeout=300)
        assert child.returncode == 0, error.decode()
    shared = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case, section in sections.items():
        alone = one_step(section, 0, 1)
        for rank in range(2):
            theirs = shared[rank][case]
            assert alone.keys() == theirs.keys()
            for name, value in alone.items():
                torch.testing.assert_close(
                    theirs[name], value, rtol=2e-3, atol=2e-5, msg=lambda text, c=case, n=name: f"{c}: {n}: {text}"
                )
        ours, theirs = shared[0][case], shared[1][case]
        for name, value in ours.items():  # nothing that one process learnt alone
            assert torch.equal(value, theirs[name]), (case, name)


def merged(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(section)
    for key, value in changes.items():
        out[key] = {**out.get(key, {}), **value} if isinstance(value, dict) else value
    return out


def test_with_one_process_batch_norm_is_left_as_it_is() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    share_batch_norm(network)
    assert type(network[0]) is torch.nn.BatchNorm2d


@pytest.mark.gpu
def test_a_step_on_the_gpu_gives_what_the_cpu_gives(tiny: dict[str, dict[str, Any]]) -> None:
    for case, (name, changes) in CASES.items():
        recipe = load_recipe(merged(tiny[name], changes))[1]
        images = torch.randint(
            0, 256, (BATCH, 72, 72, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        losses = []
        for device in (torch.device("cpu"), torch.device("cuda")):
            method = build_method(recipe, 10).to(device)
            views = method.views(images.to(device), Draw(0, STEP, BATCH, slice(0, BATCH), device))
            outcome = method(views, STEP)
            outcome.loss.backward()
            method.after_update(STEP)
            losses.append(outcome.loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-2), case


if __name__ == "__main__":  # one of the two processes
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    asked = json.loads((folder / "sections.json").read_text(encoding="utf-8"))
    torch.save({case: one_step(section, rank, 2) for case, section in asked.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()
