"""A flipped bit is named by every door, and a killed or moved study goes on as if nothing had been."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pellucid
from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.history import finished_runs, list_runs
from pellucid.cohort.scan import current_scan
from pellucid.cohort.study import load_study
from pellucid.embed.export import choose_study
from pellucid.embed.store.catalogue import choose_vectors
from pellucid.explore.study_findings import gather_newest

pytestmark = pytest.mark.long

FILES = {
    "read": ("images.parquet", "prepared/*.arrow", "rows/*.parquet", "run.json", "config.yaml"),
    "scan": ("manifest.parquet", "source.json", "run.json"),
    "embed": ("vectors.npy", "images.parquet", "spec.json", "index.faiss", "index.json", "run.json"),
}
DOORS: dict[str, Callable[[Path], object]] = {
    "near": lambda folder: pellucid.near_study(folder, backbone="pixels", progress=False),
    "search": lambda folder: pellucid.search_study(folder, "nothing.png", backbone="pixels"),
    "probe": lambda folder: pellucid.probe_study(folder, progress=False),
    "audit": lambda folder: pellucid.audit_study(folder, backbone="pixels", progress=False),
    "report": pellucid.report_study,
    "explorer": lambda folder: gather_newest(load_study(folder)),
    "export": lambda folder: pellucid.export_study(folder, "parquet", folder / "out.parquet", backbone="pixels"),
    "run": lambda folder: pellucid.run_study(folder, device="cpu", say=str, progress=False),
}


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def the_run(analysis: Path, stage: str) -> Path:
    """The newest one: the study was scanned twice."""
    return [run.path for run in finished_runs(analysis, stage) if stage != "embed" or run.name == "pixels"][-1]


@pytest.mark.parametrize(("stage", "file"), [(stage, file) for stage, files in FILES.items() for file in files])
def test_a_flipped_bit_is_named_by_every_door(world: Any, stage: str, file: str) -> None:
    """Whether the command would compute something or say that it is done, it refuses and names the file."""
    folder = world.study.path.parent
    damaged = next(the_run(world.study.analysis, stage).glob(file))
    flip(damaged, random.Random(f"{stage} {file}"))
    for name, door in DOORS.items():
        with pytest.raises(UserError) as refused:
            door(folder)
        assert str(damaged) in str(refused.value), name
        assert "is damaged" in str(refused.value), name
        assert "tidy" in str(refused.value), name


@pytest.mark.parametrize("file", ["backbone.safetensors", "preprocess.json", "MODEL_CARD.md", "run.json"])
def test_damaged_weights_are_named_before_they_are_loaded(world: Any, file: str) -> None:
    folder = world.study.path.parent
    damaged = next((world.study.analysis / "pretrain").glob(f"mae-*/{file}"))
    flip(damaged, random.Random(file))
    for door in (
        lambda: pellucid.embed_study(folder, device="cpu", progress=False),
        lambda: pellucid.search_study(folder, "nothing.png"),
        lambda: pellucid.load_backbone(f"run:{damaged.parent}"),
        lambda: pellucid.report_study(folder),
        lambda: gather_newest(load_study(folder)),
    ):
        with pytest.raises(UserError, match=r"is damaged: SHA256SUMS records") as refused:
            door()
        assert str(damaged) in str(refused.value)


def test_tidy_on_the_command_line(world: Any, pellucid: Any) -> None:
    """The study was scanned twice, and has half runs of processes that were killed."""
    folder = world.study.path.parent
    before = world.tree()
    listed = pellucid("tidy", folder)
    assert listed.returncode == 0
    assert "stale: originals, table or settings have changed" in listed.stdout
    assert "embed/old-00000000.damaged-1 (" in listed.stdout
    assert "nothing has been changed: repeat the command with --yes" in listed.stdout
    assert world.tree() == before
    assert pellucid("tidy", folder, "--yes").returncode == 0
    assert {name for name in before if name.startswith("annotation/")} <= set(world.tree())
    assert {row["state"] for row in list_runs(world.study.analysis)} == {"done", "failed"}, "weights that may go on"
    assert not world.wrong_checksums()
    assert pellucid("tidy", folder).stdout.endswith("nothing to remove\n")


def test_the_command_line_names_it_with_exit_code_2(world: Any, pellucid: Any) -> None:
    folder = world.study.path.parent
    damaged = the_run(world.study.analysis, "embed") / "vectors.npy"
    flip(damaged, random.Random(0))
    done = pellucid("audit", folder, "--backbone", "pixels")
    assert done.returncode == 2
    assert f"{damaged}: is damaged: SHA256SUMS records the sha256 " in done.stderr
    assert f"`pellucid tidy {folder} --damaged --yes`" in done.stderr
    assert f'`pellucid embed {folder} --backbone "pixels"`' in done.stderr
    assert pellucid("tidy", folder, "--damaged", "--yes").returncode == 0
    assert pellucid("embed", folder, "--backbone", "pixels", "--device", "cpu").returncode == 0
    assert "already done" in pellucid("embed", folder, "--backbone", "pixels", "--device", "cpu").stdout


def test_a_moved_study_is_current_and_searchable_by_its_own_backbone(world: Any, tmp_path: Path) -> None:
    """Also for a picture from outside: the backbone is found where the study is now."""
    outside = tmp_path / "outside.jpg"
    shutil.copy(next(path for path in sorted(world.study.image_root.rglob("*.jpg"))), outside)
    before = pellucid.search_study(world.study.path, str(outside)).hits
    states = {row["name"]: row["state"] for row in pellucid.study_status(world.study.path)}
    elsewhere = tmp_path / "another" / "disk" / "study"
    shutil.copytree(world.study.path.parent, elsewhere, copy_function=shutil.copy)
    shutil.rmtree(world.study.path.parent)
    assert "done" in states.values()
    assert {row["name"]: row["state"] for row in pellucid.study_status(elsewhere)} == states
    after = pellucid.search_study(elsewhere, str(outside)).hits
    assert len(after) == len(before) > 0
    assert after["image_id"].tolist() == before["image_id"].tolist()
    study = load_study(elsewhere)
    scanned = current_scan(study)
    assert choose_study(study, scanned, choose_vectors(study.analysis, scanned)).pictures is not None
    assert all(run.path.is_relative_to(elsewhere) for run in finished_runs(study.analysis))
