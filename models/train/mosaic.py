"""Feature task: an encoder learns the feature maps of an ImageNet-pretrained network on mosaics of photos.

Photos of 64x64 scaled up to the size of a street are blurred. Laid side by side at about their own size they are as
sharp as a street's frame, and fill it with edges, textures and objects at many scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.data.augment import random_resized_crop
from models.data.folder import ImageSet, hold_out, load_split
from models.data.normalise import normalise
from models.train.device import best_device, bfloat16_where_fast, device_of
from models.train.hints import encoder_of, hints_of
from models.train.pretrained import feature_maps, imagenet_network
from models.train.recipe import PhaseSpec, Recipe

DECODE_SIZE = 64
TILES = (48, 64, 96)  # sides of a tile in pixels; every one divides the mosaic's sides
ROWS, COLUMNS = 192, 384  # pixels of a mosaic, about those of a depth network's training crop
HELD_OUT_BATCHES = 16


def mosaics(photos: ImageSet, count: int, min_scale: float, rng: np.random.Generator) -> Tensor:
    """Mosaics of random crops of random photos, all of one tile size: float32 [count,3,192,384] in 0..255.

    Args:
        photos: the photos, drawn with replacement.
        count: number of mosaics.
        min_scale: smallest fraction of a photo's area in a tile.
        rng: random generator.
    """
    tile = int(rng.choice(TILES))
    down, across = ROWS // tile, COLUMNS // tile
    chosen = torch.from_numpy(photos.images[rng.integers(0, len(photos), count * down * across)])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    tiles = random_resized_crop(chosen, tile, min_scale, generator)
    grid = tiles.view(count, down, across, 3, tile, tile)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, ROWS, COLUMNS)


class MosaicTask:
    """Image-folder photos without labels; the loss is that of `models.train.hints`.

    Args:
        recipe: the recipe of the run; its batch is a number of mosaics.
        data: folder with train/.
    """

    metric = "correlation"

    def __init__(self, recipe: Recipe, data: Path) -> None:
        self.train, self.held_out = hold_out(load_split(data, "train", DECODE_SIZE), recipe.hold_out_per_class)
        self.recipe = recipe
        self.pretrained = imagenet_network().eval().to(best_device())

    def steps_per_epoch(self) -> int:
        """The recipe's ``epoch_steps``."""
        return self.recipe.epoch_steps

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield batches of mosaics [B,3,192,384], which depend only on (seed, epoch, step)."""
        for step in range(first_step, self.steps_per_epoch()):
            rng = np.random.default_rng((self.recipe.seed, epoch, step))
            yield (mosaics(self.train, self.recipe.batch, self.recipe.min_scale, rng),)

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, Tensor]]:
        """1 minus the mean correlation with the pretrained network's feature maps."""
        (pixels,) = batch
        with bfloat16_where_fast(pixels.device, wanted=self.recipe.bf16):
            encoder_of(network).features(normalise(pixels))
        with torch.no_grad():
            theirs = feature_maps(self.pretrained, pixels)
        loss = hints_of(network)(theirs)
        return loss, {"hints": loss.detach()}

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Mean correlation of the feature maps, on mosaics of held-out photos."""
        network.eval()
        losses = []
        for step in range(HELD_OUT_BATCHES):
            rng = np.random.default_rng((0, step))
            pixels = mosaics(self.held_out, self.recipe.batch, self.recipe.min_scale, rng).to(device_of(network))
            encoder_of(network).features(normalise(pixels))  # with gradients: hints are captured in training only
            losses.append(1.0 - hints_of(network)(feature_maps(self.pretrained, pixels)).item())
        return {"correlation": float(np.mean(losses))}
