"""Multi-crop (DINO): two global views and some local views of each image."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pellucid.pretrain.augment.batch_pieces import views_in_pieces
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.augment.views import make_view
from pellucid.pretrain.recipe import DinoViews


@torch.no_grad()
def multi_crop(images: Tensor, draw: Draw, views: DinoViews, size_px: int, mean: Tensor, std: Tensor) -> list[Tensor]:
    """(b, s, s, 3) uint8 → [global views (2b, 3, v, v), local views (count · b, 3, w, w)], in the order of views.

    The second only if there are local views.
    """
    pixels = images.float()  # converted once for all views
    kinds = [
        (views.global_1, size_px),
        (views.global_2, size_px),
        *[(views.local, views.local.size_px)] * views.local.count,
    ]
    made = [
        views_in_pieces(partial(make_view, crop=crop, view_px=px, views=views, mean=mean, std=std), pixels, draw)
        for crop, px in kinds
    ]
    return [torch.cat(batch) for batch in (made[:2], made[2:]) if batch]
