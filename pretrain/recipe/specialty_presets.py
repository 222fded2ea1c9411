"""Augmentation presets of specialties: which changes of a recipe's views are harmful there, and why.

The section `augmentation:` of `configs/specialty/NAME.yaml` overrides the recipe, and the study overrides both.
Orientation is replaced, because it depends on the specialty. Crops are given a minimum size. Colour, blur and
solarisation are limited, never increased. Settings that a recipe does not have (colour in MAE) are not added.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from pellucid.cohort.config import Config, find_recipe, read_yaml, validate
from pellucid.pretrain.recipe.view_settings import Acquisition, Views

Probability = float | None


class Orientation(Config):
    """Replaces the recipe's settings of the same names."""

    flip: Probability = Field(None, ge=0, le=1)
    flip_vertical: Probability = Field(None, ge=0, le=1)
    quarter_turns: Probability = Field(None, ge=0, le=1)
    rotate_deg: float | None = Field(None, ge=0, le=180)
    because: str


class SmallestCrop(Config):
    """Minimum share of the image's area in views that are compared; MAE's crops are not."""

    large: Probability = Field(None, gt=0, le=1)  # of the global views
    local: Probability = Field(None, gt=0, le=1)
    because: str


class ColourLimits(Config):
    """Upper limits of the recipe's colour settings."""

    brightness: Probability = Field(None, ge=0, le=1)
    contrast: Probability = Field(None, ge=0, le=1)
    saturation: Probability = Field(None, ge=0, le=1)
    hue: Probability = Field(None, ge=0, le=0.5)
    grayscale: Probability = Field(None, ge=0, le=1)
    because: str


class BlurLimits(Config):
    """Upper limits of blur."""

    probability: Probability = Field(None, ge=0, le=1)
    sigma_share: Probability = Field(None, gt=0, le=1)  # standard deviation as a share of the large views' side
    because: str


class SolarizeLimit(Config):
    """Upper limit of solarisation."""

    probability: float = Field(ge=0, le=1)
    because: str


class AcquisitionStrength(Acquisition):
    """Settings that `acquisition_robust: true` applies."""

    because: str


class Augmentation(Config):
    """A specialty's preset; missing groups do not change the recipe."""

    orientation: Orientation | None = None
    smallest_crop: SmallestCrop | None = None
    colour: ColourLimits | None = None
    blur: BlurLimits | None = None
    solarize: SolarizeLimit | None = None
    acquisition: AcquisitionStrength | None = None


def load_preset(specialty: str | None) -> Augmentation:
    """The preset of a specialty: configs/specialty/default.yaml, overridden by the specialty's file.

    Args:
        specialty: a name in configs/specialty; None for the default, which only sets the strength of acquisition-robust
            augmentation.

    Raises:
        UserError: there is no such specialty, or its section is invalid.
    """
    name = specialty or "default"
    paths = [find_recipe("specialty", "default"), find_recipe("specialty", name)]
    section = read_yaml(list(dict.fromkeys(paths))).get("augmentation") or {}
    return validate(Augmentation, section, f"augmentation of `{name}`")


def preset_for(augmentation: str, specialty: str | None) -> tuple[str, Augmentation]:
    """Name and content of the preset for a recipe's setting `augmentation`.

    Args:
        augmentation: `specialty` (the study's), `recipe` (no preset), or the name of another specialty.
        specialty: the study's; None if it has none.

    Raises:
        UserError: see `load_preset`.
    """
    name = {"specialty": specialty, "recipe": None}.get(augmentation, augmentation)
    return name or "default", load_preset(name)


def with_preset(recipe: Mapping[str, Any], preset: Augmentation, *, acquisition_robust: bool = False) -> dict[str, Any]:
    """A copy of the recipe, as read from YAML, with the preset applied to its `views`.

    Args:
        recipe: with `views` and `img_size`; it need not be valid, the recipe is checked later.
        acquisition_robust: apply acquisition-robust augmentation with the preset's strength.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(recipe))
    views = changed.get("views")
    if not isinstance(views, dict):
        return changed
    if preset.orientation is not None:
        views.update(_said(preset.orientation))
    for name, crop in views.items():
        if isinstance(crop, dict) and "scale" in crop:
            _limit_crop(crop, name, preset)
    if preset.colour is not None and isinstance(views.get("colour"), dict):
        for name, most in _said(preset.colour).items():
            if name in views["colour"]:
                views["colour"][name] = min(float(views["colour"][name]), most)
    share = preset.blur.sigma_share if preset.blur is not None else None
    side = changed.get("img_size")
    if (
        share is not None and "blur_sigma_px" in views and isinstance(side, int | float)
    ):  # else the recipe's check reports it
        most = round(share * side, 3)
        views["blur_sigma_px"] = [min(float(sigma), most) for sigma in views["blur_sigma_px"]]
    if acquisition_robust and preset.acquisition is not None:
        views["acquisition"] = _said(preset.acquisition)
    return changed


def _limit_crop(crop: dict[str, Any], name: str, preset: Augmentation) -> None:
    if preset.smallest_crop is not None and name != "crop":  # MAE's `crop` is not compared with other views
        least = preset.smallest_crop.local if name == "local" else preset.smallest_crop.large
        crop["scale"] = [max(float(share), least or 0.0) for share in crop["scale"]]
    for name, limit in (("blur", preset.blur), ("solarize", preset.solarize)):
        if limit is not None and limit.probability is not None and name in crop:
            crop[name] = min(float(crop[name]), limit.probability)


def explain(before: Mapping[str, Any], after: Mapping[str, Any], preset: Augmentation, name: str) -> list[str]:
    """What the preset changed in a recipe and why: one sentence per group, for the terminal and the training page.

    Args:
        before: the recipe's file.
        after: the final recipe, after the preset and the study's settings.
        name: of the specialty.
    """
    with_it = with_preset(before, preset, acquisition_robust=_robust(after))
    old, meant, used = (dict(_leaves(recipe.get("views") or {})) for recipe in (before, with_it, after))
    groups: dict[str, list[str]] = {}
    for key, value in meant.items():
        was = old.get(key, _default(key))
        if value == was or used.get(key, _default(key)) == was:
            continue
        now = used[key]
        own = "" if now == value else f" (set in the study; the preset {name} has {_text(value)})"
        groups.setdefault(_group(key), []).append(f"{key} {_text(was)} → {_text(now)}{own}")
    sentences = []
    for group, changes in groups.items():
        reason = getattr(preset, group).because
        sentences.append(f"{name}, {group.replace('_', ' ')}: {', '.join(changes)}, because {reason}")
    overruled = [
        f"{key} remains {_text(old.get(key, _default(key)))}, as set in the study; the preset {name} has "
        f"{_text(value)}, because {getattr(preset, _group(key)).because}"
        for key, value in meant.items()
        if value != old.get(key, _default(key)) and used.get(key, _default(key)) == old.get(key, _default(key))
    ]
    if _robust(after) and (after.get("method") == "mae"):
        overruled.append(
            "acquisition-robust augmentation has little effect with MAE, which also reconstructs the simulated device; "
            "methods that compare views (dino, dinov2, lejepa) learn to ignore it"
        )
    return sentences + overruled


def _robust(recipe: Mapping[str, Any]) -> bool:
    acquisition = (recipe.get("views") or {}).get("acquisition") or {}
    return float(acquisition.get("probability") or 0) > 0


def _said(group: Config) -> dict[str, Any]:
    """The settings of a group, without its reason and without unset values."""
    return {
        key: value
        for key, value in group.model_dump(mode="json", exclude={"because"}, exclude_unset=True).items()
        if value is not None or key == "jpeg_quality"
    }


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), list(value) if isinstance(value, tuple) else value


def _default(key: str) -> Any:
    section, _, name = key.rpartition(".")
    model = Acquisition if section == "acquisition" else Views
    field = model.model_fields.get(name)
    value = None if field is None else field.default
    return list(value) if isinstance(value, tuple) else value


def _group(key: str) -> str:
    if key.startswith("acquisition."):
        return "acquisition"
    if key.startswith("colour."):
        return "colour"
    name = key.rpartition(".")[2]
    return {"scale": "smallest_crop", "blur": "blur", "blur_sigma_px": "blur", "solarize": "solarize"}.get(
        name, "orientation"
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "–".join(_text(part) for part in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "never"}[value]
    return f"{value:g}" if isinstance(value, int | float) else str(value)
