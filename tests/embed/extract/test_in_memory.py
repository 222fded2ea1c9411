"""Vectors of arrays and image files in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid.cohort.errors import UserError
from pellucid.cohort.images.pixels import stretch
from pellucid.cohort.readers import read_image
from pellucid.cohort.runs.folder import RunFolder
from pellucid.cohort.study import Study
from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.extract.in_memory import embed_array

ROOT = Path(__file__).parents[3]
TINY = "timm-random:test_vit@64"


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
