"""A backbone's name → a frozen encoder with its own preprocessing; every name is loaded here and nowhere else."""

from __future__ import annotations

import copy
import hashlib
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
from pellucid.embed.backbones.network_adapters import Reader, Source, TimmNetwork, settle
from pellucid.embed.backbones.pixel_baseline import PIXELS_DIM, PIXELS_SIZE_PX, pixel_features
from pellucid.embed.backbones.pooling import Pooling
from pellucid.embed.backbones.readout import Reading
from pellucid.embed.backbones.view_averaging import square_px, views

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PASS_CPU, _PASS_GPU = 4, 64  # images of one pass that is timed; fewer where a network is slow
_PASS_S = 0.25
_DECIDING = threading.Lock()
KINDS = "pixels, timm:NAME, timm-random:NAME, run:FOLDER, hf:FOLDER_OR_REPOSITORY or file:WEIGHTS.safetensors@TIMM_NAME"


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder: uint8 squares in, one float32 vector an image out.

    Attributes:
        name: as given, with a path reduced to the run's name.
        size_px: side of the squares it takes.
        dim: length of its vectors.
        fingerprint: sha256 of its weights (or, for `pixels`, of its definition).
        details: what `spec.json` says of it beside the rest.
        model: the network, None for `pixels`.
        pooling: what `reading.pooling` came to for this network.
        mean, std: per channel, of pixels in 0–1.
        reading: how vectors are read off it.
        reader: the network with its pooling as one module, normalised pixels in and vectors out. What compiles or
            quantises a network puts another one here (`dataclasses.replace(backbone, reader=…)`).
        input_px: side of what the network takes; 0 is size_px. Less than that where corners are cut out of a larger square.
        compute: number type, attention kernel and layout; None until it is asked for (`computing`), then timed or remembered.
        asked: the number type that the user wants, or auto.
        location: the name as it was given, by which it is found again.
        token_grid: (rows, columns) of the patches, None where there are none.
        token_width: length of a patch's vector.
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
    reading: Reading = field(default_factory=Reading)
    reader: Any = None
    input_px: int = 0
    compute: Compute | None = None
    asked: str = "auto"
    location: str = ""
    token_grid: tuple[int, int] | None = None
    token_width: int = 0

    def __post_init__(self) -> None:
        if self.reader is None and self.model is not None:
            object.__setattr__(self, "reader", Reader(TimmNetwork(self.model), self.pooling, self.reading.layers))
        if not self.input_px:
            object.__setattr__(self, "input_px", self.size_px)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, size_px, size_px, 3) uint8 RGB → (n, dim) float32."""
        return self.read(pixels, tokens=False)[0]

    def tokens(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, size_px, size_px, 3) uint8 RGB → (n, patches, width) float32, row by row of the grid of patches.

        After the last block and its norm, whatever the pooling; of the whole image, whatever the averaging. Of a
        convolutional network they are the places of its last map.

        Raises:
            UserError: it has no patches (`pixels`).
        """
        if self.token_grid is None:
            raise UserError(f"backbone `{self.name}` has no patch tokens: leave it out, or embed.tokens=false")
        found = self.read(pixels, tokens=True)[1]
        assert found is not None
        return found

    @torch.inference_mode()
    def read(
        self, pixels: NDArray[np.uint8], *, tokens: bool | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Vectors and patch tokens from one pass.

        Args:
            pixels: (n, size_px, size_px, 3) uint8 RGB.
            tokens: whether they are wanted; None: as the reading says, where there are any.

        Returns:
            (n, dim) float32 vectors, and (n, patches, width) float32 tokens or None.
        """
        if tokens is None:
            tokens = self.reading.tokens and self.token_grid is not None
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

    def _averaged(self, x: Tensor, tokens: bool) -> tuple[Tensor, Tensor | None]:
        """(n, 3, size_px, size_px) normalised → vectors, and tokens of the whole image if they are wanted."""
        total, places, n = None, None, 0
        for view in views(x, self.reading.average, self.input_px):
            if tokens and n == 0:  # the whole image comes first
                found, places = self.reader.both(view)
            else:
                found = self.reader(view)
            total, n = found.float() if total is None else total + found.float(), n + 1
        assert total is not None
        return total / n if n > 1 else total, places

    @property
    def computing(self) -> Compute:
        """How it is computed, decided when first asked for: forced, remembered or timed (`pellucid.embed.backbones.compute_choice`).

        Raises:
            UserError: the number type that was asked for is not for this device.
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
        noise = torch.Generator().manual_seed(0)  # the global generator is not ours
        pixels = torch.rand(most, 3, self.input_px, self.input_px, generator=noise).to(device)
        n = 0

        @torch.inference_mode()
        def one_pass(option: Compute) -> float:
            nonlocal n
            apply(self.model, option)  # type: ignore[arg-type]
            with option.autocast(device.type):
                if not n:
                    one = seconds_of(lambda: self.reader(option.placed(pixels[:1])), device)
                    n = max(1, min(len(pixels), int(_PASS_S / one)))
                x = option.placed(pixels[:n])
                return seconds_of(lambda: self.reader(x), device)

        with threads_of(1):  # as each worker has
            work = f"inference, {self.input_px} px, {self.pooling}, {self.reading.layers}"
            hardware = Hardware.of(device)
            chosen = choose(self.model, one_pass, work=work, hardware=hardware, asked=self.asked, budget_s=BUDGET_S)
        apply(self.model, chosen)
        return chosen

    def computed_by(self, compute: Compute) -> Backbone:
        """The same backbone, computed in a way that was chosen before; its network is set to it."""
        if self.model is not None:
            apply(self.model, compute)
        return replace(self, compute=compute if self.model is not None else Compute())

    def packed(self) -> Backbone:
        """The same with weights of products kept in the number type: autocast would cast them anew for each batch.

        The numbers are those of the backbone itself, bit by bit; only `read` and `__call__` may be used.
        """
        if self.model is None or self.computing.precision == "float32" or not isinstance(self.reader, Reader):
            return self
        if next(self.model.parameters()).device.type != "cpu":
            return self
        products = (torch.nn.Linear, torch.nn.Conv2d)
        if all(m.weight.dtype == self.computing.dtype for m in self.reader.modules() if isinstance(m, products)):
            return self  # packed already
        reader = copy.deepcopy(self.reader)
        for module in reader.modules():
            if isinstance(module, products):
                module.to(self.computing.dtype)
        return replace(self, model=reader.model, reader=reader)

    def spec(self) -> dict[str, Any]:
        """All that `spec.json` says of the backbone and of how it is computed; plain JSON values."""
        computing = self.computing
        said = {**self._said(), "computed_in": computing.precision, "compute": computing.record(), **self.details}
        return {**said, "space": space_of(said)}

    def _said(self) -> dict[str, Any]:
        network = self.model is not None
        said: dict[str, Any] = {
            "backbone": self.name,
            "location": self.location or self.name,
            "fingerprint": self.fingerprint,
            "size_px": self.size_px,
            "input_px": self.input_px,
            "fit": "stretch",  # the whole image onto the square: no border is lost
            "pooling": self.pooling if network else "none",
            "layers": self.reading.layers if network else "none",
            "average": self.reading.average if network else "none",
            "mean": list(self.mean) if network else None,
            "std": list(self.std) if network else None,
            "unit": "image",
            "normalised": False,  # the vectors are as the network gave them; an index scales its copy to length 1
            "dtype": "float32",
            "made_with": package_versions(("pellucid", "torch", "timm")),
            **self.details,
        }
        if self.reading.tokens and self.token_grid is not None:
            said["tokens"] = {"grid": list(self.token_grid), "width": self.token_width, "dtype": "float16"}
        return said

    @property
    def space(self) -> str:
        """Hex sha256 of what makes its vectors comparable with others."""
        return space_of(self._said())


def load_backbone(
    name: str, device: str = "auto", reading: Reading | None = None, compute: Compute | str = "auto"
) -> Backbone:
    """The encoder that a name stands for.

    Args:
        name: `pixels`; `timm:NAME` (pretrained weights, cached or downloaded because they were asked for);
            `timm-random:NAME` (seeded random weights); `run:FOLDER` (a pretrain run); `hf:FOLDER` or `hf:OWNER/NAME` (a
            vision tower as transformers saves it); `file:WEIGHTS.safetensors@TIMM_NAME` (a state dict of a timm network).
            `@SIZE` after timm's name, or after what follows `hf:`, sets the side of the square in pixels.
        device: auto, cpu or cuda.
        reading: pooling, layers and views; None: as the backbone itself says. `pixels` has nothing to choose.
        compute: auto, float32, bfloat16 or float16; or a choice that was made before (of a store, of another process).

    Raises:
        UserError: no such backbone, weights not to be had, a damaged file, or a reading that the network does not allow.
    """
    reading = reading or Reading()
    asked = compute if isinstance(compute, str) else "auto"
    kind, _, rest = name.partition(":")
    if kind == "pixels" and not rest:
        fingerprint = hashlib.sha256(b"pellucid.pixels/1").hexdigest()
        return Backbone(
            "pixels", PIXELS_SIZE_PX, PIXELS_DIM, fingerprint, {"weights": "none"}, location=name, reading=Reading()
        )
    if kind in {"timm", "timm-random", "run", "hf", "file"} and rest:
        frozen = replace(freeze(_loaded(kind, name, rest), pick_device(device), reading, name), asked=asked)
        return frozen.computed_by(compute) if isinstance(compute, Compute) else frozen
    raise UserError(f"backbone `{name}` is not known: write {KINDS} (for example timm-random:vit_tiny_patch16_224)")


def _loaded(kind: str, name: str, rest: str) -> Source:
    if kind == "hf":
        from pellucid.embed.backbones.hf_backbone import from_transformers

        return from_transformers(name, rest)
    if kind == "file":
        from pellucid.embed.backbones.file_backbone import from_file

        return from_file(name, rest)
    from pellucid.embed.backbones.timm_backbone import from_run, from_timm

    return from_run(Path(rest)) if kind == "run" else from_timm(name, rest, kind == "timm")


def freeze(source: Source, device: torch.device, reading: Reading, location: str = "") -> Backbone:
    """A loaded network as a backbone on a device, after one grey image has shown what comes out of it.

    Raises:
        UserError: it cannot be read that way.
    """
    network = source.network
    model = network.model.eval().requires_grad_(False)
    pooling = settle(source.name, network, source.said, reading)
    fingerprint = weights_sha256(model)
    reader = Reader(network, pooling, reading.layers).to(device)
    with torch.inference_mode():
        try:
            shown = reader.both(torch.zeros(1, 3, source.input_px, source.input_px, device=device))
        except Exception as error:
            raise UserError(
                f"backbone `{source.name}`: cannot be read with pooling {pooling}, layers {reading.layers} "
                f"({type(error).__name__}: {error}); use embed.pooling=auto and embed.layers=last"
            ) from None
    n_places, width = shown.places.shape[1:]
    side = round(n_places**0.5)
    return Backbone(
        source.name,
        square_px(reading.average, source.input_px),
        int(shown.vectors.shape[1]),
        fingerprint,
        source.details,
        model,
        pooling,
        source.mean,
        source.std,
        reading,
        reader,
        source.input_px,
        location=location or source.name,
        token_grid=(side, side) if side * side == n_places else None,
        token_width=int(width),
    )


def weights_sha256(model: torch.nn.Module) -> str:
    """Hex sha256 over the names and bytes of a network's tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor of any device and type as float32 in NumPy."""
    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


def slug(name: str) -> str:
    """A backbone's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but torch sees no GPU; use auto or cpu")
    return torch.device(device)
