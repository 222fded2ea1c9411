"""Recipe → method: each kind of recipe with the class that it configures."""

from __future__ import annotations

import torch

from pellucid.pretrain.methods.dino import Dino
from pellucid.pretrain.methods.dinov2 import DinoV2
from pellucid.pretrain.methods.lejepa import LeJepa
from pellucid.pretrain.methods.mae import Mae
from pellucid.pretrain.methods.method import Method
from pellucid.pretrain.recipe import AnyRecipe, DinoRecipe, DinoV2Recipe, LeJepaRecipe, MaeRecipe


def build_method(recipe: AnyRecipe, steps: int) -> Method:
    """The method of the recipe, with random weights from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):  # initialisers use the global generator
        torch.manual_seed(recipe.seed)
        match recipe:
            case MaeRecipe():
                return Mae(recipe)
            case DinoRecipe():
                return Dino(recipe, steps)
            case DinoV2Recipe():
                return DinoV2(recipe, steps)
            case LeJepaRecipe():
                return LeJepa(recipe)
