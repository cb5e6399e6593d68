"""The grid's training task on CIFAR-10: images in memory, cheap augmentation, upscaling, test accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data.folder import read_rgb
from models.data.normalise import normalise
from models.train.classify import ranks_of_truth
from models.train.device import device_of
from models.train.recipe import PhaseSpec, Recipe

SIZE = 32
LabelledImages = tuple[NDArray[np.uint8], NDArray[np.int64]]  # [N,32,32,3] and [N]
PAD = 4  # pixels of reflection padding before the random crop


def load_folder(root: Path, per_class: int | None = None) -> LabelledImages:
    """Images uint8 [N,32,32,3] and labels [N] from ``root/<class>/*``, the first ``per_class`` of each class.

    Raises:
        FileNotFoundError: there are no class folders, or one is empty.
        ValueError: an image has another size or cannot be decoded.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not folders:
        raise FileNotFoundError(
            f"{root} has no class folders: expected <data>/train/<class>/<image> and <data>/test/..."
        )
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        paths = sorted(folder.iterdir())[:per_class]
        if not paths:
            raise FileNotFoundError(f"{folder} has no images")
        for path in paths:
            image = read_rgb(path)
            if image.size != (SIZE, SIZE):
                raise ValueError(f"{path} is {image.width}x{image.height}: images must be {SIZE}x{SIZE}")
            images.append(np.asarray(image))
            labels.append(label)
    return np.stack(images), np.array(labels, np.int64)


def scaled(x: Tensor, size: int) -> Tensor:
    """Images [B,3,32,32] scaled to [B,3,size,size]."""
    return x if size == SIZE else F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class SmallImages:
    """`models.train.loop.TrainingTask` on small images: random crops of the padded image and random horizontal flips.

    Args:
        train: images and labels.
        test: images and labels.
        recipe: the cell's recipe.
        teacher: network whose answers the cell is distilled from, if its recipe says so.
    """

    metric = "top1"

    def __init__(
        self,
        train: LabelledImages,
        test: LabelledImages,
        recipe: Recipe,
        teacher: nn.Module | None = None,
    ) -> None:
        self.images, self.labels = train
        self.test_images, self.test_labels = test
        self.recipe = recipe
        self.teacher = teacher

    def steps_per_epoch(self) -> int:
        """Full batches in one pass."""
        return len(self.labels) // self.recipe.batch

    def batches(self, spec: PhaseSpec, epoch: int, first_step: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield (float [B,3,S,S] in 0..255, labels [B]), S the recipe's size; depends only on (seed, epoch, step)."""
        order = np.random.default_rng((self.recipe.seed, epoch)).permutation(len(self.labels))
        batch = self.recipe.batch
        for step in range(first_step, self.steps_per_epoch()):
            index = order[step * batch : (step + 1) * batch]
            rng = np.random.default_rng((self.recipe.seed, epoch, step))
            x = torch.from_numpy(self.images[index]).permute(0, 3, 1, 2).float()
            x = F.pad(x, [PAD] * 4, mode="reflect")
            # one crop offset per batch is cheaper, and varies enough over the steps
            top, left = rng.integers(0, 2 * PAD + 1, 2)
            x = x[:, :, top : top + SIZE, left : left + SIZE]
            mirrored = torch.from_numpy(rng.random(batch) < 0.5)
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
            yield scaled(x, self.recipe.size), torch.from_numpy(self.labels[index])

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], spec: PhaseSpec) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy, with the labels and with the teacher's answers, and the batch's accuracy."""
        images, labels = batch
        x = normalise(images)
        logits = network(x)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if spec.distill > 0:
            assert self.teacher is not None
            with torch.no_grad():
                answers = self.teacher(x).softmax(dim=1)
            loss = (1.0 - spec.distill) * loss + spec.distill * F.cross_entropy(logits, answers)
        return loss, {"train_top1": (logits.argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Top-1 and top-5 on the test images, as fractions."""
        network.eval()
        ranks = []
        for start in range(0, len(self.test_labels), 500):
            x = torch.from_numpy(self.test_images[start : start + 500]).permute(0, 3, 1, 2)
            labels = torch.from_numpy(self.test_labels[start : start + 500])
            logits = network(normalise(scaled(x.to(device_of(network)).float(), self.recipe.size))).cpu()
            ranks.append(ranks_of_truth(logits, labels))
        rank = torch.cat(ranks)
        return {"top1": (rank < 1).float().mean().item(), "top5": (rank < 5).float().mean().item()}
