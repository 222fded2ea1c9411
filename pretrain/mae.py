"""MAE: hide three quarters of the patches, encode the rest, and let a light decoder paint what is missing.

- [0]: He et al., Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377

Written from the paper. Encoder: timm's Vision Transformer. Decoder: lightly's.
Shapes: b images, n patches of p × p pixels, k of them kept, d encoder width, e decoder width.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cohort.errors import UserError
from pretrain.method import Method, Outcome, new_backbone, pixel_statistics
from pretrain.recipe import MaeRecipe
from pretrain.views import Draw, cut, normalize, random_boxes, random_mask


class Mae(Method):
    """Encoder, decoder and loss of [0]."""

    pooling = "mean"  # no loss ever reaches the class token directly
    mean: Tensor
    std: Tensor

    def __init__(self, recipe: MaeRecipe) -> None:
        super().__init__()
        config = recipe.mae
        self.recipe = recipe
        self.encoder = new_backbone(recipe.backbone, recipe.img_size, drop_path=recipe.drop_path, any_size=False)
        vit = self.encoder
        if vit.num_prefix_tokens != 1 or vit.no_embed_class or vit.cls_token is None or vit.pos_embed is None:
            raise UserError(
                f"`backbone: {recipe.backbone}`: MAE is written for one class token and no registers; choose another "
                "backbone, for example vit_small_patch16_224"
            )
        # Only for what its constructor does to the encoder, in place: [0]'s initialisation (Xavier) and fixed
        # sine-cosine positions. Its forward embeds the masked patches too, and throws them away.
        MaskedVisionTransformerTIMM(self.encoder)
        self.patch_px = int(self.encoder.patch_embed.patch_size[0])
        self.n_patches = int(self.encoder.patch_embed.num_patches)
        if config.decoder_dim % config.decoder_heads or config.decoder_dim % 4:
            raise UserError(
                f"`mae.decoder_dim` is {config.decoder_dim}: it must be a multiple of 4 and of `mae.decoder_heads` "
                f"({config.decoder_heads})"
            )
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, config.decoder_dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            self.n_patches, config.decoder_dim, config.decoder_depth, config.decoder_heads
        )
        self.decoder_pred = nn.Linear(config.decoder_dim, 3 * self.patch_px**2)
        for linear in (self.decoder_embed, self.decoder_pred):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.register_buffer("mean", pixel_statistics(recipe.mean), persistent=False)
        self.register_buffer("std", pixel_statistics(recipe.std), persistent=False)

    def backbone(self) -> VisionTransformer:
        return self.encoder

    @torch.no_grad()
    def views(self, images: Tensor, draw: Draw) -> list[Tensor]:
        """→ [crops (b, 3, v, v), kept patches (b, k), masked patches (b, n − k)]. No colour change: [0], table 1e."""
        views = self.recipe.views
        boxes = random_boxes(draw, views.crop.scale, views.aspect)
        crops = cut(images.float(), boxes, self.recipe.img_size, flip=draw.happens(views.flip))
        keep, masked = random_mask(draw, self.n_patches, self.recipe.mae.mask_ratio)
        return [normalize(crops, self.mean, self.std), keep, masked]

    def forward(self, views: list[Tensor], step: int) -> Outcome:
        crops, keep, masked = views
        patches = patchify(crops, self.patch_px)  # (b, n, 3 · p²)
        tokens = self.encode(take(patches, keep), keep)  # (b, 1 + k, d)
        predicted = take(self.decode(tokens, keep), masked)  # (b, n − k, 3 · p²)
        loss = reconstruction_loss(predicted, take(patches, masked), normalized=self.recipe.mae.normalize_pixels)
        return Outcome(loss, tokens.detach()[:, 1:].mean(dim=1).float())

    def encode(self, visible: Tensor, keep: Tensor) -> Tensor:
        """(b, k, 3 · p²) visible patches → (b, 1 + k, d): the masked ones are not there, so they cannot leak."""
        vit = self.encoder
        positions, class_token = cast(Tensor, vit.pos_embed), cast(Tensor, vit.cls_token)
        embed = vit.patch_embed.proj  # a convolution whose stride is its kernel: a linear map of each patch
        x = F.linear(visible, embed.weight.flatten(1), embed.bias)
        x = x + take(positions[:, 1:].expand(len(x), -1, -1), keep)
        cls = (class_token + positions[:, :1]).expand(len(x), -1, -1)
        x = vit.blocks(vit.norm_pre(torch.cat([cls, x], dim=1)))
        tokens: Tensor = vit.norm(x)
        return tokens

    def decode(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """(b, 1 + k, d) → (b, n, 3 · p²): encoded tokens at their places, the shared mask token at all others."""
        x = self.decoder_embed(tokens)
        full = self.decoder.mask_token.to(x.dtype).expand(len(x), self.n_patches, -1)
        full = full.scatter(1, keep[:, :, None].expand(-1, -1, x.shape[2]), x[:, 1:])
        x = self.decoder(torch.cat([x[:, :1], full], dim=1))  # adds its own fixed sine-cosine positions
        predicted: Tensor = self.decoder_pred(x[:, 1:])
        return predicted


def patchify(images: Tensor, patch_px: int) -> Tensor:
    """(b, 3, v, v) → (b, n, 3 · p²), patches row by row, each in the order (channel, y, x) of a convolution's kernel."""
    b, c, v, _ = images.shape
    g = v // patch_px
    split = images.reshape(b, c, g, patch_px, g, patch_px)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c * patch_px * patch_px)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """(b, n, d) and (b, k) → (b, k, d)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def reconstruction_loss(predicted: Tensor, target: Tensor, *, normalized: bool) -> Tensor:
    """Mean squared error over the masked patches; both (b, n − k, 3 · p²) → scalar.

    `normalized`: the target is each patch with its own mean taken off and divided by its own standard deviation
    ([0], section 3, "Reconstruction target").
    """
    target = target.float()
    if normalized:
        centre = target.mean(dim=-1, keepdim=True)
        variance = target.var(dim=-1, keepdim=True)
        target = (target - centre) / (variance + 1e-6).sqrt()
    return (predicted.float() - target).square().mean()
