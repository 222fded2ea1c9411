"""What a network makes of an image before and after pooling: one face for timm's transformers, its convolutional networks
and the vision towers of transformers (`pellucid.embed.backbones.hf_backbone`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.pooling import Pooling, concatenated, pool_tokens
from pellucid.embed.backbones.readout import Reading

LAST_BLOCKS = 4


class Network(Protocol):
    """A frozen network that says what its tokens are.

    Attributes:
        model: the network itself.
        own_pooling: how it makes one vector of an image: `cls` or `mean` where that is all, else `model`.
        has_class_token: whether the first token is one.
        n_prefix: tokens before the patches; None if the output is no sequence of tokens of which that is known.
        n_blocks: transformer blocks whose outputs can be read; 0 where stages differ in width.
    """

    model: Any
    own_pooling: Pooling
    has_class_token: bool
    n_prefix: int | None
    n_blocks: int

    def features(self, pixels: Tensor, n_last: int) -> list[Tensor]:
        """(n, 3, s, s) normalised → the outputs of the last `n_last` blocks, each after the final norm, last one last."""

    def places(self, features: Tensor) -> Tensor:
        """One block's output → (n, places, width) float32, without what is no place in the image."""

    def pooled(self, features: list[Tensor], pooling: Pooling) -> Tensor:
        """Outputs of blocks → (n, dim) float32, one block after the other."""


class TimmNetwork:
    """A timm network: a transformer with (n, tokens, width), or one with a map (n, c, h, w) or (n, h, w, c)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.n_prefix: int | None = getattr(model, "num_prefix_tokens", None)
        self.has_class_token = getattr(model, "cls_token", None) is not None and self.n_prefix != 0
        blocks = getattr(model, "blocks", None)
        self.n_blocks = len(blocks) if self.n_prefix is not None and blocks is not None else 0
        own = getattr(model, "global_pool", None) if self.n_prefix is not None else None
        whole = getattr(model, "pool_include_prefix", False)
        names: dict[object, Pooling] = {} if whole else {"token": "cls", "avg": "mean"}
        self.own_pooling: Pooling = names.get(own, "model") if isinstance(own, str) else "model"
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    def features(self, pixels: Tensor, n_last: int) -> list[Tensor]:
        if n_last == 1:
            return [self.model.forward_features(pixels)]
        outputs: list[Any] = self.model.forward_intermediates(
            pixels, indices=n_last, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        # timm parts prefix and patches, and gives no pairs where there is no prefix
        return [o if isinstance(o, Tensor) else _joined(prefix=o[1], patches=o[0]) for o in outputs]

    def places(self, features: Tensor) -> Tensor:
        if features.ndim == 4:
            flat = features.flatten(1, 2) if self._channels_last else features.flatten(2).transpose(1, 2)
            return flat.float()
        return features[:, self.n_prefix or 0 :].float()

    def pooled(self, features: list[Tensor], pooling: Pooling) -> Tensor:
        if pooling == "model":
            return self.model.forward_head(features[-1], pre_logits=True).float()  # type: ignore[no-any-return]
        parts: list[Tensor] = []
        for one in features:
            if one.ndim == 3 and self.n_prefix is None:
                raise ValueError("timm does not say which of its tokens are places in the image")
            if one.ndim == 4:
                parts += [self._through_head(p) for p in pool_tokens(self.places(one), pooling, 0)]
            else:
                after = getattr(self.model, "fc_norm", None)  # of networks that are normalised after their pooling
                pooled = pool_tokens(one, pooling, self.n_prefix or 0)
                parts += pooled if after is None else [after(p).float() for p in pooled]
        return concatenated(parts)

    def _through_head(self, pooled: Tensor) -> Tensor:
        """What a convolutional network does after its pooling (ConvNeXt's norm), to a map of one place."""
        n, c = pooled.shape
        one_place = pooled.view(n, 1, 1, c) if self._channels_last else pooled.view(n, c, 1, 1)
        return self.model.forward_head(one_place, pre_logits=True).float()  # type: ignore[no-any-return]


def _joined(prefix: Tensor, patches: Tensor) -> Tensor:
    return torch.cat([prefix, patches], dim=1)


@dataclass(frozen=True)
class Source:
    """A network as it was loaded by its name, on the CPU, before it is frozen into a `Backbone`.

    Attributes:
        name: as given, with a path reduced to its last part.
        input_px: side of the squares that it takes.
        said: the pooling that `auto` stands for.
        mean, std: per channel, of pixels in 0–1.
        details: what else `spec.json` says of it.
    """

    name: str
    network: Network
    input_px: int
    said: Pooling
    mean: tuple[float, ...]
    std: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)


class Read(NamedTuple):
    """What was read off: (n, dim) vectors, and the (n, places, width) vectors of the places, both float32."""

    vectors: Tensor
    places: Tensor


class Reader(nn.Module):
    """(n, 3, s, s) float32 normalised pixels → (n, dim) float32: what is compiled, traced or exported as one."""

    def __init__(self, network: Network, pooling: Pooling, layers: str = "last") -> None:
        super().__init__()
        self.model = network.model  # registered, so that `.to` and `.eval` reach it
        self.network, self.pooling, self.layers = network, pooling, layers
        self.n_last = LAST_BLOCKS if layers == "last4" else 1

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.pooled(self.network.features(pixels, self.n_last), self.pooling)

    def both(self, pixels: Tensor) -> Read:
        """Vectors and those of the places (of the last block), from one pass."""
        features = self.network.features(pixels, self.n_last)
        return Read(self.network.pooled(features, self.pooling), self.network.places(features[-1]))


def settle(name: str, network: Network, said: Pooling, reading: Reading) -> Pooling:
    """The pooling that `reading` comes to for a network.

    Args:
        name: of the backbone, for messages.
        said: what `auto` means: the description of an export, or `model` for the network's own way.

    Raises:
        UserError: the network has no such tokens or layers.
    """
    pooling: Pooling = said if reading.pooling == "auto" else reading.pooling
    if pooling in {"cls", "cls+mean"} and not network.has_class_token:
        what = "is no transformer with a class token" if network.n_prefix is None else "has no class token"
        raise UserError(f"backbone `{name}` {what}: use embed.pooling=mean, gem or auto instead of {pooling}")
    if reading.layers == "last4":
        if network.n_blocks < LAST_BLOCKS:
            why = (
                f"has {network.n_blocks} blocks"
                if network.n_blocks
                else "has no blocks of one width, as a transformer has"
            )
            raise UserError(f"backbone `{name}` {why}: use embed.layers=last instead of last4")
        if pooling == "model":
            pooling = network.own_pooling
        if pooling == "model":
            raise UserError(
                f"backbone `{name}` pools by learnt weights that were learnt for its last block alone: use "
                "embed.layers=last, or name a pooling (embed.pooling=mean) with last4"
            )
    return pooling


def pool(model: Any, features: Tensor, pooling: Pooling) -> Tensor:
    """A timm network's (n, tokens, width) or map → (n, dim) float32."""
    from pellucid.embed.backbones.network_adapters import TimmNetwork

    return TimmNetwork(model).pooled([features], pooling)
