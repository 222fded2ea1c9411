"""One interface to timm transformers, timm convolutional networks and the vision towers of transformers
(`hf_backbone`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.pooling import Pooling, concatenated, pool_tokens
from pellucid.embed.backbones.readout import ReadoutConfig

LAST_BLOCKS = 4


class Network(Protocol):
    """A frozen network that describes its tokens.

    Attributes:
        model: the network itself.
        own_pooling: the network's own pooling: `cls` or `mean` if that is all it does, else `model`.
        has_class_token: whether the first token is a class token.
        n_prefix: number of tokens before the patches; None if the output is a feature map, or if that is unknown.
        n_blocks: number of transformer blocks with accessible outputs; 0 if stages differ in width.
    """

    model: Any
    own_pooling: Pooling
    has_class_token: bool
    n_prefix: int | None
    n_blocks: int

    def features(self, pixels: Tensor, n_last: int) -> list[Tensor]:
        """(n, 3, s, s) normalised → outputs of the last `n_last` blocks, each after the final norm, in network
        order."""

    def places(self, features: Tensor) -> Tensor:
        """Output of one block → (n, places, width) float32: its patches, without class token and registers."""

    def pooled(self, features: list[Tensor], pooling: Pooling) -> Tensor:
        """Outputs of blocks → (n, dim) float32: the pooled outputs, concatenated."""


class TimmNetwork:
    """A timm network whose output is (n, tokens, width) or a feature map, (n, c, h, w) or (n, h, w, c)."""

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
        # timm returns (patches, prefix) pairs, or plain tensors if there is no prefix
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
        for output in features:
            if output.ndim == 3 and self.n_prefix is None:
                raise ValueError("timm does not report which tokens of this network are patches")
            if output.ndim == 4:
                parts += [self._through_head(p) for p in pool_tokens(self.places(output), pooling, 0)]
            else:
                norm = getattr(self.model, "fc_norm", None)  # networks that normalise after pooling
                pooled = pool_tokens(output, pooling, self.n_prefix or 0)
                parts += pooled if norm is None else [norm(p).float() for p in pooled]
        return concatenated(parts)

    def _through_head(self, pooled: Tensor) -> Tensor:
        """Apply what a convolutional network does after its pooling (ConvNeXt: a norm) to a pooled vector."""
        n, c = pooled.shape
        one_place = pooled.view(n, 1, 1, c) if self._channels_last else pooled.view(n, c, 1, 1)
        return self.model.forward_head(one_place, pre_logits=True).float()  # type: ignore[no-any-return]


def _joined(prefix: Tensor, patches: Tensor) -> Tensor:
    return torch.cat([prefix, patches], dim=1)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network loaded by name, on the CPU, not yet frozen into a `Backbone`.

    Attributes:
        name: as given, with a path reduced to its last part.
        input_px: side of the input squares, in pixels.
        auto_pooling: the pooling that `auto` means for it.
        mean, std: per channel, of pixels in 0–1.
        details: further entries of `spec.json`.
    """

    name: str
    network: Network
    input_px: int
    auto_pooling: Pooling
    mean: tuple[float, ...]
    std: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)


class Features(NamedTuple):
    """(n, dim) vectors and (n, places, width) patch vectors, both float32."""

    vectors: Tensor
    places: Tensor


class FeatureReader(nn.Module):
    """(n, 3, s, s) float32 normalised pixels → (n, dim) float32: the unit that is compiled, traced or exported."""

    def __init__(self, network: Network, pooling: Pooling, layers: str = "last") -> None:
        super().__init__()
        self.model = network.model  # registered as a submodule, so that `.to` and `.eval` apply to it
        self.network, self.pooling, self.layers = network, pooling, layers
        self.n_last = LAST_BLOCKS if layers == "last4" else 1

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.pooled(self.network.features(pixels, self.n_last), self.pooling)

    def with_places(self, pixels: Tensor) -> Features:
        """Vectors, and patch vectors of the last block, from one forward pass."""
        features = self.network.features(pixels, self.n_last)
        return Features(self.network.pooled(features, self.pooling), self.network.places(features[-1]))


def resolve_pooling(name: str, network: Network, auto_pooling: Pooling, readout: ReadoutConfig) -> Pooling:
    """The pooling that a readout means for a network.

    Args:
        name: of the backbone, for messages.
        auto_pooling: what `auto` means: from the description of an export, or `model` for the network's own pooling.

    Raises:
        UserError: the network lacks the tokens or layers.
    """
    pooling: Pooling = auto_pooling if readout.pooling == "auto" else readout.pooling
    if pooling in {"cls", "cls+mean"} and not network.has_class_token:
        what = "is not a transformer with a class token" if network.n_prefix is None else "has no class token"
        raise UserError(f"backbone `{name}` {what}: use embed.pooling=mean, gem or auto instead of {pooling}")
    if readout.layers == "last4":
        if network.n_blocks < LAST_BLOCKS:
            why = (
                f"has {network.n_blocks} blocks"
                if network.n_blocks
                else "is not a transformer whose blocks all have one width"
            )
            raise UserError(f"backbone `{name}` {why}: use embed.layers=last instead of last4")
        if pooling == "model":
            pooling = network.own_pooling
        if pooling == "model":
            raise UserError(
                f"backbone `{name}` pools with weights that were learnt for its last block only: use "
                "embed.layers=last, or choose a pooling for last4 (embed.pooling=mean)"
            )
    return pooling


def pool(model: Any, features: Tensor, pooling: Pooling) -> Tensor:
    """Pool the output of a timm network, (n, tokens, width) or a feature map → (n, dim) float32."""
    return TimmNetwork(model).pooled([features], pooling)
