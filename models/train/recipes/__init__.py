"""All recipes by name. ``paper-*`` use the paper's hyper-parameters; the others are ours, for small data and CPUs."""

from __future__ import annotations

from models.train.recipe import Recipe
from models.train.recipes.imagenet import IMAGENET
from models.train.recipes.kitti import DEPTH_TEACHER, KITTI
from models.train.recipes.tiny import TINY

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*TINY, *KITTI, *IMAGENET)}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        ValueError: there is no such recipe; the message lists the names.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: use one of {', '.join(RECIPES)}")
    return RECIPES[name]


__all__ = ["DEPTH_TEACHER", "RECIPES", "get_recipe"]
