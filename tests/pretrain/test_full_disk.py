"""A disk that fills up at any point of a training: a sentence, nothing lost, and the repeated command ends as if
undisturbed."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import pellucid.pretrain.engine.loop
import pellucid.pretrain.stage
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.checksums import verify
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study
from pellucid.pretrain.stage import pretrain as run_pretrain

Cohort = Callable[..., tuple[Study, RunFolder]]
Tiny = dict[str, dict[str, Any]]


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """limit_files(n): from here on no file of this process may grow beyond n bytes, as under a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def results(run: RunFolder) -> tuple[bytes, bytes]:
    return (run.path / "metrics.jsonl").read_bytes(), (run.path / "backbone.safetensors").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(
    ("full_at", "size", "said"),
    [
        pytest.param(
            5,
            600,
            r"metrics\.jsonl: cannot be written .* Free disk space and rerun the command",
            marks=pytest.mark.slow,
        ),
        (
            5,
            1_000_000,
            r"step-00000008\.pt: the checkpoint cannot be written .*newest complete checkpoint is step-00000004\.pt",
        ),
        pytest.param(
            "export",
            50_000,
            r"the backbone cannot be written .* the training is complete and saved in the last checkpoint",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_says_so_and_continues_to_the_same_bytes(
    cohort: Cohort,
    tiny: Tiny,
    limit_files: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    full_at: int | str,
    size: int,
    said: str,
) -> None:
    expected = results(run_pretrain(*cohort(tiny["dino"], "undisturbed"), device="cpu", progress=False))
    study, scan = cohort(tiny["dino"], "full")
    scheduled, export = pellucid.pretrain.engine.loop.scheduled, pellucid.pretrain.stage.export_backbone

    def fill(recipe: Any, step: int, steps: int) -> tuple[float, float]:
        if step == full_at:
            limit_files(size)
        return scheduled(recipe, step, steps)

    def fill_before(*arguments: Any) -> None:
        if full_at == "export":
            limit_files(size)
        export(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pellucid.pretrain.engine.loop, "scheduled", fill)
        patch.setattr(pellucid.pretrain.stage, "export_backbone", fill_before)
        with pytest.raises(UserError, match=said):
            run_pretrain(study, scan, device="cpu", progress=False)
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert not list((study.analysis / "pretrain").glob("[!.]*"))  # nothing there that looks finished
    # No generator's state is saved, because none matters.
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    run = run_pretrain(study, scan, device="cpu", progress=False)
    assert results(run) == expected
    assert verify(run.path) == []
