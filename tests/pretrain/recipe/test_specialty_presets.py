"""Specialty presets: whole, with a reason for each, over the recipe and under the study; and said in plain words."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from pellucid.cohort.config import find_recipe, read_yaml, validate
from pellucid.cohort.errors import UserError
from pellucid.pretrain.recipe import METHODS
from pellucid.pretrain.recipe.specialty_presets import Augmentation, explain, load_preset, preset_for, with_preset

SPECIALTIES = ["ct", "dermatology", "endoscopy", "fundus", "oct", "pathology", "radiograph", "ultrasound", "wounds"]
RECIPES = sorted(path.stem for path in find_recipe("pretrain", "mae-tiny-cpu").parent.glob("*.yaml"))
GREY = ["ct", "oct", "radiograph", "ultrasound"]


def base(recipe: str) -> dict[str, Any]:
    return read_yaml(find_recipe("pretrain", recipe))


def checked(recipe: dict[str, Any]) -> Any:
    """As `load_recipe` does."""
    return validate(METHODS[recipe["method"]], recipe, "test")


def merged(recipe: dict[str, Any], study: dict[str, Any]) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.merge(recipe, study))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


@pytest.mark.parametrize("specialty", SPECIALTIES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_gives_every_recipe_valid_views_no_stronger_than_they_were(specialty: str, recipe: str) -> None:
    preset, before = load_preset(specialty), base(recipe)
    old, new = checked(before).views, checked(with_preset(before, preset, acquisition_robust=True)).views
    assert new.acquisition.probability > 0
    assert old.acquisition.probability == 0
    if before["method"] == "mae":
        assert new.crop == old.crop
        return
    for name in ("global_1", "global_2", "local"):
        was, now = getattr(old, name), getattr(new, name)
        assert now.scale[0] >= was.scale[0]
        assert now.blur <= was.blur
        assert now.solarize <= was.solarize
    for name, value in new.colour:
        assert value <= getattr(old.colour, name)
    assert new.blur_sigma_px[1] <= old.blur_sigma_px[1]


@pytest.mark.parametrize("specialty", SPECIALTIES)
def test_every_preset_gives_its_reasons(specialty: str) -> None:
    preset = load_preset(specialty)
    for name in ("orientation", "smallest_crop", "colour", "blur", "solarize", "acquisition"):
        group = getattr(preset, name)
        assert group is not None, name
        assert len(group.because) > 15
    assert preset.acquisition is not None
    assert preset.acquisition.because != load_preset(None).acquisition.because  # type: ignore[union-attr]


def test_what_would_harm_a_specialty_is_off() -> None:
    """The knowledge itself: were one of these to change, somebody must have meant it."""
    presets = {name: load_preset(name) for name in SPECIALTIES}
    for name in ("radiograph", "fundus", "ct", "oct"):  # sides are findings
        orientation = presets[name].orientation
        assert orientation is not None
        assert (orientation.flip, orientation.flip_vertical, orientation.quarter_turns) == (0, 0, 0)
    for name in ("endoscopy", "dermatology", "wounds", "fundus", "pathology"):  # colour is
        colour = presets[name].colour
        assert colour is not None
        assert colour.hue is not None
        assert colour.hue <= 0.04
        assert colour.grayscale is not None
        assert colour.grayscale <= 0.1
    for name in GREY:
        colour, acquisition = presets[name].colour, presets[name].acquisition
        assert colour is not None
        assert acquisition is not None
        assert (colour.hue, colour.saturation, acquisition.cast, acquisition.jpeg_420) == (0, 0, 0, 0)
        assert acquisition.grey_noise
    assert all(preset.solarize is not None and preset.solarize.probability == 0 for preset in presets.values())
    assert presets["pathology"].orientation.quarter_turns == 0.75  # type: ignore[union-attr]
    assert presets["ultrasound"].orientation.flip_vertical == 0  # type: ignore[union-attr]


def test_a_preset_changes_only_what_it_names_and_not_the_recipe_it_was_given() -> None:
    before = base("dino-vits16")
    again = base("dino-vits16")
    preset = Augmentation.model_validate({"colour": {"hue": 0.05, "because": "test"}})
    after = with_preset(before, preset)
    assert before == again
    expected = base("dino-vits16")
    expected["views"]["colour"]["hue"] = 0.05
    assert after == expected
    assert with_preset(before, Augmentation()) == before
    assert with_preset(before, load_preset(None)) == before
    assert with_preset({"method": "mae"}, load_preset("ct")) == {"method": "mae"}  # its own check will say what lacks
    without = {key: value for key, value in before.items() if key != "img_size"}
    assert with_preset({**without, "img_size": "wide"}, load_preset("ct"))["views"]["blur_sigma_px"] == [0.1, 2.0]


def test_a_limit_never_raises_and_orientation_replaces() -> None:
    before = base("dino-vits16")
    before["views"].update(flip=0.0, colour={**before["views"]["colour"], "saturation": 0.05}, blur_sigma_px=[0.1, 0.4])
    views = with_preset(before, load_preset("dermatology"))["views"]
    assert (views["flip"], views["colour"]["saturation"], views["colour"]["hue"]) == (0.5, 0.05, 0.02)
    assert with_preset(before, load_preset("fundus"))["views"]["blur_sigma_px"] == [0.1, 0.4]
    wide = with_preset(base("dino-vits16"), load_preset("fundus"))["views"]["blur_sigma_px"]
    assert wide == [0.1, round(0.003 * 224, 3)]


def test_the_study_has_the_last_word_and_explain_says_so() -> None:
    before, preset = base("dino-vits16"), load_preset("radiograph")
    study = {"views": {"flip": 0.5, "colour": {"brightness": 0.1}, "rotate_deg": 3}}
    after = merged(with_preset(before, preset), study)
    assert (after["views"]["flip"], after["views"]["colour"]["brightness"]) == (0.5, 0.1)
    said = explain(before, checked(after).model_dump(mode="json"), preset, "radiograph")
    orientation = next(line for line in said if line.startswith("radiograph, orientation"))
    assert orientation == (
        "radiograph, orientation: rotate_deg 0 → 3 (set in the study; the preset radiograph has 7), because the heart "
        "is on the left, and a mirrored radiograph shows another diagnosis or another side"
    )
    assert any(
        line.startswith("flip remains 0.5, as set in the study; the preset radiograph has 0, because") for line in said
    )
    colour = next(line for line in said if line.startswith("radiograph, colour"))
    assert "colour.brightness 0.4 → 0.1 (set in the study; the preset radiograph has 0.2)" in colour
    assert "colour.hue 0.1 → 0" in colour


def test_explain_says_nothing_where_nothing_changed_and_warns_of_mae() -> None:
    before = base("mae-tiny-cpu")
    assert explain(before, before, load_preset(None), "default") == []
    preset = load_preset("endoscopy")
    after = with_preset(before, preset, acquisition_robust=True)
    said = explain(before, after, preset, "endoscopy")
    assert "flip_vertical 0 → 0.5, quarter_turns 0 → 0.75, because the endoscope rotates freely" in said[0]
    assert "acquisition.cast 0 → 0.08" in said[1]
    assert said[-1].startswith("acquisition-robust augmentation has little effect with MAE")
    dino = base("dino-tiny-cpu")
    assert not any("MAE" in line for line in explain(dino, with_preset(dino, preset), preset, "endoscopy"))


def test_which_preset_is_meant() -> None:
    assert preset_for("specialty", "ct") == ("ct", load_preset("ct"))
    assert preset_for("specialty", None) == ("default", load_preset(None))
    assert preset_for("recipe", "ct") == ("default", load_preset(None))
    assert preset_for("wounds", "ct") == ("wounds", load_preset("wounds"))
    with pytest.raises(UserError, match=r"there is no specialty recipe `wound`; did you mean `wounds`\?"):
        preset_for("wound", None)


def test_mistakes_are_named() -> None:
    section = {"colour": {"hues": 0.1, "because": "x"}, "solarize": {"probability": 0}}
    with pytest.raises(UserError, match=r"unknown key `colour.hues`; did you mean `hue`\?") as caught:
        validate(Augmentation, section, "augmentation of `x`")
    assert "`solarize.because` is missing" in str(caught.value)
