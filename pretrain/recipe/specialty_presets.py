"""What a specialty says about augmentation: which changes of a recipe's views are harmful there, and why.

`configs/specialty/NAME.yaml` has an `augmentation:` section. It comes over the recipe and under what the study says
itself. Orientation is replaced, as only the specialty knows whether up and left mean anything; crops are kept from
becoming too small; colour, blur and solarisation are limited, never raised. What a recipe has not (MAE no colour) stays out.
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
    """The least share of the image's area that a view may show which is compared with others; MAE's crops are not."""

    large: Probability = Field(None, gt=0, le=1)  # of the global views
    local: Probability = Field(None, gt=0, le=1)
    because: str


class ColourLimits(Config):
    """The most of each of the recipe's colour settings."""

    brightness: Probability = Field(None, ge=0, le=1)
    contrast: Probability = Field(None, ge=0, le=1)
    saturation: Probability = Field(None, ge=0, le=1)
    hue: Probability = Field(None, ge=0, le=0.5)
    grayscale: Probability = Field(None, ge=0, le=1)
    because: str


class BlurLimits(Config):
    """The most blur."""

    probability: Probability = Field(None, ge=0, le=1)
    sigma_share: Probability = Field(None, gt=0, le=1)  # standard deviation as a share of the large views' side
    because: str


class SolarizeLimit(Config):
    """The most solarisation."""

    probability: float = Field(ge=0, le=1)
    because: str


class AcquisitionStrength(Acquisition):
    """What `acquisition_robust: true` switches on."""

    because: str


class Augmentation(Config):
    """A specialty's preset; a group that is missing leaves the recipe as it is."""

    orientation: Orientation | None = None
    smallest_crop: SmallestCrop | None = None
    colour: ColourLimits | None = None
    blur: BlurLimits | None = None
    solarize: SolarizeLimit | None = None
    acquisition: AcquisitionStrength | None = None


def load_preset(specialty: str | None) -> Augmentation:
    """The preset of a specialty: configs/specialty/default.yaml, then the specialty's own.

    Args:
        specialty: a name under configs/specialty; None for the default, which changes nothing but knows a strength of
            acquisition-robust augmentation.

    Raises:
        UserError: there is no such specialty, or its section has a mistake.
    """
    name = specialty or "default"
    paths = [find_recipe("specialty", "default"), find_recipe("specialty", name)]
    section = read_yaml(list(dict.fromkeys(paths))).get("augmentation") or {}
    return validate(Augmentation, section, f"augmentation of `{name}`")


def preset_for(augmentation: str, specialty: str | None) -> tuple[str, Augmentation]:
    """Name and content of the preset that a recipe's `augmentation` asks for.

    Args:
        augmentation: `specialty`, that of the study; `recipe`, the recipe as it is; or the name of another specialty.
        specialty: the study's, if it names one.

    Raises:
        UserError: as `load_preset`.
    """
    name = {"specialty": specialty, "recipe": None}.get(augmentation, augmentation)
    return name or "default", load_preset(name)


def with_preset(recipe: Mapping[str, Any], preset: Augmentation, *, acquisition_robust: bool = False) -> dict[str, Any]:
    """A copy of the recipe, as read from YAML, with the preset's word on its `views`.

    Args:
        recipe: with `views` and `img_size`; whatever it lacks is left to the recipe's own checks.
        acquisition_robust: switch acquisition-robust augmentation on, at the preset's strength.
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
    if share is not None and "blur_sigma_px" in views and isinstance(side, int | float):  # else its check will speak
        most = round(share * side, 3)
        views["blur_sigma_px"] = [min(float(sigma), most) for sigma in views["blur_sigma_px"]]
    if acquisition_robust and preset.acquisition is not None:
        views["acquisition"] = _said(preset.acquisition)
    return changed


def _limit_crop(crop: dict[str, Any], name: str, preset: Augmentation) -> None:
    if preset.smallest_crop is not None and name != "crop":  # MAE's `crop` has nothing that it must agree with
        least = preset.smallest_crop.local if name == "local" else preset.smallest_crop.large
        crop["scale"] = [max(float(share), least or 0.0) for share in crop["scale"]]
    for name, limit in (("blur", preset.blur), ("solarize", preset.solarize)):
        if limit is not None and limit.probability is not None and name in crop:
            crop[name] = min(float(crop[name]), limit.probability)


def explain(before: Mapping[str, Any], after: Mapping[str, Any], preset: Augmentation, name: str) -> list[str]:
    """What the preset has changed in a recipe and why: one sentence per group, for the terminal and the training sheet.

    Args:
        before: the recipe as its file says.
        after: the recipe as it is used: after the preset and what the study says itself.
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
        own = "" if now == value else f" (the study's own; {name} would have {_text(value)})"
        groups.setdefault(_group(key), []).append(f"{key} {_text(was)} → {_text(now)}{own}")
    sentences = []
    for group, changes in groups.items():
        reason = getattr(preset, group).because
        sentences.append(f"{name}, {group.replace('_', ' ')}: {', '.join(changes)}, because {reason}")
    overruled = [
        f"{key} stays {_text(old.get(key, _default(key)))}, as the study says; {name} would have {_text(value)}, because "
        f"{getattr(preset, _group(key)).because}"
        for key, value in meant.items()
        if value != old.get(key, _default(key)) and used.get(key, _default(key)) == old.get(key, _default(key))
    ]
    if _robust(after) and (after.get("method") == "mae"):
        overruled.append(
            "acquisition-robust augmentation under MAE is only variety: MAE paints back what it is shown, the made-up "
            "device included; a method that compares views (dino, dinov2, lejepa) learns to ignore it"
        )
    return sentences + overruled


def _robust(recipe: Mapping[str, Any]) -> bool:
    acquisition = (recipe.get("views") or {}).get("acquisition") or {}
    return float(acquisition.get("probability") or 0) > 0


def _said(group: Config) -> dict[str, Any]:
    """What a group says, without its reason and without what it leaves open."""
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
