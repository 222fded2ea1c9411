"""Extraction: one vector an image, the same bytes after a kill, and no vector for what cannot be read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort.errors import UserError
from cohort.prepared import PreparedImages
from cohort.runs import RunFolder
from cohort.scan import scan
from cohort.study import Study, load_study
from embed.backbone import load_backbone
from embed.extract import embed, embed_folder
from embed.search import search_like
from embed.stored import choose_vectors, newest_vectors
from embed.vectors import load_vectors

ROOT = Path(__file__).parents[2]
TINY = "timm-random:test_vit@64"


@pytest.fixture(scope="module")
def embedded(scanned: tuple[Study, RunFolder]) -> tuple[Study, RunFolder, RunFolder]:
    study, run = scanned
    return study, run, embed(study, run, TINY, device="cpu", progress=False)


def test_each_usable_image_has_its_own_vector(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    _, run, made = embedded
    vectors = load_vectors(made.path)
    manifest = pd.read_parquet(run.path / "manifest.parquet").set_index("image_id")
    assert set(vectors.images["image_id"]) == set(manifest.index[manifest["status"] == "ok"])
    assert (
        vectors.images["patient"].to_numpy() == manifest.loc[vectors.images["image_id"], "patient"].to_numpy()
    ).all()
    backbone, prepared = load_backbone(TINY, "cpu"), PreparedImages.open(run.path)
    for i in (0, 17, len(vectors.images) - 1):
        alone = backbone(prepared.square(i, 64)[None])[0]
        assert prepared.image_ids[i] == vectors.images["image_id"][i]
        assert np.allclose(vectors.values[i], alone, atol=1e-4)


def test_repeating_says_done_and_newest_is_found(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, run, made = embedded
    assert embed(study, run, TINY, device="cpu", progress=False).done
    assert newest_vectors(study.analysis, run)[TINY].path == made.path
    assert choose_vectors(study.analysis, run).path == made.path
    with pytest.raises(UserError, match=r"no vectors of `pixles`.* there are: timm-random:test_vit@64"):
        choose_vectors(study.analysis, run, "pixles")


def test_search_leaves_the_own_patient_out(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, _, made = embedded
    vectors = load_vectors(made.path)
    several = vectors.images.groupby("patient").size()
    patient = several.index[several > 1][0]
    image_id = vectors.images.loc[vectors.images["patient"] == patient, "image_id"].iloc[0]
    hits = search_like(vectors, image_id, 10)
    assert len(hits) == 10
    assert patient not in set(hits["patient"])
    assert hits["similarity"].is_monotonic_decreasing
    with_own = search_like(vectors, image_id, 10, same_patient=True)
    assert image_id not in set(with_own["image_id"])
    unit = vectors.values / np.linalg.norm(vectors.values, axis=1, keepdims=True)
    row = vectors.images.index[vectors.images["image_id"] == image_id][0]
    order = np.argsort(-(unit @ unit[row]))
    expected = [vectors.images["image_id"][i] for i in order if vectors.images["patient"][i] != patient][:10]
    assert hits["image_id"].tolist() == expected
    by_file = search_like(vectors, str(study.image_root / image_id), 3)
    assert by_file["image_id"].iloc[0] == image_id, "the original is nearest to its own prepared copy"
    with pytest.raises(UserError, match="is neither an image of the store nor a file"):
        search_like(vectors, "nothing.jpg")


def test_folder_without_a_study(scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    study, _ = scanned
    images = tmp_path / "images"
    shutil.copytree(study.image_root, images)
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    out, failed = embed_folder(images, "pixels", tmp_path / "out", progress=False)
    assert ("broken.jpg", "a damaged JPEG: the header cannot be read") in failed
    vectors = load_vectors(out)
    assert "broken.jpg" not in set(vectors.images["image_id"])
    assert vectors.images["patient"].equals(vectors.images["image_id"])
    assert not (np.abs(vectors.values).sum(axis=1) == 0).any(), "never a zero vector"
    before = (out / "vectors.npy").stat().st_mtime_ns
    assert embed_folder(images, "pixels", tmp_path / "out", progress=False) == (out, failed)
    assert (out / "vectors.npy").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds vectors of another backbone or folder"):
        embed_folder(images, TINY, tmp_path / "out", progress=False)


def test_kill_in_the_middle_then_repeat_gives_the_same_bytes(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = load_study(phantom, [f"analysis={tmp_path / 'calm'}"])
    undisturbed = embed(calm, scan(calm, progress=False), TINY, device="cpu", progress=False)
    monkeypatch.setattr("embed.extract.CHUNK_IMAGES", 512)
    killed = tmp_path / "killed"
    study = load_study(phantom, [f"analysis={killed}"])
    scan(study, progress=False)
    program = (
        "import sys, time, embed.extract as e\n"
        "from pathlib import Path\n"
        "from cohort.study import load_study\n"
        "from cohort.scan import current_scan\n"
        "e.CHUNK_IMAGES = 8\n"
        "slow = e._embed_rows\n"
        "e._embed_rows = lambda *a: (time.sleep(0.2), slow(*a))[1]\n"
        f"s = load_study(Path({str(phantom)!r}), ['analysis={killed}'])\n"
        f"e.embed(s, current_scan(s), {TINY!r}, device='cpu', progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list((killed / "embed").glob(".*.partial/parts/part-*.npz"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list((killed / "embed").glob(".*.partial/parts/part-*.npz"))
    assert not list((killed / "embed").glob("timm*")), "it was killed before the end"
    monkeypatch.setattr("embed.extract.CHUNK_IMAGES", 8)
    again = embed(study, scan(study, progress=False), TINY, device="cpu", progress=False)
    first, second = load_vectors(undisturbed.path), load_vectors(again.path)
    assert first.images.equals(second.images)
    assert np.allclose(first.values, second.values, atol=1e-5), "another chunk size, another batch"
    calm_8 = tmp_path / "calm8"
    same = load_study(phantom, [f"analysis={calm_8}"])
    whole = embed(same, scan(same, progress=False), TINY, device="cpu", progress=False)
    for name in ("vectors.npy", "images.parquet", "index.faiss", "spec.json"):
        assert (whole.path / name).read_bytes() == (again.path / name).read_bytes(), name


def test_half_done_vectors_of_another_backbone_are_not_taken_over(
    scanned: tuple[Study, RunFolder], tmp_path: Path
) -> None:
    study, _ = scanned
    fresh, _ = embed_folder(study.image_root, "timm-random:test_vit@96", tmp_path / "fresh", progress=False)
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embed.extract.build_index", stop)
        with pytest.raises(Stop):
            embed_folder(study.image_root, TINY, out, progress=False)
    assert list((out / "parts").glob("part-*.npz"))
    embed_folder(study.image_root, "timm-random:test_vit@96", out, progress=False)
    assert (out / "vectors.npy").read_bytes() == (fresh / "vectors.npy").read_bytes()
