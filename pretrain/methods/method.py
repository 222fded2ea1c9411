"""The interface between the training loop and a method. A new method is a subclass of `Method` in its own file.

**Micro-batches.** The loop may divide a process's share of the batch into equal micro-batches. It calls `views` and
`forward` for each and adds the gradients of their losses, divided by their number; then it calls `before_update` and
`after_update` once. Losses that are means over images give the same result as with the whole batch. Terms that compare
the images of a batch use the micro-batch of all processes: KoLeo's neighbours, SIGReg's sample, the statistics of batch
norm and Sinkhorn–Knopp. Centres are updated once per step, in `after_update`, with the mean over all micro-batches.

**Several processes.** The state of a method must stay equal in all processes: sums are taken over all of them before
use.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.backbones import Backbone, Pooling


class StepOutput(NamedTuple):
    """The result of one forward pass."""

    loss: Tensor  # scalar, float32, mean over this process's images
    features: Tensor  # (b, d) float32 features of the backbone, without gradient, for monitoring
    partner: Tensor | None = None  # (b, d) features of another view of the same images, if any, for `alignment`
    terms: dict[str, Tensor] = {}  # named scalars without gradient (terms of the loss, teacher entropy …), for metrics


class Method(nn.Module):
    """Networks, views and loss of a self-supervised method."""

    pooling: Pooling  # how the exported backbone's tokens or feature map become one vector

    @abstractmethod
    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """(b, s, s, 3) uint8 on the device → the input of `forward`, without gradient."""

    @abstractmethod
    def forward(self, views: list[Tensor], step: int) -> StepOutput:
        """The loss of one batch. It is called through DDP, so everything with a gradient must happen here."""

    @abstractmethod
    def backbone(self) -> Backbone:
        """The network to export."""

    def trained_backbone(self) -> Backbone:
        """The network that receives gradients: the exported one, except for methods that export a teacher."""
        return self.backbone()

    def before_update(self, step: int) -> None:
        """After backward and gradient clipping, before the optimizer's step."""
        return

    def after_update(self, step: int) -> dict[str, float]:
        """After the optimizer's step; returns additional values for the metrics."""
        return {}


def pixel_statistics(values: tuple[float, float, float]) -> Tensor:
    """Mean or standard deviation as (3,) float32."""
    return torch.tensor(values, dtype=torch.float32)
