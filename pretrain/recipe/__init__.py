"""A pretraining recipe: `configs/pretrain/NAME.yaml` < the study's `pretrain:` section, as one checked, typed object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cohort.config import did_you_mean, find_recipe, read_yaml, validate
from cohort.errors import UserError
from pretrain.recipe.base import Machine, Optimizer, Recipe
from pretrain.recipe.health import Health, Watch
from pretrain.recipe.methods import (
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
from pretrain.recipe.views import Acquisition, AlteredCrop, Colour, Crop, DinoViews, LocalCrops, MaeViews, Range, Views
from pretrain.recipe.warm_start import WarmStart

__all__ = [
    "METHODS", "Acquisition", "AlteredCrop", "AnyRecipe", "Colour", "Crop", "DinoConfig", "DinoRecipe",
    "DinoV2Config", "DinoV2Recipe", "DinoViews", "Health", "LeJepaConfig", "LeJepaRecipe", "LocalCrops", "Machine",
    "MaeConfig", "MaeRecipe", "MaeViews", "Optimizer", "Range", "Recipe", "Views", "WarmStart", "Watch", "load_recipe",
]  # fmt: skip

DEFAULT_RECIPE = "mae-tiny-cpu"


def load_recipe(section: Mapping[str, Any], where: str = "pretrain", folder: Path = Path()) -> tuple[str, AnyRecipe]:
    """Name and content of the recipe that a `pretrain:` section asks for.

    Args:
        section: `{recipe: NAME or PATH.yaml, key: value that overrides the recipe's, …}`.
        where: how messages name the section.
        folder: what a relative recipe path is relative to.

    Raises:
        UserError: no such recipe, an unknown key (with the nearest known one), or values out of range.
    """
    changes = dict(section)
    named = str(changes.pop("recipe", DEFAULT_RECIPE))
    is_path = named.endswith((".yaml", ".yml"))
    path = folder / named if is_path else find_recipe("pretrain", named)
    base = read_yaml(path)
    recipe = _checked(base, str(path))
    if not changes:
        return path.stem, recipe
    if "method" in changes and changes["method"] != recipe.method:
        raise UserError(
            f"{where}: `method` cannot change a recipe's method ({path.stem} is {recipe.method}): name another `recipe`"
        )
    for key, other in (("images_seen", "epochs"), ("epochs", "images_seen")):
        if changes.get(key) is not None and other not in changes:
            base.pop(other, None)  # the length in the study replaces the recipe's, in whichever unit
    merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(changes)))
    assert isinstance(merged, dict)
    return path.stem, _checked({str(key): value for key, value in merged.items()}, where)


def _checked(data: Mapping[str, Any], where: str) -> AnyRecipe:
    method = str(data.get("method"))
    if method not in METHODS:
        raise UserError(
            f"{where}: `method` is {data.get('method')!r}{did_you_mean(method, METHODS)}; there are: {', '.join(METHODS)}"
        )
    return validate(METHODS[method], data, where)
