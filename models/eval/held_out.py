"""A classifier of ours, and the training images that it was chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from models.data.folder import ImageSet, hold_out, load_split
from models.train import checkpoint
from models.train.classify import decode_size
from models.train.recipe import Recipe
from models.train.recipes import get_recipe


@dataclass(frozen=True)
class Trained:
    """A checkpoint's network.

    Attributes:
        network: in eval mode.
        recipe: that it was trained by.
        held_out: the part of the training images that its training left out.
    """

    network: nn.Module
    recipe: Recipe
    held_out: ImageSet

    @property
    def size(self) -> int:
        """Pixels, square, at which it is served."""
        return self.recipe.serve_size or self.recipe.size


def trained(path: Path, data: Path) -> Trained:
    """Read a checkpoint, and of ``data`` the part that its recipe holds out.

    Raises:
        FileNotFoundError: the checkpoint or the images are not there.
        ValueError: the checkpoint is none of ours, or of a recipe that there is not.
    """
    network = checkpoint.load_network(path)
    recipe = get_recipe(checkpoint.load(path)["recipe"])
    _, held_out = hold_out(load_split(data, "train", decode_size(recipe)), recipe.hold_out_per_class)
    return Trained(network, recipe, held_out)
