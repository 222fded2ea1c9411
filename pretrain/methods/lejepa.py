"""LeJEPA: one encoder without teacher; views of an image predict their mean, and SIGReg prevents collapse.

- [0]: Balestriero & LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, 2025,
  Algorithm 2, https://arxiv.org/abs/2511.08544

It has no stop-gradient, moving average, temperature or prototypes, and suits small compute and convolutional networks.
Backbone: timm's Vision Transformer, ConvNeXt or ResNet. SIGReg: sigreg.py. Shapes: b images, v views of each, d
features, p dimensions of the projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.pretrain.augment.batch_pieces import forward_in_pieces
from pellucid.pretrain.augment.multi_crop import multi_crop
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.distributed.collectives import all_rows
from pellucid.pretrain.distributed.sync_batch_norm import share_batch_norm
from pellucid.pretrain.methods.backbones import Backbone, default_pooling, new_backbone, require_size
from pellucid.pretrain.methods.method import Method, StepOutput, pixel_statistics
from pellucid.pretrain.methods.sigreg import random_directions, sigreg
from pellucid.pretrain.recipe import LeJepaRecipe


class LeJepa(Method):
    """Encoder, projector and loss of [0]."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: LeJepaRecipe) -> None:
        """Build it from the recipe.

        Raises:
            UserError: the kind of backbone is not supported, or its patches do not tile a view.
        """
        super().__init__()
        config = recipe.lejepa
        self.recipe = recipe
        self.encoder = new_backbone(recipe.backbone, recipe.img_size, drop_path=recipe.drop_path, any_size=True)
        require_size(self.encoder, recipe.views.local.size_px, "views.local.size_px")
        self.projector = new_projector(int(self.encoder.num_features), config.hidden_dim, config.projection_dim)
        self.pooling = default_pooling(self.encoder)
        self.register_buffer("mean", pixel_statistics(recipe.mean), persistent=False)
        self.register_buffer("std", pixel_statistics(recipe.std), persistent=False)
        share_batch_norm(self)

    def backbone(self) -> Backbone:
        return self.encoder

    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """→ [global views (2b, 3, v, v), local views (count · b, 3, w, w)]; the second only if there are local
        views."""
        return multi_crop(images, draw, self.recipe.views, self.recipe.img_size, self.mean, self.std)

    def forward(self, views: list[Tensor], step: int) -> StepOutput:
        recipe, config, b = self.recipe, self.recipe.lejepa, len(views[0]) // 2
        features = torch.cat([forward_in_pieces(self.encoder, batch) for batch in views])  # (v · b, d)
        projections = self.projector(features).unflatten(0, (-1, b))  # (v, b, p)
        with torch.autocast(features.device.type, enabled=False):
            projections = projections.float()
            prediction = prediction_loss(projections, n_global=2)
            directions = random_directions(recipe.seed, step, config.projection_dim, config.directions)
            gaussian = sigreg(projections, directions, knots=config.knots, t_max=config.t_max)
            loss = (1 - config.sigreg_weight) * prediction + config.sigreg_weight * gaussian
        terms = {
            "prediction_loss": prediction.detach(),
            "sigreg_loss": gaussian.detach(),
            # Without the regulariser the projections collapse, while the features may not.
            "projection_std": all_rows(projections.detach()[0]).std(dim=0).mean(),
        }
        seen = features.detach().float()
        return StepOutput(loss, seen[:b], seen[b : 2 * b], terms)


def new_projector(dim: int, hidden_dim: int, projection_dim: int) -> nn.Sequential:
    """Three linear layers with batch norm and ReLU between them; (m, dim) → (m, projection_dim)."""
    return nn.Sequential(
        nn.Linear(dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(),
        nn.Linear(hidden_dim, projection_dim),
    )  # fmt: skip


def prediction_loss(projections: Tensor, n_global: int) -> Tensor:
    """Mean squared distance of every view to the mean of its image's global views ([0], Algorithm 2); (v, b, p) →
    scalar.

    The first `n_global` views are the global ones. Both sides receive gradients.
    """
    return (projections[:n_global].mean(dim=0) - projections).square().mean()
