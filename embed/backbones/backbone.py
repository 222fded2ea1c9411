"""A backbone name → a frozen encoder with its preprocessing. Every backbone is loaded here."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pellucid.cohort.errors import UserError
from pellucid.cohort.runs.versions import package_versions
from pellucid.embed.backbones.compute_choice import (
    BUDGET_S,
    Compute,
    Hardware,
    apply,
    choose,
    seconds_of,
    threads_of,
)
from pellucid.embed.backbones.embedding_space import space_of
from pellucid.embed.backbones.network_adapters import FeatureReader, LoadedNetwork, TimmNetwork, resolve_pooling
from pellucid.embed.backbones.pixel_baseline import PIXELS_DIM, PIXELS_SIZE_PX, pixel_features
from pellucid.embed.backbones.pooling import Pooling
from pellucid.embed.backbones.readout import ReadoutConfig
from pellucid.embed.backbones.view_averaging import square_px, views
from pellucid.embed.backbones.weight_loading import weights_sha256

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PASS_CPU, _PASS_GPU = 4, 64  # images in a timed pass; fewer if the network is slow
_PASS_S = 0.25  # a timed pass is about this long
_DECIDING = threading.Lock()
KINDS = "pixels, timm:NAME, timm-random:NAME, run:FOLDER, hf:FOLDER_OR_REPOSITORY or file:WEIGHTS.safetensors@TIMM_NAME"


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder: uint8 squares in, one float32 vector an image out.

    Attributes:
        name: as given, with a path reduced to the name of the run.
        size_px: side of the input squares, in pixels.
        dim: length of the vectors.
        fingerprint: sha256 of the weights (for `pixels`: of its definition).
        details: further entries of `spec.json`.
        model: the network; None for `pixels`.
        pooling: the pooling that `readout.pooling` resolves to for this network.
        mean, std: per channel, of pixels in 0–1.
        readout: pooling, layers and views.
        reader: the network with its pooling as one module: normalised pixels in, vectors out. Compilation and
            quantisation replace it (`dataclasses.replace(backbone, reader=…)`).
        input_px: side of the network's input, in pixels; 0 means size_px. It is smaller than size_px if corner crops
            are averaged.
        compute: number type, attention kernel and memory layout; None until first needed (`computing`).
        precision: the number type that the user asked for, or auto.
        location: the name as given, from which the backbone can be loaded again.
        token_grid: (rows, columns) of the patches; None if there are none.
        token_width: length of a patch vector.
    """

    name: str
    size_px: int
    dim: int
    fingerprint: str
    details: dict[str, Any] = field(default_factory=dict)
    model: torch.nn.Module | None = None
    pooling: Pooling = "model"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    reader: Any = None
    input_px: int = 0
    compute: Compute | None = None
    precision: str = "auto"
    location: str = ""
    token_grid: tuple[int, int] | None = None
    token_width: int = 0

    def __post_init__(self) -> None:
        if self.reader is None and self.model is not None:
            object.__setattr__(
                self, "reader", FeatureReader(TimmNetwork(self.model), self.pooling, self.readout.layers)
            )
        if not self.input_px:
            object.__setattr__(self, "input_px", self.size_px)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, size_px, size_px, 3) uint8 RGB → (n, dim) float32."""
        return self.read(pixels, tokens=False)[0]

    def tokens(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, size_px, size_px, 3) uint8 RGB → (n, patches, width) float32, row by row of the patch grid.

        Tokens are taken after the last block and its norm, for any pooling, and from the whole image, for any view
        averaging. For a convolutional network they are the positions of the last feature map.

        Raises:
            UserError: the backbone has no patches (`pixels`).
        """
        if self.token_grid is None:
            raise UserError(f"backbone `{self.name}` has no patch tokens: omit it, or set embed.tokens=false")
        found = self.read(pixels, tokens=True)[1]
        assert found is not None
        return found

    @torch.inference_mode()
    def read(
        self, pixels: NDArray[np.uint8], *, tokens: bool | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Vectors and patch tokens from one forward pass.

        Args:
            pixels: (n, size_px, size_px, 3) uint8 RGB.
            tokens: whether to return tokens; None: as `readout.tokens` says, if the backbone has any.

        Returns:
            (n, dim) float32 vectors, and (n, patches, width) float32 tokens or None.
        """
        if tokens is None:
            tokens = self.stores_tokens
        if self.model is None:
            return (
                np.stack([pixel_features(p) for p in pixels]) if len(pixels) else np.empty((0, self.dim), np.float32)
            ), None
        weight = next(self.model.parameters())
        x = torch.from_numpy(pixels).to(weight.device).permute(0, 3, 1, 2).float() / 255
        x = (x - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
        with self.computing.autocast(weight.device.type):
            vectors, places = self._averaged(self.computing.placed(x), tokens)
        return as_array(vectors), None if places is None else as_array(places)

    @property
    def is_on_gpu(self) -> bool:
        return self.model is not None and next(self.model.parameters()).is_cuda

    @property
    def stores_tokens(self) -> bool:
        """Whether extraction stores patch tokens: they are asked for, and the backbone has some."""
        return self.readout.tokens and self.token_grid is not None

    def _averaged(self, x: Tensor, tokens: bool) -> tuple[Tensor, Tensor | None]:
        """(n, 3, size_px, size_px) normalised → vectors averaged over views; tokens of the whole image if wanted."""
        total, places, n = None, None, 0
        for view in views(x, self.readout.average, self.input_px):
            if tokens and n == 0:  # the whole image is the first view
                vectors, places = self.reader.with_places(view)
            else:
                vectors = self.reader(view)
            total, n = vectors.float() if total is None else total + vectors.float(), n + 1
        assert total is not None
        return total / n if n > 1 else total, places

    @property
    def computing(self) -> Compute:
        """How it is computed: forced, cached or timed on first access (`pellucid.embed.backbones.compute_choice`).

        Raises:
            UserError: the device does not support the requested number type.
        """
        if self.compute is None:
            with _DECIDING:
                if self.compute is None:
                    object.__setattr__(self, "compute", self._decided())
        assert self.compute is not None
        return self.compute

    def _decided(self) -> Compute:
        if self.model is None:
            return Compute()
        device = next(self.model.parameters()).device
        most = _PASS_CPU if device.type == "cpu" else _PASS_GPU
        noise = torch.Generator().manual_seed(0)  # leaves the global generator unchanged
        pixels = torch.rand(most, 3, self.input_px, self.input_px, generator=noise).to(device)
        n = 0

        @torch.inference_mode()
        def one_pass(option: Compute) -> float:
            nonlocal n
            apply(self.model, option)  # type: ignore[arg-type]
            with option.autocast(device.type):
                if not n:
                    one_image_s = seconds_of(lambda: self.reader(option.placed(pixels[:1])), device)
                    n = max(1, min(len(pixels), int(_PASS_S / one_image_s)))
                x = option.placed(pixels[:n])
                return seconds_of(lambda: self.reader(x), device)

        with threads_of(1):  # workers are single-threaded
            work = f"inference, {self.input_px} px, {self.pooling}, {self.readout.layers}"
            hardware = Hardware.from_device(device)
            chosen = choose(self.model, one_pass, work=work, hardware=hardware, asked=self.precision, budget_s=BUDGET_S)
        apply(self.model, chosen)
        return chosen

    def computed_by(self, compute: Compute) -> Backbone:
        """The same backbone with a given way of computing, which is applied to its network in place."""
        if self.model is not None:
            apply(self.model, compute)
        return replace(self, compute=compute if self.model is not None else Compute())

    def packed(self) -> Backbone:
        """A copy with linear and convolution weights stored in the number type; autocast would cast them per batch.

        Results are bit-identical. Use only `read` and `__call__` of the copy.
        """
        if self.model is None or self.computing.precision == "float32" or not isinstance(self.reader, FeatureReader):
            return self
        if next(self.model.parameters()).device.type != "cpu":
            return self
        products = (torch.nn.Linear, torch.nn.Conv2d)
        if all(m.weight.dtype == self.computing.dtype for m in self.reader.modules() if isinstance(m, products)):
            return self  # already packed
        reader = copy.deepcopy(self.reader)
        for module in reader.modules():
            if isinstance(module, products):
                module.to(self.computing.dtype)
        return replace(self, model=reader.model, reader=reader)

    def spec(self) -> dict[str, Any]:
        """The entries of `spec.json` that describe the backbone and how it is computed; plain JSON values."""
        computing = self.computing
        spec = {
            **self._description(),
            "computed_in": computing.precision,
            "compute": computing.record(),
            **self.details,
        }
        return {**spec, "space": space_of(spec)}

    def _description(self) -> dict[str, Any]:
        """The part of `spec` that does not depend on the device."""
        network = self.model is not None
        described: dict[str, Any] = {
            "backbone": self.name,
            "location": self.location or self.name,
            "fingerprint": self.fingerprint,
            "size_px": self.size_px,
            "input_px": self.input_px,
            "fit": "stretch",  # the whole image onto the square: no border is lost
            "pooling": self.pooling if network else "none",
            "layers": self.readout.layers if network else "none",
            "average": self.readout.average if network else "none",
            "mean": list(self.mean) if network else None,
            "std": list(self.std) if network else None,
            "unit": "image",
            "normalised": False,  # vectors are stored as the network returned them; the index scales its own copy
            "dtype": "float32",
            "made_with": package_versions(("pellucid", "torch", "timm")),
            **self.details,
        }
        if self.stores_tokens:
            described["tokens"] = {"grid": list(self.token_grid or ()), "width": self.token_width, "dtype": "float16"}
        return described

    @property
    def space(self) -> str:
        """Hex sha256 over everything that makes its vectors comparable with others."""
        return space_of(self._description())


def load_backbone(
    name: str, device: str = "auto", readout: ReadoutConfig | None = None, compute: Compute | str = "auto"
) -> Backbone:
    """Load a frozen encoder by its name.

    Args:
        name: `pixels`; `timm:NAME` (pretrained weights, from the cache or downloaded); `timm-random:NAME` (random
            weights with a fixed seed); `run:FOLDER` (a pretrain run); `hf:FOLDER` or `hf:OWNER/NAME` (a vision tower
            saved by transformers); `file:WEIGHTS.safetensors@TIMM_NAME` (a state dict of a timm network). `@SIZE` after
            the timm name, or after the hf name, sets the side of the input square in pixels.
        device: auto, cpu, cuda or cuda:N.
        readout: pooling, layers and views; None: the backbone's defaults. `pixels` has no options.
        compute: auto, float32, bfloat16 or float16; or an earlier choice (of a store, or of another process).

    Raises:
        UserError: unknown backbone, weights that are not available, a damaged file, or a readout that the network does
            not support.
    """
    readout = readout or ReadoutConfig()
    precision = compute if isinstance(compute, str) else "auto"
    kind, _, rest = name.partition(":")
    if kind == "pixels" and not rest:
        fingerprint = hashlib.sha256(b"pellucid.pixels/1").hexdigest()
        return Backbone(
            "pixels",
            PIXELS_SIZE_PX,
            PIXELS_DIM,
            fingerprint,
            {"weights": "none"},
            location=name,
            readout=ReadoutConfig(),
        )
    if kind in {"timm", "timm-random", "run", "hf", "file"} and rest:
        frozen = freeze(_load_network(kind, name, rest), pick_device(device), readout, name)
        frozen = replace(frozen, precision=precision)
        return frozen.computed_by(compute) if isinstance(compute, Compute) else frozen
    raise UserError(f"unknown backbone `{name}`: write {KINDS} (for example timm-random:vit_tiny_patch16_224)")


def _load_network(kind: str, name: str, rest: str) -> LoadedNetwork:
    if kind == "hf":
        from pellucid.embed.backbones.hf_backbone import from_transformers

        return from_transformers(name, rest)
    if kind == "file":
        from pellucid.embed.backbones.file_backbone import from_file

        return from_file(name, rest)
    from pellucid.embed.backbones.timm_backbone import from_run, from_timm

    return from_run(Path(rest)) if kind == "run" else from_timm(name, rest, kind == "timm")


def freeze(loaded: LoadedNetwork, device: torch.device, readout: ReadoutConfig, location: str = "") -> Backbone:
    """Freeze a loaded network on a device; one blank image determines the sizes of its outputs.

    Raises:
        UserError: the network does not support this readout.
    """
    network = loaded.network
    model = network.model.eval().requires_grad_(False)
    pooling = resolve_pooling(loaded.name, network, loaded.auto_pooling, readout)
    fingerprint = weights_sha256(model)
    reader = FeatureReader(network, pooling, readout.layers).to(device)
    with torch.inference_mode():
        try:
            output = reader.with_places(torch.zeros(1, 3, loaded.input_px, loaded.input_px, device=device))
        except Exception as error:
            raise UserError(
                f"backbone `{loaded.name}`: pooling {pooling} with layers {readout.layers} is not possible "
                f"({type(error).__name__}: {error}); use embed.pooling=auto and embed.layers=last"
            ) from None
    n_places, width = output.places.shape[1:]
    side = round(n_places**0.5)
    return Backbone(
        loaded.name,
        square_px(readout.average, loaded.input_px),
        int(output.vectors.shape[1]),
        fingerprint,
        loaded.details,
        model,
        pooling,
        loaded.mean,
        loaded.std,
        readout,
        reader,
        loaded.input_px,
        location=location or loaded.name,
        token_grid=(side, side) if side * side == n_places else None,
        token_width=int(width),
    )


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor on any device, of any number type, as a float32 NumPy array."""
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


def backbone_slug(name: str) -> str:
    """A backbone's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def pick_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device of this machine; `auto` is a GPU if there is one.

    Args:
        local_rank: number of the GPU that `auto` and `cuda` mean; None: LOCAL_RANK, which torchrun sets for each
            process, or else the current GPU.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in {"cpu", "cuda"} or (number and not number.isdigit()):
        raise UserError(f"device `{name}`: choose auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not n_gpus:
        raise UserError(f"device `{name}`: PyTorch finds no GPU; use auto or cpu")
    if local_rank is None:
        local_rank = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    index = int(number) if number else local_rank
    if index >= n_gpus:
        raise UserError(
            f"device `{name}`: PyTorch finds {n_gpus} GPU(s), but number {index} (counted from 0) was requested; use "
            "device cpu, or start fewer processes"
        )
    return torch.device("cuda", index)
