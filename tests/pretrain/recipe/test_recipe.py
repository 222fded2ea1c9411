"""Recipes: the shipped ones are whole, overrides reach in, mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pellucid.cohort.config import find_recipe
from pellucid.cohort.errors import UserError
from pellucid.pretrain.recipe import METHODS, MaeRecipe, load_recipe

SHIPPED = [f"{method}-{size}" for method in METHODS for size in ("tiny-cpu", "vits16")]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_say_hardware_time_and_what_to_expect(name: str) -> None:
    found, recipe = load_recipe({"recipe": name})
    assert found == name
    assert type(recipe) is METHODS[name.split("-")[0]]
    header = find_recipe("pretrain", name).read_text(encoding="utf-8").split("method:")[0]
    assert all(f"# {word} " in header for word in ("Hardware", "Time", "Expect"))


def test_overrides_reach_into_sections_and_leave_the_rest() -> None:
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu", "optimizer": {"base_lr": "1e-3"}, "seed": 7})
    assert isinstance(recipe, MaeRecipe)
    assert (recipe.optimizer.base_lr, recipe.optimizer.weight_decay, recipe.seed) == (1e-3, 0.05, 7)


@pytest.mark.parametrize(("written", "read"), [(False, "off"), (True, "on"), ("off", "off")])
def test_off_and_on_may_be_written_bare(written: bool | str, read: str) -> None:
    """YAML 1.1, and so the command line, reads them as booleans."""
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu", "machine": {"compile": written}})
    assert recipe.machine.compile == read
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu", "health": {"collapse": False, "stagnation": False}})
    assert (recipe.health.collapse, recipe.health.stagnation) == ("off", "off")


def test_a_length_replaces_the_recipes_in_either_unit() -> None:
    _, recipe = load_recipe({"recipe": "mae-tiny-cpu", "epochs": 2})
    assert (recipe.images_seen, recipe.epochs) == (None, 2)
    assert recipe.steps(100) == 4  # ⌈200 / 64⌉
    _, recipe = load_recipe({"recipe": "dino-vits16", "images_seen": 5000})
    assert (recipe.steps(10), recipe.epochs) == (10, None)
    with pytest.raises(UserError, match="exactly one of `images_seen` and `epochs`"):
        load_recipe({"recipe": "mae-tiny-cpu", "epochs": 2, "images_seen": 5})


def test_the_machine_is_not_part_of_what_a_run_is_addressed_by() -> None:
    plain = load_recipe({"recipe": "mae-tiny-cpu"})[1].content()
    assert plain == load_recipe({"recipe": "mae-tiny-cpu", "machine": {"workers": 7}})[1].content()
    assert plain != load_recipe({"recipe": "mae-tiny-cpu", "seed": 1})[1].content()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"image_seen": 5}, r"study.yaml: pretrain: unknown key `image_seen`; did you mean `images_seen`\?"),
        ({"optimizer": {"bas_lr": 1}}, r"unknown key `optimizer.bas_lr`; did you mean `base_lr`\?"),
        ({"recipe": "mae-tiny"}, r"there is no pretrain recipe `mae-tiny`; did you mean `mae-tiny-cpu`\?"),
        ({"dino": {"output_dim": 5}}, r"unknown key `dino`"),
        ({"method": "dino"}, r"`method` cannot be changed"),
        (
            {"recipe": "mae-tiny-cpu", "views": {"crop": {"scale": [0.9, 0.2]}}},
            r"scale \[0.9, 0.2\] needs 0 < smallest ≤ largest ≤ 1",
        ),
        ({"batch_size": 1}, r"study.yaml: pretrain: `batch_size` is 1"),
    ],
)
def test_mistakes_are_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(section, "study.yaml: pretrain")


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    content = yaml.safe_load(find_recipe("pretrain", "mae-tiny-cpu").read_text(encoding="utf-8"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, "seed": 3}), encoding="utf-8")
    name, recipe = load_recipe({"recipe": "mine.yaml"}, folder=tmp_path)
    assert (name, recipe.seed) == ("mine", 3)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, "method": "mea"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"mine.yaml: `method` is 'mea'; did you mean `mae`\?; there are: mae, dino"):
        load_recipe({"recipe": "mine.yaml"}, folder=tmp_path)
