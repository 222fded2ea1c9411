"""A compiled backbone gives the same vectors; a failed compilation changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pellucid.embed.backbones.backbone import load_backbone
from pellucid.embed.backbones.compilation import compiled

TINY = "timm-random:test_vit@32"


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_vectors() -> None:
    encoder = load_backbone(TINY, "cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    faster = compiled(encoder, 4)
    assert faster is not encoder
    assert np.allclose(faster(pixels), encoder(pixels), atol=1e-4)
    assert np.array_equal(faster.tokens(pixels), encoder.tokens(pixels))
    assert faster.space == encoder.space


def test_what_cannot_be_compiled_is_computed_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> object:
        def run(pixels: object) -> object:
            raise RuntimeError("no working C++ compiler found\nmore")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    encoder = load_backbone(TINY, "cpu")
    assert compiled(encoder, 4) is encoder
    assert (
        "could not be compiled (RuntimeError: no working C++ compiler found); continuing without"
        in capsys.readouterr().err
    )
