"""DINO: a student learns from several views of an image to say what its own running average says of two large ones.

- [0]: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021, https://arxiv.org/abs/2104.14294

Backbone: timm's Vision Transformer. Head and loss (centering, sharpening): lightly's.
Shapes: b images, K output dimensions of the head.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.method import Method, Outcome, new_backbone, pixel_statistics, require_patches
from pretrain.recipe import Crop, DinoRecipe
from pretrain.schedules import cosine, warmup_linear
from pretrain.views import Draw, colour_transform, cut, normalize, random_boxes, recolour, solarize


class BackboneWithHead(nn.Module):
    """f = h ∘ b of [0]: student and teacher are each one of these."""

    def __init__(self, backbone: VisionTransformer, head: DINOProjectionHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, by_size: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Batches of views, one batch per size → features (views, d) and outputs (views, K), in that order."""
        features = torch.cat([self.backbone(views) for views in by_size])
        return features, self.head(features)


class Dino(Method):
    """Student, teacher and loss of [0], Algorithm 1."""

    pooling = "cls"
    mean: Tensor
    std: Tensor

    def __init__(self, recipe: DinoRecipe, steps: int) -> None:
        """`steps`: length of the training, which the schedules span."""
        super().__init__()
        config = recipe.dino
        self.recipe, self.steps = recipe, steps
        self.freeze_steps = round(config.freeze_last_layer * steps)
        self.temp_warmup_steps = round(config.teacher_temp_warmup * steps)
        self.student = self._network(drop_path=recipe.drop_path)
        self.teacher = self._network(drop_path=0.0)  # built anew: weight norm makes the head impossible to copy
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = DINOLoss(
            config.output_dim, student_temp=config.student_temp, center_momentum=config.center_momentum
        )
        self.register_buffer("mean", pixel_statistics(recipe.mean), persistent=False)
        self.register_buffer("std", pixel_statistics(recipe.std), persistent=False)

    def _network(self, drop_path: float) -> BackboneWithHead:
        recipe, config = self.recipe, self.recipe.dino
        backbone = new_backbone(recipe.backbone, recipe.img_size, drop_path=drop_path, any_size=True)
        require_patches(backbone, recipe.views.local.size_px, "views.local.size_px")
        with warnings.catch_warnings():  # lightly's weight norm is PyTorch's older one
            warnings.simplefilter("ignore", FutureWarning)
            head = DINOProjectionHead(
                backbone.num_features,
                config.hidden_dim,
                config.bottleneck_dim,
                config.output_dim,
                norm_last_layer=config.norm_last_layer,
            )
        return BackboneWithHead(backbone, head)

    def backbone(self) -> VisionTransformer:
        """The teacher's, which is better than the student's throughout training ([0], figure 6)."""
        return self.teacher.backbone

    @torch.no_grad()
    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """→ [global views (2b, 3, v, v), local views (count · b, 3, w, w)]; without local views only the first."""
        views, pixels = self.recipe.views, images.float()
        size = self.recipe.img_size
        global_views = [self._view(pixels, draw, crop, size) for crop in (views.global_1, views.global_2)]
        local_views = [self._view(pixels, draw, views.local, views.local.size_px) for _ in range(views.local.count)]
        return [torch.cat(views) for views in (global_views, local_views) if views]

    def _view(self, pixels: Tensor, draw: Draw, crop: Crop, view_px: int) -> Tensor:
        views = self.recipe.views
        boxes = random_boxes(draw, crop.scale, views.aspect)
        flip = draw.happens(views.flip)
        sigma = draw.uniform(*views.blur_sigma_px) * draw.happens(crop.blur)
        view = cut(pixels, boxes, view_px, flip=flip, sigma_px=sigma if crop.blur > 0 else None)
        view = recolour(view, *colour_transform(draw, views.colour, view.mean(dim=(2, 3))))
        if crop.solarize > 0:
            view = solarize(view.clamp_(0, 1), draw.happens(crop.solarize))
        return normalize(view, self.mean, self.std)

    def forward(self, views: list[Tensor], step: int) -> Outcome:
        with torch.no_grad():
            features, teacher_out = self.teacher(views[:1])
        _, student_out = self.student(views)
        n_images = len(views[0]) // 2
        # In float32 whatever the autocast: a softmax at temperature 0.04 multiplies rounding errors by 25.
        with torch.autocast(student_out.device.type, enabled=False):
            loss = self.loss(
                list(teacher_out.float().split(n_images)),
                list(student_out.float().split(n_images)),
                teacher_temp=self.teacher_temp(step),
            )
        return Outcome(loss, features[:n_images].float())

    def teacher_temp(self, step: int) -> float:
        """Linear warm-up, then constant ([0], appendix D): too warm early on, and the outputs collapse."""
        config = self.recipe.dino
        return warmup_linear(step, self.temp_warmup_steps, config.warmup_teacher_temp, config.teacher_temp)

    def teacher_momentum(self, step: int) -> float:
        """λ of [0], section 3.1: a cosine from its start to 1."""
        return cosine(step, self.steps, self.recipe.dino.teacher_momentum, 1.0)

    def before_update(self, step: int) -> None:
        """Hold the last layer still at first, so that the prototypes do not run after random features."""
        if step < self.freeze_steps:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None  # None, not zero: AdamW would still decay it

    @torch.no_grad()
    def after_update(self, step: int) -> dict[str, float]:
        """θ_teacher ← λ θ_teacher + (1 − λ) θ_student."""
        momentum = self.teacher_momentum(step)
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)
        return {"teacher_momentum": momentum, "teacher_temp": self.teacher_temp(step)}
