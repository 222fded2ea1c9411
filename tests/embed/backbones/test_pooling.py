"""Poolings, layers and views against their formulas, and that an image's vector does not depend on its company."""

from __future__ import annotations

import os

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.backbone import Backbone, load_backbone
from pellucid.embed.backbones.compute_choice import Compute
from pellucid.embed.backbones.network_adapters import pool
from pellucid.embed.backbones.pooling import gem, pool_tokens
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.backbones.view_averaging import refuse_flip, square_px, views

VIT, NORM_AFTER, MAP = "timm-random:test_vit@64", "timm-random:test_vit2", "timm-random:test_convnext"
# Vectors of tokens after a layer norm are of size 1. Float32 rounds by 2⁻²⁴, and sums of some hundred terms by more;
# bfloat16 has 8 bits, 2⁻⁹ a rounding, and a dozen of them come together in the blocks of timm's test networks.
ROUNDING = 0.05 if os.environ["PELLUCID_PRECISION"] == "bfloat16" else 2e-5


def squares(n: int, size_px: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)


def normalised(backbone: Backbone, pixels: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(backbone.mean).view(1, 3, 1, 1)) / torch.tensor(backbone.std).view(1, 3, 1, 1)


def test_formulas() -> None:
    tokens = torch.randn(2, 1 + 4 + 9, 5, generator=torch.Generator().manual_seed(0))  # class token, four registers
    patches = tokens[:, 5:]
    assert torch.equal(pool_tokens(tokens, "cls", 5)[0], tokens[:, 0])
    assert torch.allclose(pool_tokens(tokens, "mean", 5)[0], patches.sum(1) / 9)
    both = pool_tokens(tokens, "cls+mean", 5)
    assert torch.equal(both[0], tokens[:, 0])
    assert torch.allclose(both[1], patches.mean(1))
    assert torch.equal(pool_tokens(tokens, "gem", 5)[0], gem(patches))


@given(st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_generalised_mean(n: int, seed: int) -> None:
    x = torch.randn(1, n, 6, generator=torch.Generator().manual_seed(seed))
    positive = x.abs() + 0.01
    assert torch.allclose(gem(positive), positive.pow(3).mean(1).pow(1 / 3), rtol=1e-4), (
        "the paper's, where it is defined"
    )
    assert torch.allclose(gem(-x), -gem(x), atol=1e-6), "signs turn with the tokens'"
    assert torch.allclose(gem(x[:, torch.randperm(n)]), gem(x), atol=1e-4), "places have no order"
    assert (gem(positive) >= positive.mean(1) - 1e-4).all(), "between the mean …"
    assert (gem(x).abs() <= x.abs().amax(1) + 1e-4).all(), "… and the extreme"
    constant = x[:, :1].expand(1, n, 6)
    assert torch.allclose(gem(constant), x[:, 0], atol=1e-5)


@pytest.mark.number_type
def test_each_pooling_of_a_transformer_is_that_of_its_tokens() -> None:
    pixels = squares(3, 64)
    own = load_backbone(VIT, "cpu")
    assert own.model is not None
    with torch.inference_mode():
        tokens = own.model.forward_features(normalised(own, pixels))  # type: ignore[operator]
    expected = {
        "auto": tokens[:, 0],
        "cls": tokens[:, 0],
        "mean": tokens[:, 1:].mean(1),
        "cls+mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1),
        "gem": gem(tokens[:, 1:]),
    }
    for pooling, vector in expected.items():
        backbone = load_backbone(VIT, "cpu", ReadoutConfig(pooling=pooling))
        assert backbone.dim == vector.shape[1]
        found = torch.from_numpy(backbone(pixels))
        if pooling == "gem":  # the cube root is infinitely steep at zero: its argument is what has the rounding error
            found, vector = found**3, vector**3
        assert torch.allclose(found, vector, atol=ROUNDING * max(1.0, float(vector.abs().max()))), pooling
        assert backbone.fingerprint == own.fingerprint
    assert np.allclose(own.tokens(pixels), tokens[:, 1:].numpy(), atol=ROUNDING)
    assert own.token_grid == (4, 4)


@pytest.mark.parametrize("attention", ["fused", "explicit"])
def test_generalised_mean_is_computed_in_float32_whatever_the_tokens_are(attention: str) -> None:
    """On every CPU: in bfloat16 the tokens are rounded, and what is made of them is not."""
    pixels = squares(3, 64)
    backbone = load_backbone(VIT, "cpu", ReadoutConfig(pooling="gem"), Compute("bfloat16", attention))
    tokens = torch.from_numpy(backbone.tokens(pixels)).double()
    mean = tokens.pow(3).mean(1)
    expected = (mean.sign() * mean.abs().pow(1 / 3)).numpy()
    assert np.allclose(backbone(pixels) ** 3, expected**3, atol=1e-5)
    full = load_backbone(VIT, "cpu", ReadoutConfig(pooling="gem"), Compute("float32"))(pixels)
    assert not np.array_equal(backbone(pixels), full), "it was computed in bfloat16"


def test_what_follows_the_pooling_stays() -> None:
    """Networks with a norm after their pooling: `mean` is what they do themselves, by another way."""
    for name in (NORM_AFTER, MAP):
        own = load_backbone(name, "cpu")
        pixels = squares(2, own.size_px)
        by_mean = load_backbone(name, "cpu", ReadoutConfig(pooling="mean"))
        assert np.allclose(own(pixels), by_mean(pixels), atol=ROUNDING)
        by_gem = load_backbone(name, "cpu", ReadoutConfig(pooling="gem"))
        assert not np.allclose(own(pixels), by_gem(pixels), atol=ROUNDING)
        assert own.tokens(pixels).shape == (2, np.prod(own.token_grid), own.token_width)


def test_last_four_blocks() -> None:
    """Against hooks on the blocks: each pooled output after the final norm, the last block's last."""
    pixels = squares(2, 64)
    backbone = load_backbone(VIT, "cpu", ReadoutConfig(layers="last4", pooling="mean"))
    model, heard = backbone.model, []
    assert model is not None
    hooks = [b.register_forward_hook(lambda _, __, out: heard.append(out)) for b in model.blocks]  # type: ignore[operator, union-attr]
    with torch.inference_mode():
        model.forward_features(normalised(backbone, pixels))  # type: ignore[operator]
        expected = torch.cat([model.norm(h)[:, 1:].mean(1) for h in heard[-4:]], dim=1)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    assert backbone.dim == 4 * 64
    assert np.allclose(backbone(pixels), expected.numpy(), atol=ROUNDING)
    last = load_backbone(VIT, "cpu", ReadoutConfig(pooling="mean"))(pixels)
    assert np.allclose(backbone(pixels)[:, -64:], last, atol=ROUNDING)
    assert load_backbone(VIT, "cpu", ReadoutConfig(layers="last4")).pooling == "cls", (
        "the network's own way, by its name"
    )


def test_dim_is_what_comes_out() -> None:
    """MobileNet widens after its pooling: timm's num_features is not the length of its vectors."""
    backbone = load_backbone("timm-random:mobilenetv3_small_050", "cpu")
    assert backbone.model is not None
    assert backbone(squares(1, backbone.size_px)).shape == (1, backbone.dim)
    assert backbone.dim != backbone.model.num_features


@pytest.mark.parametrize(
    ("name", "readout", "said"),
    [
        (
            MAP,
            ReadoutConfig(pooling="cls"),
            "is not a transformer with a class token: use embed.pooling=mean, gem or auto",
        ),
        (NORM_AFTER, ReadoutConfig(pooling="cls+mean"), "has no class token: use embed.pooling=mean, gem or auto"),
        (
            MAP,
            ReadoutConfig(layers="last4"),
            "is not a transformer whose blocks all have one width: use embed.layers=last instead of last4",
        ),
        ("timm-random:test_vit3", ReadoutConfig(layers="last4"), "learnt for its last block only"),
    ],
)
def test_what_a_network_has_not_is_refused(name: str, readout: ReadoutConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_backbone(name, "cpu", readout)


@pytest.mark.parametrize(
    "readout",
    [
        ReadoutConfig(),
        ReadoutConfig(pooling="gem", average="flip"),
        ReadoutConfig(layers="last4", average="crops"),
        ReadoutConfig(tokens=True),
    ],
)
@pytest.mark.parametrize("name", [VIT, MAP, "pixels"])
def test_a_vector_does_not_depend_on_its_batch(name: str, readout: ReadoutConfig) -> None:
    if name == MAP and readout.layers == "last4":
        readout = ReadoutConfig(average="crops")
    backbone = load_backbone(name, "cpu", readout)
    pixels = squares(5, backbone.size_px)
    together, tokens = backbone.read(pixels)
    alone = np.concatenate([backbone(p[None]) for p in pixels])
    assert together.shape == (5, backbone.dim)
    assert np.allclose(together, alone, atol=ROUNDING)
    assert np.array_equal(backbone(pixels), together), "the same every time"
    assert (tokens is not None) == (readout.tokens and name != "pixels")
    assert backbone(pixels[:0]).shape == (0, backbone.dim) if name == "pixels" else True


def test_mirror_images_have_one_vector_when_flips_are_averaged() -> None:
    pixels = squares(2, 64)
    mirrored = pixels[:, :, ::-1].copy()
    plain, both = load_backbone(VIT, "cpu"), load_backbone(VIT, "cpu", ReadoutConfig(average="flip"))
    assert not np.allclose(plain(pixels), plain(mirrored), atol=1e-3)
    assert np.allclose(both(pixels), both(mirrored), atol=1e-6)
    assert np.allclose(both(pixels), (plain(pixels) + plain(mirrored)) / 2, atol=ROUNDING)
    assert np.allclose(both.tokens(pixels), plain.tokens(pixels), atol=ROUNDING), "tokens are of the image as it is"


def test_crops_are_the_whole_and_its_corners() -> None:
    assert square_px("crops", 224) == 256
    assert square_px("flip", 224) == square_px("none", 224) == 224
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    seen = list(views(image, "crops", 7))
    assert [tuple(v.shape) for v in seen] == [(1, 3, 7, 7)] * 5
    assert [float(v[0, 0, 0, 0]) for v in seen[1:]] == [0, 1, 8, 9]
    assert float(seen[0].mean()) == pytest.approx(31.5, abs=0.1), "the whole is only made smaller"
    backbone, plain = load_backbone(VIT, "cpu", ReadoutConfig(average="crops")), load_backbone(VIT, "cpu")
    pixels = squares(2, 73)
    assert (backbone.size_px, backbone.input_px) == (73, 64)
    corners = [pixels[:, y : y + 64, x : x + 64] for y in (0, 9) for x in (0, 9)]
    four = np.sum([plain(np.ascontiguousarray(c)) for c in corners], axis=0)
    with torch.inference_mode():
        whole = next(views(normalised(backbone, pixels), "crops", 64))
        first = backbone.reader(whole).numpy()
    assert np.allclose(backbone(pixels), (four + first) / 5, atol=ROUNDING)


def test_flips_are_refused_where_sides_are_findings() -> None:
    refuse_flip("dermatology", "flip")
    refuse_flip(None, "flip")
    refuse_flip("fundus", "crops")
    with pytest.raises(
        UserError, match=r"images of the specialty `fundus` must not be mirrored \(the sides of disc and fovea"
    ):
        refuse_flip("fundus", "flip")


def test_pixels_has_no_tokens() -> None:
    with pytest.raises(UserError, match="backbone `pixels` has no patch tokens"):
        load_backbone("pixels").tokens(squares(1, 128))


def test_pool_is_what_a_reader_does() -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    features = torch.randn(2, 101, 64)
    assert torch.equal(pool(model, features, "mean"), features[:, 1:].mean(1))
    assert torch.allclose(pool(model, features, "model"), features[:, 0])
