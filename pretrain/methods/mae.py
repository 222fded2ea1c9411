"""MAE: mask three quarters of the patches, encode the others, and reconstruct the masked ones with a light decoder.

- [0]: He et al., Masked Autoencoders Are Scalable Vision Learners, 2021, https://arxiv.org/abs/2111.06377

Written from the paper. Encoder: timm's Vision Transformer. Decoder: lightly's.
Shapes: b images, n patches of p × p pixels, k of them kept, d encoder width, e decoder width.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from lightly.models.utils import initialize_2d_sine_cosine_positional_embedding
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.cohort.errors import UserError
from pellucid.pretrain.augment.batch_pieces import call_in_pieces, views_in_pieces
from pellucid.pretrain.augment.step_random import Draw
from pellucid.pretrain.augment.views import make_view, random_mask
from pellucid.pretrain.methods.backbones import new_transformer
from pellucid.pretrain.methods.method import Method, StepOutput, pixel_statistics
from pellucid.pretrain.recipe import MaeRecipe


class Mae(Method):
    """Encoder, decoder and loss of [0]."""

    pooling = "mean"  # the class token receives no direct loss
    mean: Tensor
    std: Tensor

    def __init__(self, recipe: MaeRecipe) -> None:
        super().__init__()
        config = recipe.mae
        self.recipe = recipe
        self.encoder = new_transformer(
            recipe.backbone, recipe.img_size, drop_path=recipe.drop_path, any_size=False, wanted_by="method mae"
        )
        vit = self.encoder
        if (
            not vit.num_prefix_tokens
            or vit.attn_pool is not None
            or isinstance(vit.norm, nn.Identity)
            or vit.pos_embed is None
        ):
            raise UserError(
                f"`backbone: {recipe.backbone}`: MAE needs a class token or registers, a norm after the last block and "
                "no attention pooling, unlike this network; choose another, for example vit_small_patch16_224 or "
                "vit_small_patch14_reg4_dinov2"
            )
        # Used only because its constructor initialises the encoder as in [0] (Xavier). Its forward is not used: it
        # embeds the masked patches too.
        MaskedVisionTransformerTIMM(vit, pos_embed_initialization="skip")
        self.n_prefix_tokens = int(vit.num_prefix_tokens)  # class token and registers
        self.n_positioned_tokens = 0 if vit.no_embed_class else self.n_prefix_tokens  # those with a position embedding
        initialize_2d_sine_cosine_positional_embedding(
            vit.pos_embed, num_prefix_tokens=self.n_positioned_tokens
        )  # fixed, [0]
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
        recipe = self.recipe
        crop = partial(
            make_view, crop=recipe.views.crop, view_px=recipe.img_size, views=recipe.views, mean=self.mean, std=self.std
        )
        crops = views_in_pieces(crop, images, draw)
        keep, masked = random_mask(draw, self.n_patches, recipe.mae.mask_ratio)
        return [crops, keep, masked]

    def forward(self, views: list[Tensor], step: int) -> StepOutput:
        crops, keep, masked = views
        patches = patchify(crops, self.patch_px)  # (b, n, 3 · p²)
        predicted, features = call_in_pieces(self, self.reconstruct, patches, keep, masked)
        loss = reconstruction_loss(
            predicted, gather_tokens(patches, masked), normalized=self.recipe.mae.normalize_pixels
        )
        return StepOutput(loss, features.detach().float())

    def reconstruct(self, patches: Tensor, keep: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, 3 · p²) patches → the masked ones as predicted (b, n − k, 3 · p²), and mean encoded tokens (b, d)."""
        tokens = self.encode(gather_tokens(patches, keep), keep)  # (b, prefix + k, d)
        return gather_tokens(self.decode(tokens, keep), masked), tokens[:, self.n_prefix_tokens :].mean(dim=1)

    def encode(self, visible: Tensor, keep: Tensor) -> Tensor:
        """(b, k, 3 · p²) visible patches → (b, prefix + k, d): masked patches are not part of the input."""
        vit = self.encoder
        positions = cast(Tensor, vit.pos_embed)
        embed = vit.patch_embed.proj  # a convolution whose stride is its kernel: a linear map of each patch
        x = F.linear(visible, embed.weight.flatten(1), embed.bias)
        x = x + gather_tokens(positions[:, self.n_positioned_tokens :].expand(len(x), -1, -1), keep)
        prefix = torch.cat([token for token in (vit.cls_token, vit.reg_token) if token is not None], dim=1)
        if self.n_positioned_tokens:
            prefix = prefix + positions[:, : self.n_positioned_tokens]
        x = vit.norm_pre(torch.cat([prefix.expand(len(x), -1, -1).to(x.dtype), x], dim=1))
        for block in vit.blocks:
            x = checkpoint(block, x, use_reentrant=False) if vit.grad_checkpointing else block(x)
        encoded: Tensor = vit.norm(x)
        return encoded

    def decode(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """(b, prefix + k, d) → (b, n, 3 · p²): encoded tokens at their positions, the mask token at all others."""
        x = self.decoder_embed(tokens)
        patches = x[:, self.n_prefix_tokens :]
        full = self.decoder.mask_token.to(x.dtype).expand(len(x), self.n_patches, -1)
        full = full.scatter(1, keep[:, :, None].expand(-1, -1, x.shape[2]), patches)
        # The decoder adds fixed sine-cosine positions and has one place before the patches: for the mean of all prefix
        # tokens, so that registers are trained too.
        first = x[:, : self.n_prefix_tokens].mean(dim=1, keepdim=True)
        x = self.decoder(torch.cat([first, full], dim=1))
        predicted: Tensor = self.decoder_pred(x[:, 1:])
        return predicted


def patchify(images: Tensor, patch_px: int) -> Tensor:
    """(b, 3, v, v) → (b, n, 3 · p²), patches row by row, each in the order (channel, y, x) of a convolution's
    kernel."""
    b, c, v, _ = images.shape
    g = v // patch_px
    split = images.reshape(b, c, g, patch_px, g, patch_px)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c * patch_px * patch_px)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (b, n, d) at the positions `index` (b, k) → (b, k, d)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def reconstruction_loss(predicted: Tensor, target: Tensor, *, normalized: bool) -> Tensor:
    """Mean squared error over the masked patches; both (b, n − k, 3 · p²) → scalar.

    `normalized`: the mean of each target patch is subtracted, and the patch is divided by its standard deviation ([0],
    section 3, "Reconstruction target").
    """
    target = target.float()
    if normalized:
        centre = target.mean(dim=-1, keepdim=True)
        variance = target.var(dim=-1, keepdim=True)
        target = (target - centre) / (variance + 1e-6).sqrt()
    return (predicted.float() - target).square().mean()
