"""The paper's training crops (Sec. 4.1, 4.3): scale an image by its shorter side, crop a random square, mirror half.

Aspects are kept, so decoded images differ in size: they are cut while they are decoded, batch by batch, and never held
in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.data.folder import ImageFiles, ImageSet


def shorter_side_batches(
    data: ImageSet, *, batch: int, size: int, sides: tuple[int, int], seed: int, epoch: int, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch: (float [B,3,size,size] in 0..255, int64 [B]); the last partial batch is dropped.

    Each image is scaled to a shorter side drawn from ``sides``, keeping its aspect; then a square of ``size`` pixels is
    cropped at a random position (not rounded to pixels), and half of the crops are mirrored. A batch depends only on
    (seed, epoch, step), so that a resumed run sees the same batches as an uninterrupted one.

    Args:
        data: files of images.
        batch: B.
        size: side of the crops in pixels.
        sides: smallest and largest shorter side in pixels, both included.
        seed: seed of order and crops.
        epoch: number of the epoch.
        first_step: step to start at.

    Raises:
        ValueError: ``sides`` are below ``size``, or not in order.
    """
    if not size <= sides[0] <= sides[1]:
        raise ValueError(f"shorter sides {sides[0]} to {sides[1]}: must be at least {size}, the crop, and in order")
    assert isinstance(data.images, ImageFiles)
    order = np.random.default_rng((seed, epoch)).permutation(len(data))
    for step in range(first_step, len(data) // batch):
        index = order[step * batch : (step + 1) * batch]
        rng = np.random.default_rng((seed, epoch, step))
        shorter = rng.integers(sides[0], sides[1], batch, endpoint=True)
        cropped = torch.from_numpy(data.images.cut(index, size, shorter, rng.random((batch, 2))))
        images = cropped.permute(0, 3, 1, 2).float()
        mirrored = torch.from_numpy(rng.random(batch) < 0.5)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        yield images, torch.from_numpy(data.labels[index])
