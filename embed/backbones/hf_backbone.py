"""`hf:FOLDER` or `hf:OWNER/NAME`: vision towers saved by the library transformers, with their preprocessing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.network_adapters import LoadedNetwork
from pellucid.embed.backbones.pooling import Pooling, concatenated, pool_tokens
from pellucid.embed.backbones.weight_loading import listed

# model_type in config.json → class in transformers, attribute with the final norm, meaning of `auto` pooling.
_TOWERS: dict[str, tuple[str, str, Pooling]] = {
    "vit": ("ViTModel", "layernorm", "cls"),
    "vit_mae": ("ViTMAEModel", "layernorm", "mean"),  # the MAE loss does not train the class token directly
    "dinov2": ("Dinov2Model", "layernorm", "cls"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "layernorm", "cls"),
    "dinov3_vit": ("DINOv3ViTModel", "norm", "cls"),
    "clip": ("CLIPVisionModel", "post_layernorm", "cls"),  # only the vision tower of a CLIP model is loaded
    "clip_vision_model": ("CLIPVisionModel", "post_layernorm", "cls"),
}
_RESIZES = {"vit", "vit_mae", "clip", "clip_vision_model"}  # interpolate positions on request only; others always do
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
]
_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)?")


class HfNetwork:
    """A vision transformer of the library transformers.

    CLIP's class token is taken after the post-norm and before the projection to the joint space, as in CLIP's linear
    evaluation (Radford et al. 2021, section 3.2).
    """

    def __init__(self, model: Any, kind: str, input_px: int) -> None:
        self.model = model
        _, norm, self.own_pooling = _TOWERS[kind]
        self.has_class_token = True
        self.n_prefix: int | None = 1 + int(getattr(model.config, "num_register_tokens", 0) or 0)
        self.n_blocks = int(model.config.num_hidden_layers)
        self._norm_is_last = kind not in {"clip", "clip_vision_model"}
        self._norm = getattr(model, norm) if hasattr(model, norm) else getattr(model.vision_model, norm)
        self._masks = kind == "vit_mae"
        resize = kind in _RESIZES and input_px != model.config.image_size
        self._arguments: dict[str, Any] = {"interpolate_pos_encoding": True} if resize else {}
        self.n_patches = (input_px // int(model.config.patch_size)) ** 2

    def features(self, pixels: Tensor, n_last: int) -> list[Tensor]:
        arguments = dict(self._arguments)
        if self._masks:
            # ViT-MAE sorts patches by this noise before masking. The mask ratio is 0, and rising noise keeps the order.
            arguments["noise"] = pixels.new_ones(pixels.shape[0], self.n_patches).cumsum(dim=1)
        if n_last == 1:
            last: Tensor = self.model(pixel_values=pixels, **arguments).last_hidden_state
            return [last if self._norm_is_last else self._norm(last)]
        hidden = self.model(pixel_values=pixels, output_hidden_states=True, **arguments).hidden_states
        return [self._norm(h) for h in hidden[-n_last:]]

    def places(self, features: Tensor) -> Tensor:
        return features[:, self.n_prefix :].float()

    def pooled(self, features: list[Tensor], pooling: Pooling) -> Tensor:
        rule = self.own_pooling if pooling == "model" else pooling
        return concatenated([part for output in features for part in pool_tokens(output, rule, self.n_prefix or 0)])


def from_transformers(name: str, rest: str) -> LoadedNetwork:
    """Load a local folder, or a repository from the local cache or the hub; `@SIZE` may follow.

    Raises:
        UserError: transformers is not installed, the files are not available, or are not a supported vision tower.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"backbone `{name}` needs the library transformers: install it with `pip install 'pellucid[hf]'`"
        ) from None
    where, size = _sized(rest)
    folder, short = _folder(name, where)
    config = _json(name, folder / "config.json")
    kind = str(config.get("model_type", ""))
    if kind not in _TOWERS:
        raise UserError(
            f"backbone `{name}`: {folder / 'config.json'} describes a model of type `{kind or 'unknown'}`; supported "
            f"types are {', '.join(sorted(_TOWERS))}"
        )
    side, mean, std = preprocessing(name, folder)
    side = size or side
    model = _loaded(name, folder, kind, getattr(transformers, _TOWERS[kind][0]), transformers)
    patch = int(model.config.patch_size)
    if side % patch:
        raise UserError(
            f"backbone `{name}`: a side of {side} pixels is not a multiple of the patch size {patch}: append "
            f"@{max(1, side // patch) * patch} or @{(side // patch + 1) * patch} to the name"
        )
    details = {"weights": "pretrained", "model_type": kind, "transformers": transformers.__version__}
    network = HfNetwork(model, kind, side)
    return LoadedNetwork(
        f"hf:{short}" + (f"@{size}" if size else ""), network, side, network.own_pooling, mean, std, details
    )


def _sized(rest: str) -> tuple[str, int | None]:
    where, at, size = rest.rpartition("@")
    return (where, int(size)) if at and size.isdigit() else (rest, None)


def _folder(name: str, where: str) -> tuple[Path, str]:
    """The local folder with the files, and the short name of the backbone."""
    path = Path(where).expanduser()
    if path.is_dir():
        return path, path.resolve().name
    if not _REPOSITORY.fullmatch(where) or where.startswith((".", "/", "~")):
        raise UserError(f"backbone `{name}`: the folder {path} does not exist")
    return _fetched(name, where), where


def _fetched(name: str, repository: str) -> Path:
    """The folder of a repository in the local cache; missing files are fetched if the hub answers within seconds."""
    import huggingface_hub

    if all(
        isinstance(huggingface_hub.try_to_load_from_cache(repository, file), str)
        for file in ("config.json", "preprocessor_config.json")
    ):
        cached = Path(huggingface_hub.snapshot_download(repository, allow_patterns=_FILES, local_files_only=True))
        if any(cached.glob("*.safetensors")):
            return cached
    try:
        huggingface_hub.HfApi().model_info(repository, timeout=5)
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=_FILES))
    except Exception as error:
        raise UserError(
            f"backbone `{name}`: there is no such folder, {repository} is not in the local cache, and it cannot be "
            f"fetched from the hub ({type(error).__name__}): download it on a machine with a network (`hf download "
            f"{repository}`) and copy its folder or the cache"
        ) from None


def _json(name: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"backbone `{name}`: {path.parent} contains no {path.name}; is it a model saved by transformers?"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"backbone `{name}`: {path} is damaged ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"backbone `{name}`: {path} is damaged (not a mapping); copy it again")
    return content


def preprocessing(name: str, folder: Path) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Side of the square in pixels, and mean and standard deviation of pixels in 0–1, from the model's description.

    If the description resizes and then crops the centre, the side is that of the crop; we stretch the whole image onto
    the square instead, so that no border is lost. A rescaling factor other than 1/255 is folded into mean and
    deviation.

    Raises:
        UserError: there is no description, or its images are not square.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file() or not (folder / "processor_config.json").is_file():
        described = _json(name, path)
    else:
        described = _json(name, folder / "processor_config.json").get("image_processor", {})
    crops = described.get("do_center_crop") and described.get("crop_size") is not None
    size = described.get("crop_size") if crops else described.get("size")
    if isinstance(size, dict):
        sides = {size[key] for key in ("height", "width", "shortest_edge") if key in size}
    else:
        sides = {size} if isinstance(size, int) else set()
    if len(sides) != 1:
        raise UserError(f"backbone `{name}`: {path.name} gives the size {size}, but a square is needed")
    factor = 255 * float(described.get("rescale_factor", 1 / 255)) if described.get("do_rescale", True) else 255.0
    if abs(factor - 1) < 1e-6:
        factor = 1.0
    if described.get("do_normalize", True):
        try:
            mean, std = [float(m) for m in described["image_mean"]], [float(s) for s in described["image_std"]]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"backbone `{name}`: {path.name} has no image_mean and image_std") from None
    else:
        mean, std = [0.0] * 3, [1.0] * 3
    if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
        raise UserError(
            f"backbone `{name}`: {path.name} gives mean {mean} and standard deviation {std}; three values of each "
            "are needed"
        )
    return int(sides.pop()), tuple(m / factor for m in mean), tuple(s / factor for s in std)


def _loaded(name: str, folder: Path, kind: str, tower: Any, transformers: Any) -> Any:
    """The network with all its weights from the folder; a folder with only a part of them is refused."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"backbone `{name}`: {folder} contains no .safetensors file; save the model again with a recent "
            "transformers (`model.save_pretrained(FOLDER)`)"
        )
    arguments: dict[str, Any] = {"add_pooling_layer": False} if kind == "vit" else {}
    if kind == "vit_mae":
        arguments["mask_ratio"] = 0.0
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it warns of the classifier that it leaves out
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        model, report = tower.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, trust_remote_code=False,
            dtype="float32", ignore_mismatched_sizes=True, **arguments,
        )  # fmt: skip
    except Exception as error:
        raise UserError(
            f"backbone `{name}`: the weights in {folder} cannot be loaded ({type(error).__name__}: {error})"
        ) from None
    finally:
        transformers.logging.set_verbosity(level)
        if shown:
            transformers.logging.enable_progress_bar()
    missing = sorted(str(key) for key in report["missing_keys"])
    mismatching = sorted(str(m[0] if isinstance(m, (tuple, list)) else m) for m in report["mismatched_keys"])
    if missing or mismatching:
        wrong = [f"{len(missing)} missing: {listed(missing)}"] if missing else []
        wrong += [f"{len(mismatching)} with another shape: {listed(mismatching)}"] if mismatching else []
        raise UserError(
            f"backbone `{name}`: {folder} does not contain all weights of the vision tower ({'; '.join(wrong)})"
        )
    return model
