"""One extraction: several processes and interruptions give the bytes of one undisturbed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.scan import scan
from pellucid.cohort.study import load_study
from pellucid.embed.extract.plain_folder import embed_folder
from pellucid.embed.extract.stage import embed
from pellucid.embed.store.vectors import load_vectors

ROOT = Path(__file__).parents[3]
TINY = "timm-random:test_vit@64"


# Runs `embed` with every batch slowed down and noted: a line with rank and images a batch.
PROGRAM = """
import os, sys, time
from pathlib import Path
from pellucid.cohort.scan import current_scan
from pellucid.cohort.study import load_study
from pellucid.embed.backbones.backbone import Backbone
from pellucid.embed.extract.stage import embed
from pellucid.embed.extract.in_memory import embed_array
from pellucid.embed.extract.plain_folder import embed_folder, folder_options
from pellucid.embed.backbones.readout import ReadoutConfig

def slow(self, pixels, read=Backbone.read, **how):
    time.sleep(0.05)
    with open(sys.argv[1], "a") as note:
        note.write(f"{os.environ.get('RANK', '0')} {len(pixels)}\\n")
    return read(self, pixels, **how)

Backbone.read = slow
_, _, kind, where, target = sys.argv
if kind == "study":
    study = load_study(Path(where), [f"analysis={target}", "embed.batch_size=2"])
    made = embed(study, current_scan(study), "BACKBONE", device="cpu", progress=False)
    assert made.path.is_dir() and made.record["key"] == made.key
else:
    embed_folder(Path(where), "BACKBONE", Path(target), device="cpu", batch_size=2, progress=False)
""".replace("BACKBONE", TINY)


def assert_same_store(made: Path, expected: Path) -> None:
    for name in ("vectors.npy", "spec.json"):
        assert (made / name).read_bytes() == (expected / name).read_bytes(), name
    assert pd.read_parquet(made / "images.parquet").equals(pd.read_parquet(expected / "images.parquet"))


@pytest.fixture(scope="module")
def undisturbed(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images embedded without haste by one process, as a study and as a folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = load_study(phantom, [f"analysis={folder / 'analysis'}", "embed.batch_size=2"])
    run = embed(study, scan(study, progress=False), TINY, device="cpu", progress=False)
    embed_folder(study.image_root, TINY, folder / "out", device="cpu", batch_size=2, progress=False)
    return {"study": run.path, "folder": folder / "out", "images": study.image_root, "yaml": phantom}


def start(folder: Path, kind: str, undisturbed: dict[str, Path], *before: str) -> subprocess.Popen[bytes]:
    program, target = folder / "program.py", folder / "target"
    program.write_text(PROGRAM, encoding="utf-8")
    where = undisturbed["yaml"]
    if kind == "study":
        scan(load_study(where, [f"analysis={target}"]), progress=False)
    else:
        where = undisturbed["images"]
    command = [sys.executable, *before, str(program), str(folder / "notes"), kind, str(where), str(target)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def result(folder: Path, kind: str) -> Path:
    return next((folder / "target" / "embed").glob("timm*")) if kind == "study" else folder / "target"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["study", "folder"])
def test_two_torchrun_processes_share_the_work_and_give_the_bytes_of_one(
    kind: str, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    torchrun = ("-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert start(tmp_path, kind, undisturbed, *torchrun).wait(900) == 0
    assert_same_store(result(tmp_path, kind), undisturbed[kind])
    notes = [line.split() for line in (tmp_path / "notes").read_text(encoding="utf-8").splitlines()]
    assert {rank for rank, _ in notes} == {"0", "1"}, "both have worked"
    n = len(load_vectors(undisturbed[kind]).values)
    assert sum(int(images) for _, images in notes) == n, "no image twice, none to fill up"
    assert not list((tmp_path / "target").rglob("*.gone"))
    assert not list((tmp_path / "target").rglob("part-*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["study", "folder"])
def test_kill_in_the_middle_then_repeat_gives_the_same_bytes(
    kind: str, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    process = start(tmp_path, kind, undisturbed)
    deadline = time.monotonic() + 900  # a busy machine
    while time.monotonic() < deadline and len(list((tmp_path / "target").rglob("part-*.npz"))) < 2:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = [np.load(path)["vectors"] for path in (tmp_path / "target").rglob("part-*.npz")]
    assert len(done) >= 2
    assert not (tmp_path / "target" / "spec.json").exists(), "it was killed before the end"
    assert not list((tmp_path / "target").glob("embed/timm*"))
    (tmp_path / "notes").unlink()
    assert start(tmp_path, kind, undisturbed).wait(900) == 0
    assert_same_store(result(tmp_path, kind), undisturbed[kind])
    again = [int(line.split()[1]) for line in (tmp_path / "notes").read_text(encoding="utf-8").splitlines()]
    n = len(load_vectors(undisturbed[kind]).values)
    assert sum(again) == n - sum(map(len, done)), "what was done is not done again"
