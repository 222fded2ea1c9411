"""Extraction: one vector an image, the same bytes after a kill, and no vector for what cannot be read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.pixels import stretch
from pellucid.cohort.images.prepared_images import PreparedImages
from pellucid.cohort.readers import read_image
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.scan import scan
from pellucid.cohort.study import Study, load_study
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.extract import image_sources, job
from pellucid.embed.extract.in_memory import embed_array
from pellucid.embed.extract.plain_folder import embed_folder, folder_options
from pellucid.embed.extract.stage import embed
from pellucid.embed.search.similar_images import search_image
from pellucid.embed.store.catalogue import choose_vectors, masked_vectors, newest_vectors
from pellucid.embed.store.vectors import load_vectors

ROOT = Path(__file__).parents[3]
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
    with pytest.raises(UserError, match=r"no vectors of `pixles`.* available: timm-random:test_vit@64"):
        choose_vectors(study.analysis, run, "pixles")


def test_search_leaves_the_own_patient_out(embedded: tuple[Study, RunFolder, RunFolder]) -> None:
    study, _, made = embedded
    vectors = load_vectors(made.path)
    several = vectors.images.groupby("patient").size()
    patient = several.index[several > 1][0]
    image_id = vectors.images.loc[vectors.images["patient"] == patient, "image_id"].iloc[0]
    hits = search_image(vectors, image_id, 10).hits
    assert len(hits) == 10
    assert patient not in set(hits["patient"])
    assert hits["similarity"].is_monotonic_decreasing
    with_own = search_image(vectors, image_id, 10, same_patient=True).hits
    assert image_id not in set(with_own["image_id"])
    unit = vectors.values / np.linalg.norm(vectors.values, axis=1, keepdims=True)
    row = vectors.images.index[vectors.images["image_id"] == image_id][0]
    order = np.argsort(-(unit @ unit[row]))
    expected = [vectors.images["image_id"][i] for i in order if vectors.images["patient"][i] != patient][:10]
    assert hits["image_id"].tolist() == expected
    by_file = search_image(vectors, str(study.image_root / image_id), 3).hits
    assert by_file["image_id"].iloc[0] == image_id, "the original is nearest to its own prepared copy"
    with pytest.raises(UserError, match="is neither the id of an embedded image nor an existing file"):
        search_image(vectors, "nothing.jpg")


def test_pictures_without_their_text_are_vectors_of_their_own(
    embedded: tuple[Study, RunFolder, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, run, made = embedded
    masked = replace(study, config=study.config.model_copy(update={"embed": {**study.config.embed, "text": "mask"}}))
    seen: list[tuple[int, ...]] = []

    def without_text(pixels: Any) -> Any:
        seen.append(pixels.shape)
        return pixels if len(seen) % 2 else 255 - pixels

    monkeypatch.setattr(image_sources, "without_text", without_text)
    found = embed(masked, run, TINY, progress=False)
    stored, plain = load_vectors(found.path), load_vectors(made.path)
    assert stored.name == f"{plain.name} without text"
    assert (stored.spec["text"], stored.spec["read_from"]) == ("mask", "prepared")
    assert len(seen) == len(stored.images), "nothing was taken over from vectors of pictures with their text"
    same = np.isclose(stored.values, plain.values, atol=1e-3).all(axis=1)
    assert 0.3 < same.mean() < 0.7, "a picture without text has the vector that it had: it is prepared as the scan did"
    assert set(newest_vectors(study.analysis, run)) == {plain.name}
    assert choose_vectors(study.analysis, run).path == made.path
    other = masked_vectors(study.analysis, run, plain)
    assert other is not None
    assert other.path == found.path
    elsewhere = replace(plain, spec={**plain.spec, "pooling": "gem"})
    assert masked_vectors(study.analysis, run, elsewhere) is None, "another reading is another question"


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
    with pytest.raises(UserError, match="contains vectors of another backbone or folder"):
        embed_folder(images, TINY, tmp_path / "out", progress=False)


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


SLOW = pytest.mark.slow


@pytest.mark.parametrize("kind", ["study", pytest.param("folder", marks=SLOW)])
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


@pytest.mark.parametrize("kind", [pytest.param("study", marks=SLOW), "folder"])
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


def test_half_done_vectors_of_another_backbone_are_not_taken_over(
    scanned: tuple[Study, RunFolder], tmp_path: Path
) -> None:
    study, _ = scanned
    fresh, _ = embed_folder(study.image_root, "pixels", tmp_path / "fresh", progress=False)
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "build_index", stop)
        with pytest.raises(Stop):
            embed_folder(study.image_root, TINY, out, progress=False)
    assert list((out / ".parts").glob("part-*.npz"))
    embed_folder(study.image_root, "pixels", out, progress=False)
    assert (out / "vectors.npy").read_bytes() == (fresh / "vectors.npy").read_bytes()
    assert not (out / ".parts").exists()


def test_originals_are_read_where_they_are_asked_for(scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    study, run = scanned
    originals = load_study(study.path, [f"analysis={study.analysis}", "embed.source=originals", "embed.batch_size=8"])
    vectors = load_vectors(embed(originals, run, TINY, device="cpu", progress=False).path)
    prepared = load_vectors(embed(study, run, TINY, device="cpu", progress=False).path)
    assert vectors.images[["image_id", "patient", "split"]].equals(prepared.images[["image_id", "patient", "split"]])
    cosine = (vectors.values * prepared.values).sum(1) / (
        np.linalg.norm(vectors.values, axis=1) * np.linalg.norm(prepared.values, axis=1)
    )
    assert cosine.min() > 0.9
    assert not np.array_equal(vectors.values, prepared.values)
    assert vectors.space == prepared.space


def test_patch_tokens_are_stored_in_the_same_order(scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    study, _ = scanned
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(study.image_root.rglob("*.jpg"))[:5]:
        shutil.copy(path, images)
    embed_folder(images, TINY, tmp_path / "out", tokens=True, batch_size=2, progress=False)
    shutil.copy(next(images.glob("*.jpg")), images / "aaa.jpg")
    embed_folder(images, TINY, tmp_path / "out", tokens=True, batch_size=2, progress=False)
    vectors = load_vectors(tmp_path / "out")
    assert vectors.tokens is not None
    assert vectors.spec["taken_over"] == 6, "the new file is a copy"
    backbone = load_backbone(TINY, "cpu", ReadoutConfig(tokens=True))
    for row, name in enumerate(vectors.images["image_id"]):
        square = stretch(read_image((images / name).read_bytes(), min_side_px=64).pixels, 64)
        assert np.allclose(backbone.tokens(square[None])[0], vectors.tokens[row], atol=2e-2)


def test_arrays_and_paths_in_python(scanned: tuple[Study, RunFolder], tmp_path: Path) -> None:
    study, _ = scanned
    paths = sorted(study.image_root.rglob("*.jpg"))[:5]
    pixels = np.stack([stretch(read_image(path.read_bytes(), min_side_px=64).pixels, 64) for path in paths])
    made = embed_array(pixels, TINY, batch_size=2)
    backbone = load_backbone(TINY, "cpu")
    assert made.shape == (5, backbone.dim)
    assert made.dtype == np.float32
    assert np.allclose(made, backbone(pixels), atol=1e-4)
    assert np.array_equal(embed_array(paths, backbone, batch_size=2), made)
    large = np.repeat(np.repeat(pixels, 2, axis=1), 2, axis=2)
    assert np.array_equal(embed_array(large, backbone, batch_size=2), made), "brought to the backbone's size"
    assert embed_array(pixels[:0], backbone).shape == (0, backbone.dim)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    with pytest.raises(UserError, match=r"2 of 3 files could not be read:(?s:.*)a damaged JPEG(?s:.*)No such file"):
        embed_array([tmp_path / "broken.jpg", paths[0], tmp_path / "gone.jpg"], backbone)
    with pytest.raises(UserError, match=r"expected \(n, height, width, 3\) uint8 RGB, got \(5, 64, 64, 3\) float32"):
        embed_array(pixels.astype(np.float32), backbone)


def test_what_may_be_said_of_a_folder(tmp_path: Path) -> None:
    assert folder_options(["embed.pooling=mean", "embed.index.kind=exact"]) == {
        "pooling": "mean",
        "index": {"kind": "exact"},
    }
    assert folder_options([]) == {}
    with pytest.raises(UserError, match=r"`split`: for a plain folder, only keys of `embed:` are allowed"):
        folder_options(["split.test=0.3"])
    with pytest.raises(UserError, match=r"embed_folder: unknown key `poling`; did you mean `pooling`\?"):
        embed_folder(tmp_path, TINY, tmp_path / "out", **folder_options(["embed.poling=mean"]))
