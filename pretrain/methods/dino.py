"""DINO: a student predicts, from several views of an image, the output of its moving average (the teacher) for two
views.

- [0]: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, https://arxiv.org/abs/2104.14294

Backbone: timm's Vision Transformer, ConvNeXt or ResNet. Head: lightly's. Loss, centre and teacher: distillation.py.
Shapes: b images, K output dimensions of the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightly.models.modules import DINOProjectionHead
from torch import Tensor, nn

from pellucid.pretrain.augment.batch_pieces import forward_in_pieces
from pellucid.pretrain.augment.multi_crop import multi_crop
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.distributed.sync_batch_norm import share_batch_norm
from pellucid.pretrain.methods.backbones import Backbone, default_pooling, new_backbone, require_size
from pellucid.pretrain.methods.distillation import (
    Schedules,
    TeacherTarget,
    multi_crop_loss,
    new_head,
    teacher_terms,
    update_teacher,
)
from pellucid.pretrain.methods.method import Method, StepOutput, pixel_statistics
from pellucid.pretrain.recipe import DinoRecipe


class BackboneWithHead(nn.Module):
    """Backbone and head, f = h ∘ b of [0]: the network of student and of teacher."""

    def __init__(self, backbone: Backbone, head: DINOProjectionHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, by_size: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Batches of views, one batch per size → features (views, d) and outputs (views, K), in that order."""
        features = torch.cat([forward_in_pieces(self.backbone, views) for views in by_size])
        return features, self.head(features)


class Dino(Method):
    """Student, teacher and loss of [0], Algorithm 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: DinoRecipe, steps: int) -> None:
        """`steps`: length of the training, for the schedules.

        Raises:
            UserError: the kind of backbone is not supported, or its patches do not tile a view.
        """
        super().__init__()
        config = recipe.dino
        self.recipe, self.schedules = recipe, Schedules(config, steps)
        self.student = self._network(drop_path=recipe.drop_path)
        self.teacher = self._network(drop_path=0.0)  # created again: a head with weight norm cannot be copied
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.target = TeacherTarget(config.output_dim, config.centering, config.center_momentum)
        self.pooling = default_pooling(self.teacher.backbone)
        self.register_buffer("mean", pixel_statistics(recipe.mean), persistent=False)
        self.register_buffer("std", pixel_statistics(recipe.std), persistent=False)
        share_batch_norm(self)

    def _network(self, drop_path: float) -> BackboneWithHead:
        recipe, config = self.recipe, self.recipe.dino
        backbone = new_backbone(recipe.backbone, recipe.img_size, drop_path=drop_path, any_size=True)
        require_size(backbone, recipe.views.local.size_px, "views.local.size_px")
        return BackboneWithHead(backbone, new_head(int(backbone.num_features), config, config.output_dim))

    def backbone(self) -> Backbone:
        """The teacher's backbone; it is better than the student's throughout training ([0], figure 6)."""
        return self.teacher.backbone

    def trained_backbone(self) -> Backbone:
        return self.student.backbone

    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """→ [global views (2b, 3, v, v), local views (count · b, 3, w, w)]; the second only if there are local
        views."""
        return multi_crop(images, draw, self.recipe.views, self.recipe.img_size, self.mean, self.std)

    def forward(self, views: list[Tensor], step: int) -> StepOutput:
        n_images = len(views[0]) // 2
        with torch.no_grad():
            features, teacher_out = self.teacher(views[:1])
        _, student_out = self.student(views)
        # Always float32: a softmax at temperature 0.04 multiplies rounding errors by 25.
        with torch.autocast(student_out.device.type, enabled=False):
            target = self.target(teacher_out, self.schedules.teacher_temp(step))
            loss = multi_crop_loss(
                target.unflatten(0, (2, n_images)),
                student_out.unflatten(0, (-1, n_images)),
                self.recipe.dino.student_temp,
            )
        first, second = features.float().unflatten(0, (2, n_images))
        return StepOutput(loss, first, second, teacher_terms(target))

    def before_update(self, step: int) -> None:
        self.schedules.freeze_last_layer(step, [self.student.head])

    def after_update(self, step: int) -> dict[str, float]:
        """Update the centre with this step's outputs, and the teacher with the student."""
        self.target.update()
        momentum = self.schedules.teacher_momentum(step)
        update_teacher(self.teacher, self.student, momentum)
        return {"teacher_momentum": momentum, "teacher_temp": self.schedules.teacher_temp(step)}
