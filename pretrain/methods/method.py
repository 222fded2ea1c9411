"""What the training loop asks of a method; dino.py, mae.py and their like answer, and a new method is one more such file.

**Micro-batches.** The loop may cut a process's share of the batch into equal micro-batches, call `views` and `forward` for
each, and add the gradients of their losses, divided by their number; then once `before_update` and `after_update`. What
is a mean over images (every loss here but the two below) comes out as if the batch were whole. What compares the images
of a batch with each other sees the micro-batch, on all processes: KoLeo's neighbours, SIGReg's sample, batch norm's
statistics and the balance of Sinkhorn–Knopp. Centres move once per step, in `after_update`, by the mean of all of it.

**Several processes.** Nothing that a process learns alone may change its later steps: what it adds up itself is summed
over all of them before it is used.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.backbones import Backbone, Pooling


class StepOutput(NamedTuple):
    """What one forward pass gives."""

    loss: Tensor  # scalar, float32, mean over this process's images
    features: Tensor  # (b, d) float32 of the backbone, without gradient: what health.py looks at
    partner: Tensor | None = None  # (b, d) of another view of the same images, where the method has one: for alignment
    terms: dict[str, Tensor] = {}  # named scalars without gradient (parts of the loss, teacher entropy …): for metrics


class Method(nn.Module):
    """Modules, views and loss of one way of pretraining."""

    pooling: Pooling  # how the exported backbone's tokens, or its map, become one vector

    @abstractmethod
    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """(b, s, s, 3) uint8 on the device → what `forward` wants, without gradient."""

    @abstractmethod
    def forward(self, views: list[Tensor], step: int) -> StepOutput:
        """The loss of one batch. Called through DDP, so that everything with a gradient happens in here."""

    @abstractmethod
    def backbone(self) -> Backbone:
        """The network to export."""

    def trained_backbone(self) -> Backbone:
        """The network that gets the gradients: the exported one, but for methods that export a teacher."""
        return self.backbone()

    def before_update(self, step: int) -> None:
        """After backward and gradient clipping, before the optimizer's step."""
        return

    def after_update(self, step: int) -> dict[str, float]:
        """After the optimizer's step; returns what the metrics should show."""
        return {}


def pixel_statistics(values: tuple[float, float, float]) -> Tensor:
    """(3,) float32."""
    return torch.tensor(values, dtype=torch.float32)
