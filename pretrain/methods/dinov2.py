"""DINOv2: DINO on the class token, iBOT on masked patches, and KoLeo to spread the features.

- [0]: Oquab et al., DINOv2, 2023, section 4, https://arxiv.org/abs/2304.07193
- [1]: Zhou et al., iBOT, 2021, https://arxiv.org/abs/2111.07832

In some global views of the student, blocks of patches are replaced by a learnt mask token. The teacher receives whole
views; its outputs are the targets for the class token of the other view and for each masked patch. Backbone: timm's
Vision Transformer with a class token, with or without registers. Head: lightly's. Targets and teacher: distillation.py.
Shapes: b images, n patches of a global view, h masked patches in total, K output dimensions of a head, d features.
"""

from __future__ import annotations

import torch
from lightly.models.modules import DINOProjectionHead
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pellucid.cohort.errors import UserError
from pellucid.pretrain.augment.multi_crop import multi_crop
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.methods.backbones import default_pooling, masked_tokens, new_transformer, require_size
from pellucid.pretrain.methods.block_masks import random_block_masks
from pellucid.pretrain.methods.distillation import (
    Schedules,
    TeacherTarget,
    multi_crop_loss,
    new_head,
    row_cross_entropy,
    teacher_terms,
    update_teacher,
)
from pellucid.pretrain.methods.koleo import koleo_loss
from pellucid.pretrain.methods.method import Method, StepOutput, pixel_statistics
from pellucid.pretrain.recipe import DinoV2Recipe


class TwoHeads(nn.Module):
    """Backbone, head of the class token and head of the patches; both heads may be the same ([0], "untying")."""

    def __init__(self, backbone: VisionTransformer, head: DINOProjectionHead, patch_head: DINOProjectionHead) -> None:
        super().__init__()
        self.backbone, self.head, self.patch_head = backbone, head, patch_head


class DinoV2(Method):
    """Student, teacher and the three losses of [0]."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: DinoV2Recipe, steps: int) -> None:
        """`steps`: length of the training, for the schedules.

        Raises:
            UserError: the backbone is not a Vision Transformer with a class token, or its patches do not tile a view.
        """
        super().__init__()
        config = recipe.dinov2
        self.recipe, self.schedules = recipe, Schedules(config, steps)
        self.patch_output_dim = config.ibot_output_dim or config.output_dim
        self.student = self._network(drop_path=recipe.drop_path)
        self.teacher = self._network(drop_path=0.0)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        # Only the student has one. It is outside the backbone, which is exported as a plain timm model.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.student.backbone.embed_dim))
        self.target = TeacherTarget(config.output_dim, config.centering, config.center_momentum)
        self.patch_target = TeacherTarget(self.patch_output_dim, config.centering, config.center_momentum)
        self.pooling = default_pooling(self.teacher.backbone)
        self.register_buffer("mean", pixel_statistics(recipe.mean), persistent=False)
        self.register_buffer("std", pixel_statistics(recipe.std), persistent=False)

    def _network(self, drop_path: float) -> TwoHeads:
        recipe, config = self.recipe, self.recipe.dinov2
        vit = new_transformer(
            recipe.backbone, recipe.img_size, drop_path=drop_path, any_size=True, wanted_by="method dinov2"
        )
        if default_pooling(vit) != "cls":
            raise UserError(
                f"`backbone: {recipe.backbone}`: DINOv2 compares class tokens, but this network does not use one as "
                "its feature; choose another, for example vit_small_patch16_224 or vit_small_patch14_reg4_dinov2"
            )
        require_size(vit, recipe.views.local.size_px, "views.local.size_px")
        head = new_head(vit.num_features, config, config.output_dim)
        patch_head = new_head(vit.num_features, config, self.patch_output_dim) if config.separate_heads else head
        return TwoHeads(vit, head, patch_head)

    def backbone(self) -> VisionTransformer:
        """The teacher's backbone."""
        return self.teacher.backbone

    def trained_backbone(self) -> VisionTransformer:
        return self.student.backbone

    @torch.no_grad()
    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """→ [global views (2b, 3, v, v), mask (2b, n) bool, hidden (h,) int64, weight (h,) float32, local views if
        any].

        `hidden` are the positions of the masked patches in the flattened mask. `weight` is 1 / (masked patches of that
        view), so that every masked view has the same weight ([1], eq. 2). If a (tiny) batch has no masked patch, one
        patch of weight 0 is used, so that every parameter takes part in every step.
        """
        recipe, config = self.recipe, self.recipe.dinov2
        made = multi_crop(images, draw, recipe.views, recipe.img_size, self.mean, self.std)
        grid = self.student.backbone.patch_embed.grid_size
        mask = random_block_masks(draw, 2, grid, config.mask_probability, config.mask_ratio)
        hidden = mask.flatten().nonzero()[:, 0]
        weight = (1 / mask.sum(dim=1, keepdim=True).clamp_min(1)).expand(mask.shape)[mask]
        if not len(hidden):
            hidden, weight = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
        masks = [x.to(images.device, non_blocking=True) for x in (mask, hidden, weight)]
        return [made[0], *masks, *made[1:]]

    def forward(self, views: list[Tensor], step: int) -> StepOutput:
        config, (global_views, mask, hidden, weight, *local_views) = self.recipe.dinov2, views
        student, teacher, b = self.student, self.teacher, len(views[0]) // 2
        prefix, temp = student.backbone.num_prefix_tokens, self.schedules.teacher_temp(step)

        # 1. Teacher, whole views: class tokens (2b, d), and the patches that are masked for the student (h, d).
        with torch.no_grad():
            tokens = teacher.backbone.forward_features(global_views)
            features = tokens[:, 0]
            teacher_out = teacher.head(features)
            teacher_patches = teacher.patch_head(tokens[:, prefix:].flatten(0, 1)[hidden])

        # 2. Student: partly masked global views, and local views.
        tokens = masked_tokens(student.backbone, global_views, mask, self.mask_token)
        class_tokens = [tokens[:, 0], *(student.backbone(v) for v in local_views)]
        student_out = student.head(torch.cat(class_tokens))
        student_patches = student.patch_head(tokens[:, prefix:].flatten(0, 1)[hidden])

        # 3. Three losses, always in float32.
        with torch.autocast(global_views.device.type, enabled=False):
            target = self.target(teacher_out, temp)
            dino = multi_crop_loss(target.unflatten(0, (2, b)), student_out.unflatten(0, (-1, b)), config.student_temp)
            patch_target = self.patch_target(teacher_patches, temp, (weight > 0).float())
            ibot = (row_cross_entropy(patch_target, student_patches, config.student_temp) * weight).sum() / len(mask)
            koleo = torch.stack([koleo_loss(view) for view in class_tokens[0].unflatten(0, (2, b))]).sum()
            loss = dino + config.ibot_weight * ibot + config.koleo_weight * koleo
        terms = {"dino_loss": dino.detach(), "ibot_loss": ibot.detach(), "koleo_loss": koleo.detach()}
        first, second = features.float().unflatten(0, (2, b))
        return StepOutput(loss, first, second, {**terms, **teacher_terms(target)})

    def before_update(self, step: int) -> None:
        self.schedules.freeze_last_layer(step, [self.student.head, self.student.patch_head])

    def after_update(self, step: int) -> dict[str, float]:
        """Update the centres with this step's outputs, and the teacher with the student."""
        self.target.update()
        self.patch_target.update()
        momentum = self.schedules.teacher_momentum(step)
        update_teacher(self.teacher, self.student, momentum)
        return {"teacher_momentum": momentum, "teacher_temp": self.schedules.teacher_temp(step)}
