"""A backbone's name → a frozen encoder with its own preprocessing; every name is loaded here and nowhere else."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.layers import set_fused_attn

from cohort.config import did_you_mean
from cohort.errors import UserError
from cohort.runs import sha256_file
from embed.pixels import PIXELS_DIM, PIXELS_SIZE_PX, pixel_features

Pooling = Literal["cls", "mean", "model"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder: uint8 squares in, one float32 vector an image out.

    Attributes:
        name: as given, with a path reduced to the run's name.
        size_px: side of the squares it takes.
        dim: length of its vectors.
        fingerprint: sha256 of its weights (or, for `pixels`, of its definition).
        details: what `spec.json` says of it.
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

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, size_px, size_px, 3) uint8 RGB → (n, dim) float32."""
        if self.model is None:
            return np.stack([pixel_features(p) for p in pixels]) if len(pixels) else np.empty((0, self.dim), np.float32)
        weight = next(self.model.parameters())
        x = torch.from_numpy(pixels).to(weight.device).permute(0, 3, 1, 2).float() / 255
        x = (x - x.new_tensor(self.mean).view(1, 3, 1, 1)) / x.new_tensor(self.std).view(1, 3, 1, 1)
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=has_bf16(weight.device)):
            features = self.model.forward_features(x)  # type: ignore[operator]
            pooled = pool(self.model, features, self.pooling)
        return np.asarray(pooled.float().cpu().numpy(), dtype=np.float32)


def pool(model: Any, features: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(n, tokens, dim) or a convolutional map → (n, dim)."""
    if pooling == "model" or features.ndim != 3:
        return model.forward_head(features, pre_logits=True)  # type: ignore[no-any-return]
    if pooling == "cls":
        return features[:, 0]
    return features[:, model.num_prefix_tokens :].mean(dim=1)


def load_backbone(name: str, device: str = "auto") -> Backbone:
    """The encoder that a name stands for.

    Args:
        name: `pixels`; `timm:NAME` (pretrained weights, cached or downloaded because they were asked for);
            `timm-random:NAME` (seeded random weights); `run:FOLDER` (a pretrain run). `@SIZE` after a timm name sets the
            side of the square in pixels.
        device: auto, cpu or cuda.

    Raises:
        UserError: no such backbone, weights not to be had, or a damaged export.
    """
    kind, _, rest = name.partition(":")
    if kind == "pixels" and not rest:
        fingerprint = hashlib.sha256(b"pellucid.pixels/1").hexdigest()
        return Backbone("pixels", PIXELS_SIZE_PX, PIXELS_DIM, fingerprint, {"weights": "none"})
    if kind in {"timm", "timm-random"} and rest:
        return _from_timm(name, rest, kind == "timm", pick_device(device))
    if kind == "run" and rest:
        return _from_run(Path(rest), pick_device(device))
    raise UserError(
        f"backbone `{name}` is not known: write pixels, timm:NAME, timm-random:NAME or run:FOLDER "
        "(for example timm-random:vit_tiny_patch16_224)"
    )


def _from_timm(name: str, rest: str, pretrained: bool, device: torch.device) -> Backbone:
    architecture, _, size = rest.partition("@")
    if size and not size.isdigit():
        raise UserError(f"backbone `{name}`: after @ stands the side of the square in pixels, for example @112")
    if not timm.is_model(architecture):
        near = did_you_mean(architecture.split(".")[0], timm.list_models())
        raise UserError(f"backbone `{name}`: timm has no model `{architecture}`{near}")
    if pretrained:
        require_weights(name, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are a baseline: everybody's must be the same
        try:
            model = timm.create_model(
                architecture, pretrained=pretrained, num_classes=0, **({"img_size": int(size)} if size else {})
            )
        except TypeError:
            raise UserError(f"backbone `{name}`: {architecture} takes no @SIZE") from None
        except Exception as error:
            raise UserError(f"backbone `{name}`: cannot be made ({type(error).__name__}: {error})") from None
    config = timm.data.resolve_data_config({}, model=model)
    details = {"timm_name": architecture, "weights": "pretrained" if pretrained else "random, seed 0"}
    return _frozen(
        name,
        model,
        int(size) if size else int(config["input_size"][-1]),
        "model",
        config["mean"],
        config["std"],
        details,
        device,
    )


def require_weights(name: str, architecture: str) -> None:
    """Say within seconds that weights are not to be had; the hub client alone would retry for most of a minute."""
    import huggingface_hub

    config = timm.get_pretrained_cfg(architecture)
    repository = getattr(config, "hf_hub_id", None)
    if config is None or not (repository or config.url or config.file):
        raise UserError(
            f"backbone `{name}`: timm has no pretrained weights for {architecture}; timm-random:{architecture} has"
        )
    if not repository:
        return
    names = ("model.safetensors", "pytorch_model.bin", config.hf_hub_filename or "")
    if any(n and isinstance(huggingface_hub.try_to_load_from_cache(repository, n), str) for n in names):
        return
    try:
        huggingface_hub.HfApi().model_info(repository, timeout=5)
    except Exception as error:
        raise UserError(
            f"backbone `{name}`: its weights ({repository}) are not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}): fetch them once on a machine with a network and copy the cache, or use "
            f"timm-random:{architecture} or run:FOLDER"
        ) from None


def _from_run(folder: Path, device: torch.device) -> Backbone:
    from safetensors.torch import load_file

    weights, description = folder / "backbone.safetensors", folder / "preprocess.json"
    if not weights.is_file() or not description.is_file():
        raise UserError(
            f"run:{folder}: holds no backbone.safetensors with preprocess.json; is it a finished pretrain run?"
        )
    said = json.loads(description.read_text(encoding="utf-8"))
    try:
        sized = {"img_size": said["img_size"]} if _takes_size(said["timm_name"]) else {}
        model = timm.create_model(said["timm_name"], pretrained=False, num_classes=0, **sized)
        model.load_state_dict(load_file(weights), strict=True)
    except Exception as error:
        raise UserError(
            f"run:{folder}: the exported backbone cannot be loaded ({type(error).__name__}: {error})"
        ) from None
    details = {k: said[k] for k in ("timm_name", "method", "recipe", "n_images_trained") if k in said}
    return _frozen(
        f"run:{folder.name}", model, int(said["img_size"]), said["pooling"], said["mean"], said["std"],
        {**details, "weights": "pretrained by this study", "file_sha256": sha256_file(weights)}, device,
    )  # fmt: skip


def _takes_size(architecture: str) -> bool:
    """Whether the model is built for one image size; a convolutional one is not."""
    with torch.device("meta"):
        return hasattr(timm.create_model(architecture, pretrained=False), "patch_embed")


def _frozen(
    name: str,
    model: Any,
    size_px: int,
    pooling: Pooling,
    mean: Any,
    std: Any,
    details: dict[str, Any],
    device: torch.device,
) -> Backbone:
    model = model.eval().requires_grad_(False)
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    if device.type == "cpu" and has_bf16(device):
        set_fused_attn(False)  # the CPU's fused kernel takes 43 % of a bf16 ViT-Ti; explicit matmuls are 1.33× faster
    return Backbone(
        name,
        size_px,
        int(model.num_features),
        digest.hexdigest(),
        details,
        model.to(device),
        pooling,
        tuple(mean),
        tuple(std),
    )


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


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware; emulated it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(_cpu_has_bf16())


def _cpu_has_bf16() -> bool:
    """mkldnn claims bfloat16 on every AVX-512 processor; only these flags mean instructions for it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
