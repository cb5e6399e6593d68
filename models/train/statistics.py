"""``python -m models.train.statistics CHECKPOINT --data DIR --out FILE``: re-estimate BatchNorm's statistics.

Training uses random crops and the service whole images, whose statistics differ. This measures them again on whole
training images at the serving size; no weights change.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.command_line import Parser, expects
from models.data.augment import whole
from models.data.folder import ImageSet, split_files, training_part
from models.data.normalise import normalise
from models.train import checkpoint
from models.train.classify import decode_size, served_shorter
from models.train.provenance import FILE
from models.train.recipe import Recipe
from models.train.recipes import get_recipe

IMAGES = 1024
BATCH = 128


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's running statistics to the means over batches of ``images`` [N,3,H,W] in 0..255."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # average over all batches
    network.train()
    # in equal parts: each counts the same, so the statistics of a small rest would count as much as those of a batch
    for batch in images.tensor_split(math.ceil(len(images) / BATCH)):
        network(normalise(batch))
    network.eval()


def training_files(recipe: Recipe, data: Path, size: int) -> ImageSet:
    """The training images that are not held out, decoded on access as the service prepares them for ``size``.

    Raises:
        FileNotFoundError, ValueError: see `split_files` and `training_part`.
    """
    shorter = served_shorter(recipe, size)
    files = split_files(data, "train", size if shorter else decode_size(recipe), shorter)
    return training_part(files, recipe.hold_out_per_class, data)


@expects(OSError, ValueError)
def main() -> int:
    """Measure the statistics and write the checkpoint."""
    parser = Parser(prog="python -m models.train.statistics", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a classifier")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, for BatchNorm statistics")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    args = parser.parse_args()
    payload = checkpoint.load(args.checkpoint)
    checkpoint.check_binarised(payload, args.checkpoint)  # what is written here does not tell its phase
    checkpoint.check_classifies(payload, args.checkpoint)
    recipe = get_recipe(payload["recipe"])
    network = checkpoint.load_network(args.checkpoint)
    size = recipe.serve_size or recipe.size
    data = training_files(recipe, args.data, size)
    pick = np.random.default_rng(0).choice(len(data), min(IMAGES, len(data)), replace=False)
    images = torch.from_numpy(data.images[pick])  # decodes them: a damaged one is an error of the data
    measure_statistics(network, whole(images, size))
    progress = replace(checkpoint.Progress(), wall_s=payload["progress"]["wall_s"])
    checkpoint.save(args.out, network, network.config, recipe.name, progress)
    if (args.checkpoint.parent / FILE).is_file() and args.checkpoint.parent.resolve() != args.out.parent.resolve():
        shutil.copy(args.checkpoint.parent / FILE, args.out.parent / FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
