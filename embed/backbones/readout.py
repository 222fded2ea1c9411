"""How a backbone's output becomes the vector of an image: pooling, layers and views, as `embed:` in study.yaml says it."""

from __future__ import annotations

from typing import Literal

from pellucid.cohort.config import Config


class Reading(Config):
    """What is read off a frozen backbone. The keys stand in the `embed:` section of study.yaml.

    Attributes:
        pooling: how the tokens of an image become one vector. `auto` is what the backbone itself says (a pretrain run's
            export says it: MAE the mean of the patches, DINO the class token; timm and transformers: the network's own).
        layers: `last`, or `last4`: the pooled outputs of the last four blocks one after another, each after the final
            norm, as in the linear evaluation of DINO (Caron et al. 2021, section 4.1 and appendix F).
        average: vectors of several views of an image averaged: with its mirror image (`flip`), or the whole and its four
            corners (`crops`). See `pellucid.embed.backbones.view_averaging`.
        tokens: whether the vectors of the single patches are stored too (`tokens.npy`), for the search by region.
    """

    pooling: Literal["auto", "cls", "mean", "cls+mean", "gem"] = "auto"
    layers: Literal["last", "last4"] = "last"
    average: Literal["none", "flip", "crops"] = "none"
    tokens: bool = False
