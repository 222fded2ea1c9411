"""A pretraining recipe: `configs/pretrain/NAME.yaml` < the study's `pretrain:` section, as one checked, typed
object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pellucid.cohort.config import did_you_mean, find_recipe, read_yaml, validate
from pellucid.cohort.errors import UserError
from pellucid.cohort.yaml_file import merged
from pellucid.pretrain.recipe.base import Machine, Optimizer, Recipe
from pellucid.pretrain.recipe.methods import (
    METHODS,
    AnyRecipe,
    DinoConfig,
    DinoRecipe,
    DinoV2Config,
    DinoV2Recipe,
    LeJepaConfig,
    LeJepaRecipe,
    MaeConfig,
    MaeRecipe,
)
from pellucid.pretrain.recipe.monitoring import Health, WatchConfig
from pellucid.pretrain.recipe.specialty_presets import Augmentation, explain, preset_for, with_preset
from pellucid.pretrain.recipe.view_settings import (
    Acquisition,
    AlteredCrop,
    Colour,
    Crop,
    DinoViews,
    LocalCrops,
    MaeViews,
    Range,
    Views,
)
from pellucid.pretrain.recipe.warm_start_settings import WarmStart

__all__ = [
    "METHODS", "Acquisition", "AlteredCrop", "AnyRecipe", "Colour", "Crop", "DinoConfig", "DinoRecipe",
    "DinoV2Config", "DinoV2Recipe", "DinoViews", "Health", "LeJepaConfig", "LeJepaRecipe", "LocalCrops", "Machine",
    "MaeConfig", "MaeRecipe", "MaeViews", "Optimizer", "Range", "Recipe", "Views", "WarmStart", "WatchConfig",
    "augmentation_sentences", "load_recipe",
]  # fmt: skip

DEFAULT_RECIPE = "lejepa-tiny-cpu"


def load_recipe(
    section: Mapping[str, Any], where: str = "pretrain", folder: Path = Path(), specialty: str | None = None
) -> tuple[str, AnyRecipe]:
    """Name and content of the recipe that a `pretrain:` section asks for.

    Priority: the recipe's file < the specialty's augmentation (specialty_presets.py) < the section itself.

    Args:
        section: `{recipe: NAME or PATH.yaml, key: value, …}`; its values override those of the recipe.
        where: name of the section in messages.
        folder: base of a relative recipe path.
        specialty: the study's.

    Raises:
        UserError: no such recipe, an unknown key, or a value out of range.
    """
    name, _, recipe, _, _ = _resolved(section, where, folder, specialty)
    return name, recipe


def augmentation_sentences(
    section: Mapping[str, Any], where: str = "pretrain", folder: Path = Path(), specialty: str | None = None
) -> list[str]:
    """What the specialty changed in the recipe's augmentation, and why; arguments as `load_recipe`."""
    _, base, recipe, preset_name, preset = _resolved(section, where, folder, specialty)
    return explain(base, recipe.model_dump(mode="json"), preset, preset_name)


def _resolved(
    section: Mapping[str, Any], where: str, folder: Path, specialty: str | None
) -> tuple[str, dict[str, Any], AnyRecipe, str, Augmentation]:
    """Name and content of the recipe's file, the final recipe, and name and content of the preset between them."""
    changes = dict(section)
    named = str(changes.pop("recipe", DEFAULT_RECIPE))
    is_path = named.endswith((".yaml", ".yml"))
    path = folder / named if is_path else find_recipe("pretrain", named)
    base = read_yaml(path)
    recipe = _checked(base, str(path))
    if "method" in changes and changes["method"] != recipe.method:
        raise UserError(
            f"{where}: `method` cannot be changed ({path.stem} uses {recipe.method}): choose another `recipe`"
        )
    for key, other in (("images_seen", "epochs"), ("epochs", "images_seen")):
        if changes.get(key) is not None and other not in changes:
            base.pop(other, None)  # the study's length replaces the recipe's, also in the other unit
    asked = {key: changes.get(key, getattr(recipe, key)) for key in ("augmentation", "acquisition_robust")}
    preset_name, preset = preset_for(str(asked["augmentation"]), specialty)
    if changes.get("img_size") is not None:
        base["img_size"] = changes["img_size"]  # blur limits are relative to it
    limited = with_preset(base, preset, acquisition_robust=asked["acquisition_robust"] is True)
    return path.stem, base, _checked(merged([limited, changes]), where), preset_name, preset


def _checked(data: Mapping[str, Any], where: str) -> AnyRecipe:
    method = str(data.get("method"))
    if method not in METHODS:
        raise UserError(
            f"{where}: `method` is {data.get('method')!r}{did_you_mean(method, METHODS)}; there are: "
            f"{', '.join(METHODS)}"
        )
    return validate(METHODS[method], data, where)
