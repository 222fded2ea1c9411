"""`hf:FOLDER` or `hf:OWNER/NAME`: vision towers as the library transformers saves them, with their own preprocessing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.cohort.errors import UserError
from pellucid.embed.backbones.network_adapters import Source
from pellucid.embed.backbones.pooling import Pooling, concatenated, pool_tokens
from pellucid.embed.backbones.weight_loading import listed

# model_type in config.json → class in transformers, attribute that holds the final norm, what `auto` pooling is.
_TOWERS: dict[str, tuple[str, str, Pooling]] = {
    "vit": ("ViTModel", "layernorm", "cls"),
    "vit_mae": ("ViTMAEModel", "layernorm", "mean"),  # no loss ever reaches its class token directly
    "dinov2": ("Dinov2Model", "layernorm", "cls"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "layernorm", "cls"),
    "dinov3_vit": ("DINOv3ViTModel", "norm", "cls"),
    "clip": ("CLIPVisionModel", "post_layernorm", "cls"),  # of a whole CLIP the vision tower alone is loaded
    "clip_vision_model": ("CLIPVisionModel", "post_layernorm", "cls"),
}
_RESIZES = {
    "vit",
    "vit_mae",
    "clip",
    "clip_vision_model",
}  # must be told to interpolate their positions; others do always
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
]
_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)?")


class HfNetwork:
    """A vision transformer of transformers.

    The class token of CLIP is read after its post-norm and before the projection to the text's space, as its own linear
    evaluation does (Radford et al. 2021, section 3.2).
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
        if (
            self._masks
        ):  # which patches are hidden is drawn from this noise; none are, and rising noise keeps their order
            steps = pixels.new_ones(pixels.shape[0], self.n_patches).cumsum(dim=1)
            arguments["noise"] = steps
        if n_last == 1:
            last: Tensor = self.model(pixel_values=pixels, **arguments).last_hidden_state
            return [last if self._norm_is_last else self._norm(last)]
        hidden = self.model(pixel_values=pixels, output_hidden_states=True, **arguments).hidden_states
        return [self._norm(h) for h in hidden[-n_last:]]

    def places(self, features: Tensor) -> Tensor:
        return features[:, self.n_prefix :].float()

    def pooled(self, features: list[Tensor], pooling: Pooling) -> Tensor:
        how = self.own_pooling if pooling == "model" else pooling
        return concatenated([part for one in features for part in pool_tokens(one, how, self.n_prefix or 0)])


def from_transformers(name: str, rest: str) -> Source:
    """A local folder, or a repository from the local cache or (because it was asked for) from the hub; `@SIZE` behind it.

    Raises:
        UserError: transformers is not installed, the files are not to be had, or are no vision tower that we know.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"backbone `{name}` needs the library transformers: install it with `pip install 'pellucid[hf]'`, and repeat"
        ) from None
    where, size = _sized(rest)
    folder, short = _folder(name, where)
    config = _json(name, folder / "config.json")
    kind = str(config.get("model_type", ""))
    if kind not in _TOWERS:
        raise UserError(
            f"backbone `{name}`: {folder / 'config.json'} is of a model of type `{kind or 'unknown'}`; vision towers that can "
            f"be read are of type {', '.join(sorted(_TOWERS))}"
        )
    side, mean, std = preprocessing(name, folder)
    side = size or side
    model = _loaded(name, folder, kind, getattr(transformers, _TOWERS[kind][0]), transformers)
    patch = int(model.config.patch_size)
    if side % patch:
        raise UserError(
            f"backbone `{name}`: squares of {side} pixels are no whole number of patches of {patch}: write "
            f"@{max(1, side // patch) * patch} or @{(side // patch + 1) * patch} behind the name"
        )
    details = {"weights": "pretrained", "model_type": kind, "transformers": transformers.__version__}
    network = HfNetwork(model, kind, side)
    return Source(f"hf:{short}" + (f"@{size}" if size else ""), network, side, network.own_pooling, mean, std, details)


def _sized(rest: str) -> tuple[str, int | None]:
    where, at, size = rest.rpartition("@")
    return (where, int(size)) if at and size.isdigit() else (rest, None)


def _folder(name: str, where: str) -> tuple[Path, str]:
    """The local folder of the files, and what the backbone is called."""
    path = Path(where).expanduser()
    if path.is_dir():
        return path, path.resolve().name
    if not _REPOSITORY.fullmatch(where) or where.startswith((".", "/", "~")):
        raise UserError(f"backbone `{name}`: there is no folder {path}")
    return _fetched(name, where), where


def _fetched(name: str, repository: str) -> Path:
    """A repository's folder in the local cache; what is not there is fetched, if the hub answers within seconds."""
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
            f"backbone `{name}`: there is no such folder, {repository} is not in the local cache, and it cannot be fetched "
            f"from the hub ({type(error).__name__}): fetch it once on a machine with a network (`hf download {repository}`) "
            "and copy its folder or the cache"
        ) from None


def _json(name: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"backbone `{name}`: {path.parent} holds no {path.name}; is it a model as transformers saves it?"
        )
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"backbone `{name}`: {path} is damaged ({error}); copy it again") from None
    if not isinstance(said, dict):
        raise UserError(f"backbone `{name}`: {path} is damaged (it is no mapping); copy it again")
    return said


def preprocessing(name: str, folder: Path) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Side of the square in pixels, and mean and standard deviation of pixels in 0–1, as the model's own description says.

    Where that resizes to one size and cuts the centre out, the side is the centre's: we stretch the whole image onto the
    square instead, so that no border is lost. Pixels that are rescaled by another factor than 1/255 are brought into the
    mean and the deviation.

    Raises:
        UserError: there is no description, or it is of other than square pictures.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file() or not (folder / "processor_config.json").is_file():
        said = _json(name, path)
    else:
        said = _json(name, folder / "processor_config.json").get("image_processor", {})
    cut = said.get("do_center_crop") and said.get("crop_size") is not None
    size = said.get("crop_size") if cut else said.get("size")
    if isinstance(size, dict):
        sides = {size[key] for key in ("height", "width", "shortest_edge") if key in size}
    else:
        sides = {size} if isinstance(size, int) else set()
    if len(sides) != 1:
        raise UserError(f"backbone `{name}`: {path.name} gives the size {size}, but squares of one side are needed")
    factor = 255 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
    if abs(factor - 1) < 1e-6:
        factor = 1.0
    if said.get("do_normalize", True):
        try:
            mean, std = [float(m) for m in said["image_mean"]], [float(s) for s in said["image_std"]]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"backbone `{name}`: {path.name} says no image_mean and image_std") from None
    else:
        mean, std = [0.0] * 3, [1.0] * 3
    if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
        raise UserError(
            f"backbone `{name}`: {path.name} gives mean {mean} and deviation {std}; three of each are needed"
        )
    return int(sides.pop()), tuple(m / factor for m in mean), tuple(s / factor for s in std)


def _loaded(name: str, folder: Path, kind: str, tower: Any, transformers: Any) -> Any:
    """The network with all its weights from the folder; never a part of them with the rest at random."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"backbone `{name}`: {folder} holds no .safetensors; save the model again with a recent transformers "
            "(`model.save_pretrained(FOLDER)`)"
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
        wrong += [f"{len(mismatching)} of another shape: {listed(mismatching)}"] if mismatching else []
        raise UserError(f"backbone `{name}`: not all weights of the vision tower are in {folder} ({'; '.join(wrong)})")
    return model
