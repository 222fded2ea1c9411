"""How the output of a backbone becomes one vector per image: pooling, layers and views."""

from __future__ import annotations

from typing import Literal

from pellucid.cohort.config import Config


class ReadoutConfig(Config):
    """Which features of a frozen backbone become the vector. The keys belong to the `embed:` section of study.yaml.

    Attributes:
        pooling: how the tokens of an image become one vector. `auto` is the backbone's default: for a pretrain run,
            what its export says (MAE: mean of the patches, DINO: class token); for timm and transformers, the network's
            own.
        layers: `last`, or `last4`: the pooled outputs of the last four blocks, each after the final norm, concatenated,
            as in the linear evaluation of DINO (Caron et al. 2021, section 4.1 and appendix F).
        average: average the vectors of several views: the image and its mirror image (`flip`), or the whole image and
            its four corners (`crops`). See `pellucid.embed.backbones.view_averaging`.
        tokens: also store the vector of every patch (`tokens.npy`).
    """

    pooling: Literal["auto", "cls", "mean", "cls+mean", "gem"] = "auto"
    layers: Literal["last", "last4"] = "last"
    average: Literal["none", "flip", "crops"] = "none"
    tokens: bool = False
