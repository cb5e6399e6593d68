"""Views: a few fixed random crops of every training image, so that a teacher can label them once for all students."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.data.augment import cut, random_crops
from models.data.folder import ImageSet

VIEW_SEED = 1  # seed of the views that teachers label


def view_crops(count: int, min_scale: float, seed: int, view: int) -> Tensor:
    """The crops [count,2,3] of view number ``view``, independent of the size they are scaled to."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + view)
    return random_crops(count, min_scale, generator)


def labels_path(folder: Path, min_scale: float, view: int) -> Path:
    """The file in ``folder`` with a teacher's labels of one view. Views of another ``min_scale`` are other crops."""
    return folder / f"crops-{min_scale:g}" / f"view-{view}.npy"


def view_batches(
    data: ImageSet, crops: Tensor, *, batch: int, size: int, seed: int, epoch: int, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch over one view: (float [B,3,size,size] in 0..255, labels int64 [B], index into ``data`` int64 [B]).

    Half of the crops are mirrored, which does not invalidate the teacher's labels. Order and mirroring depend only on
    (seed, epoch); the last partial batch is dropped.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(data))
    mirrored = torch.from_numpy(rng.random(len(data)) < 0.5)
    for step in range(first_step, len(data) // batch):
        index = order[step * batch : (step + 1) * batch]
        pick = torch.from_numpy(index)
        images = cut(torch.from_numpy(data.images[index]), crops[pick], size)
        images = torch.where(mirrored[pick][:, None, None, None], images.flip(3), images)
        yield images, torch.from_numpy(data.labels[index]), pick
