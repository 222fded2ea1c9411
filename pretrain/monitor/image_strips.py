"""Images for the training page: augmented views, reconstructions or attention maps, and nearest neighbours.

All images are from the monitored sample and are labelled by research id. Shapes: m images, v side of a view.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.cohort.images import Pixels, encode
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.augment.views import random_mask
from pellucid.pretrain.methods.mae import Mae, gather_tokens, patchify
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.monitor.attention_maps import class_attention
from pellucid.pretrain.monitor.knn_readout import nearest
from pellucid.pretrain.monitor.watch import Watch
from pellucid.pretrain.recipe import Recipe

TILE_PX = 112
_IMAGES, _QUERIES, _NEIGHBOURS, _VIEWS, _FEW, _HEADS = 4, 5, 5, 10, 5, 3


@dataclass(frozen=True)
class Tile:
    """One small image and its caption."""

    jpeg: bytes
    caption: str = ""

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


@dataclass(frozen=True)
class Strip:
    """Rows of images with a heading."""

    title: str
    say: str
    columns: Sequence[str]  # column headings
    rows: Sequence[Sequence[Tile]] = field(default_factory=list)


@torch.no_grad()
def strips(method: Method, recipe: Recipe, watch: Watch, vectors: NDArray[np.float32]) -> list[Strip]:
    """All strips for this method; it must be in eval mode, and is not changed.

    Args:
        vectors: (n, d) vectors of the monitored images from the current backbone.
    """
    chosen = _spread(watch, _IMAGES)
    if len(chosen) < 2:  # nearly all have burned-in text
        return []
    device = next(method.parameters()).device
    source = torch.from_numpy(np.stack([watch.images.square(i, recipe.source_px) for i in chosen])).to(device)
    whole = torch.from_numpy(np.stack([watch.images.square(i, recipe.img_size) for i in chosen])).to(device)
    found = [_neighbours(watch, vectors)]
    if isinstance(method, Mae):
        found.append(_reconstructions(method, recipe, whole, watch, chosen))
    else:
        seen = _attention(method, recipe, whole, watch, chosen)
        found += [seen] if seen is not None else []
    return [*found, _views(method, recipe, source, watch, chosen)]


def _spread(watch: Watch, n: int) -> list[int]:
    """Rows of images of different patients, spread over the sample; the same at every monitoring step."""
    first = watch.frame[watch.frame["shown"]].drop_duplicates("patient").index.to_numpy()
    return [int(first[i]) for i in np.linspace(0, len(first) - 1, min(n, len(first))).round().astype(int)]


def _caption(watch: Watch, row: int) -> str:
    return str(watch.frame["caption"].iloc[row])


def _neighbours(watch: Watch, vectors: NDArray[np.float32]) -> Strip:
    patients = np.asarray(watch.frame["patient"].astype("category").cat.codes, dtype=np.int64)
    chosen = np.asarray(_spread(watch, _QUERIES), dtype=np.int64)
    drawable = np.flatnonzero(watch.frame["shown"].to_numpy()).astype(np.int64)
    near, similarity = nearest(vectors, chosen, drawable, patients, _NEIGHBOURS)
    rows = []
    for query, found, cosines in zip(chosen, near, similarity, strict=True):
        row = [_tile(watch, int(query))]
        row += [_tile(watch, int(i)) for i, cosine in zip(found, cosines, strict=True) if np.isfinite(cosine)]
        rows.append(row)
    return Strip(
        "Nearest neighbours",
        "Each row shows an image and the five most similar images of other patients. Do they share the finding, or the "
        "device?",
        ["image", "nearest", "2nd", "3rd", "4th", "5th"],
        rows,
    )


def _tile(watch: Watch, row: int) -> Tile:
    return Tile(as_jpeg(watch.images.square(row, TILE_PX)), _caption(watch, row))


def _reconstructions(method: Mae, recipe: Recipe, whole: Tensor, watch: Watch, chosen: Sequence[int]) -> Strip:
    draw = Draw(recipe.seed, 0, len(whole), slice(0, len(whole)), whole.device)
    keep, _ = random_mask(draw, method.n_patches, method.recipe.mae.mask_ratio)
    crops = (whole.permute(0, 3, 1, 2).float() / 255 - method.mean.view(3, 1, 1)) / method.std.view(3, 1, 1)
    patches = patchify(crops, method.patch_px)
    painted = method.decode(method.encode(gather_tokens(patches, keep), keep), keep).float()
    if method.recipe.mae.normalize_pixels:  # the prediction lacks each patch's mean and contrast: take the image's
        mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
        painted = painted * (variance + 1e-6).sqrt() + mean
    hidden = torch.ones_like(patches[:, :, :1]).scatter(1, keep[:, :, None], 0.0)
    grey = ((0.9 - method.mean) / method.std).view(1, 1, 3, 1).expand(1, 1, 3, method.patch_px**2).flatten(2)
    columns = [patches, patches * (1 - hidden) + grey * hidden, painted, painted * hidden + patches * (1 - hidden)]
    drawn = [_pixels(unpatchify(column, method.patch_px), recipe) for column in columns]
    rows = [
        [Tile(as_jpeg(drawn[c][i]), _caption(watch, row) if c == 0 else "") for c in range(4)]
        for i, row in enumerate(chosen)
    ]
    added = (
        " The loss compares patterns within normalised patches, so brightness and contrast of each patch are taken "
        "from the image."
        if method.recipe.mae.normalize_pixels
        else ""
    )
    return Strip(
        "Reconstructions",
        f"The network receives {keep.shape[1]} of {patches.shape[1]} patches and predicts the others.{added}",
        ["image", "visible patches", "prediction", "prediction and visible patches"],
        rows,
    )


def unpatchify(patches: Tensor, patch_px: int) -> Tensor:
    """(m, n, 3 · p²) → (m, 3, v, v): the inverse of mae.patchify."""
    m, n, _ = patches.shape
    g = round(n**0.5)
    split = patches.reshape(m, g, g, 3, patch_px, patch_px)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(m, 3, g * patch_px, g * patch_px)


def _attention(method: Method, recipe: Recipe, whole: Tensor, watch: Watch, chosen: Sequence[int]) -> Strip | None:
    mean, std = (whole.new_tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (recipe.mean, recipe.std))
    maps = class_attention(method.backbone(), (whole.permute(0, 3, 1, 2).float() / 255 - mean) / std)
    if maps is None:
        return None
    maps = maps.cpu().double()  # (m, heads, g, g)
    entropy = -(maps * maps.clamp_min(1e-12).log()).sum(dim=(2, 3))
    sharpest = entropy.mean(dim=0).argsort()[:_HEADS].tolist()
    rows = []
    for i, row in enumerate(chosen):
        small = cv2.resize(whole[i].cpu().numpy(), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        picture = np.asarray(small, dtype=np.uint8)
        tiles = [Tile(as_jpeg(picture), _caption(watch, row))]
        tiles += [Tile(as_jpeg(_over(picture, shown.numpy()))) for shown in [maps[i].mean(dim=0), *maps[i, sharpest]]]
        rows.append(tiles)
    return Strip(
        "Attention",
        "Attention of the class token in the last block. Orange: above uniform attention. Shown are the mean over "
        "heads and the most focused heads.",
        ["image", f"mean of {maps.shape[1]} heads", *(f"head {head + 1}" for head in sharpest)],
        rows,
    )


def _over(picture: NDArray[np.uint8], attention: NDArray[np.float64]) -> Pixels:
    """Overlay the attention above the uniform share, in orange, on the dimmed image.

    The full colour is the largest value, but at least twice the uniform share, so that weak contrast looks weak.
    """
    even = 1 / attention.size
    share = (attention - even) / max(float(attention.max()) - even, even)
    large = cv2.resize(share, (TILE_PX, TILE_PX), interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]
    grey = picture.astype(np.float64).mean(axis=2, keepdims=True) * 0.55
    return np.asarray((grey * (1 - large) + (0.35 * picture + 0.65 * np.array([255.0, 140, 20])) * large), np.uint8)


def _views(method: Method, recipe: Recipe, source: Tensor, watch: Watch, chosen: Sequence[int]) -> Strip:
    m = len(source)
    rows = [[Tile(as_jpeg(source[i].cpu().numpy()), _caption(watch, row))] for i, row in enumerate(chosen)]
    for step in range(_FEW):  # repeat for a method with one view per image
        for views in method.views(source, Draw(recipe.seed, step, m, slice(0, m), source.device)):
            if views.ndim == 4 and views.shape[1] == 3 and views.is_floating_point():  # the others are masks
                pixels = _pixels(views, recipe).reshape(len(views) // m, m, *views.shape[2:], 3)  # view by view
                for view in pixels[: max(0, 1 + _VIEWS - len(rows[0]))]:
                    for shown, picture in zip(rows, view, strict=True):
                        shown.append(Tile(as_jpeg(picture)))
        if len(rows[0]) > _FEW:
            break
    return Strip(
        "Views",
        "Augmented views of each image, as used for training. The network learns to ignore the differences between "
        "them. Is the finding still visible and unchanged?",
        ["image", *("" for _ in rows[0][1:])],
        rows,
    )


def _pixels(views: Tensor, recipe: Recipe) -> Pixels:
    """Normalised (m, 3, v, v) → (m, v, v, 3) uint8."""
    mean, std = (views.new_tensor(v).view(3, 1, 1) for v in (recipe.mean, recipe.std))
    shown = ((views.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(shown.permute(0, 2, 3, 1).cpu().numpy(), dtype=np.uint8)


def as_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG of side TILE_PX: larger views are reduced by area averaging, smaller ones enlarged."""
    side = pixels.shape[0]
    if side != TILE_PX:
        how = cv2.INTER_AREA if side > TILE_PX else cv2.INTER_CUBIC
        pixels = np.asarray(cv2.resize(pixels, (TILE_PX, TILE_PX), interpolation=how), dtype=np.uint8)
    return encode(pixels, 82)
