"""A plain folder: failures, leftovers of another backbone, patch tokens, and options from the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.pixels import stretch
from pellucid.cohort.readers import read_image
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.extract import job
from pellucid.embed.extract.plain_folder import embed_folder, folder_options
from pellucid.embed.store.vectors import load_vectors

ROOT = Path(__file__).parents[3]
TINY = "timm-random:test_vit@64"


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
