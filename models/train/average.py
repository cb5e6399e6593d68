"""``python -m models.train.average FIRST SECOND --share S --data DIR --out FILE``: between two checkpoints.

A network that was trained on from another one for a short while, and their average, often lie in one valley of the
loss (M. Wortsman et al., 2022): the average of the weights is better than either. BatchNorm's statistics are measured
again on whole training images at the served size, which is worth doing for a single checkpoint (``--share 1``) too:
those of training are of random crops.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch import ArchConfig, build
from models.data.folder import hold_out, load_split
from models.data.normalise import normalise
from models.train import checkpoint
from models.train.classify import DECODE_SIZE
from models.train.provenance import FILE
from models.train.recipes import get_recipe

IMAGES = 1024
BATCH = 128


def between(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) * first + share * second, tensor by tensor; counters are the second's.

    Raises:
        ValueError: the checkpoints are of different networks.
    """
    if first.keys() != second.keys() or any(first[k].shape != second[k].shape for k in first):
        raise ValueError("the two checkpoints are of different networks")
    return {
        k: torch.lerp(first[k], second[k], share) if first[k].is_floating_point() else second[k].clone() for k in first
    }


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's running statistics to the means over batches of ``images`` [N,3,H,W] in 0..255."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean of all batches
    network.train()
    for batch in images.split(BATCH):
        network(normalise(batch))
    network.eval()


def main() -> int:
    """Average, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m models.train.average", description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="checkpoint that the second was trained on from")
    parser.add_argument("second", type=Path, help="checkpoint of a run; its recipe is what the result is called")
    parser.add_argument("--share", type=float, required=True, help="of the second, 0..1")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, for the statistics")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    args = parser.parse_args()
    try:
        ends = [checkpoint.load(path) for path in (args.first, args.second)]
        recipe = get_recipe(ends[1]["recipe"])
        arch = ArchConfig(**ends[1]["arch"])
        network = build(arch)
        network.load_state_dict(between(ends[0]["network"], ends[1]["network"], args.share))
        data, _ = hold_out(load_split(args.data, "train", DECODE_SIZE), recipe.hold_out_per_class)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pick = np.random.default_rng(0).choice(len(data), min(IMAGES, len(data)), replace=False)
    images = torch.from_numpy(data.images[pick]).permute(0, 3, 1, 2).float()
    size = recipe.serve_size or recipe.size
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    measure_statistics(network, images)
    progress = replace(checkpoint.Progress(), wall_s=ends[1]["progress"]["wall_s"])
    checkpoint.save(args.out, network, arch, recipe.name, progress)
    if (args.second.parent / FILE).is_file():
        shutil.copy(args.second.parent / FILE, args.out.parent / FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
