"""Augmentation of batches of uint8 images on the training device: the sequence of all changes to pixels.

The order: geometry.py (crop, flips, rotation and blur in one resampling), acquisition_shift.py (other devices),
colour_jitter.py (jitter and solarisation), normalisation. All random numbers come from one `Draw`, in a fixed order;
changes that the recipe does not use draw none.

Shapes: b images of a batch, s side of the source, v side of the view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.pretrain.augment.acquisition_shift import random_focus, shift_acquisition
from pellucid.pretrain.augment.colour_jitter import colour_transform, normalize, recolour, solarize
from pellucid.pretrain.augment.geometry import random_pose, resample_views
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.recipe import AlteredCrop, Crop, DinoViews, Views

__all__ = ["Draw", "make_view", "random_mask"]


@torch.no_grad()
def make_view(pixels: Tensor, draw: Draw, crop: Crop, view_px: int, views: Views, mean: Tensor, std: Tensor) -> Tensor:
    """One normalised view of each image of a batch, with the settings of the recipe's `views`.

    Args:
        pixels: (b, s, s, 3) uint8, or float32 in 0–255 (to convert only once for several views); not changed.
        crop: the kind of view, one of `views`.
        views: of any method; only those of methods that compare views have colour changes.
        mean, std: (3,) of the normalisation.

    Returns:
        (b, 3, view_px, view_px) float32 on the device of `pixels`.
    """
    pose = random_pose(draw, crop.scale, views)
    comparing = views if isinstance(views, DinoViews) else None
    sigma, solarized = None, 0.0
    if comparing is not None and isinstance(crop, AlteredCrop):
        sigma = draw.uniform(*comparing.blur_sigma_px) * draw.happens(crop.blur)
        sigma, solarized = sigma if crop.blur > 0 else None, crop.solarize
    focus = random_focus(draw, views.acquisition)
    view = shift_acquisition(
        resample_views(pixels, pose, view_px, sigma_px=sigma, focus=focus), draw, views.acquisition, pose
    )
    if comparing is not None:
        view = recolour(view, *colour_transform(draw, comparing.colour, view.mean(dim=(2, 3))))
    if solarized > 0:
        view = solarize(view.clamp_(0, 1), draw.happens(solarized))
    return normalize(view, mean, std)


def random_mask(draw: Draw, n_patches: int, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Indices of the patches kept, (b, n_keep), and masked, (b, n_patches − n_keep): uniform without replacement.

    MAE, He et al. 2021, section 3: sorting noise. n_keep = ⌊n_patches · (1 − mask_ratio)⌋, at least one.
    """
    n_keep = max(1, int(n_patches * (1 - mask_ratio)))
    shuffled = draw.uniform(0, 1, n_patches).argsort(dim=1)
    return shuffled[:, :n_keep], shuffled[:, n_keep:]
