"""A trained classifier and the held-out part of its training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from models.data.folder import ImageSet, hold_out, load_split, split_files
from models.train import checkpoint
from models.train.classify import decode_size, held_out_as_served, served_shorter
from models.train.recipe import Recipe
from models.train.recipes import get_recipe

KNOWN_SEED = 0  # of the choice of images that a network was trained on


@dataclass(frozen=True)
class Trained:
    """A trained network with its recipe and held-out set.

    Attributes:
        network: the network, in eval mode.
        recipe: the recipe it was trained with.
        held_out: the training images held out of training.
        data: the folder that they are from.
    """

    network: nn.Module
    recipe: Recipe
    held_out: ImageSet
    data: Path

    @property
    def size(self) -> int:
        """Input size in serving: the side of a square, in pixels."""
        return self.recipe.serve_size or self.recipe.size

    def served(self, size: int) -> ImageSet:
        """The held-out images as the service would prepare them for an input of ``size``."""
        return held_out_as_served(self.held_out, self.recipe, self.data, size)

    def known(self, size: int, most: int) -> ImageSet:
        """At most ``most`` of the images it was trained on, drawn at random, as the service would prepare them.

        They are decoded on access, so that they take no memory beside the held-out ones.
        """
        shorter = served_shorter(self.recipe, size)
        files = split_files(self.data, "train", size if shorter else decode_size(self.recipe), shorter)
        known, _ = hold_out(files, self.recipe.hold_out_per_class)
        order = np.random.default_rng(KNOWN_SEED).permutation(len(known))
        return known.subset(np.sort(order[:most]))


def trained(path: Path, data: Path) -> Trained:
    """Load a checkpoint, and the part of ``data`` that its recipe holds out.

    Raises:
        FileNotFoundError: the checkpoint or the images do not exist.
        ValueError: the file is not a checkpoint of models.train, is of a phase in which 1-bit layers are not binary
            yet, of a depth network or of a run that learned no classes, or its recipe is unknown.
    """
    payload = checkpoint.load(path)
    checkpoint.check_binarised(payload, path)
    checkpoint.check_classifies(payload, path)
    network = checkpoint.load_network(path)
    recipe = get_recipe(payload["recipe"])
    _, held_out = hold_out(load_split(data, "train", decode_size(recipe)), recipe.hold_out_per_class)
    return Trained(network, recipe, held_out, data)
