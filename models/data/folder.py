"""Image-folder classification data: ``<root>/<split>/<wnid>/<image>``, held decoded in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.data.augment import random_resized_crop

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class ClassName:
    """One class of the data: WordNet id and the first human synonym."""

    wnid: str
    name: str


@dataclass(frozen=True)
class ImageSet:
    """Decoded images of equal size.

    Attributes:
        images: uint8 [N,H,W,3] RGB.
        labels: int64 [N], index into ``classes``.
        classes: in label order.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[ClassName, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: NDArray[np.int64]) -> ImageSet:
        """The images at ``index``, copied."""
        return ImageSet(self.images[index], self.labels[index], self.classes)


def read_classes(root: Path) -> tuple[ClassName, ...]:
    """Read ``*classes.json`` in ``root``: a list of {index, wnid, name}, in label order.

    Raises:
        FileNotFoundError: if there is none, naming what is expected.
    """
    found = sorted(root.glob("*classes.json"))
    if not found:
        raise FileNotFoundError(f"{root} has no *classes.json (a list of {{index, wnid, name}}): add one beside train/")
    entries = sorted(json.loads(found[0].read_text()), key=lambda e: int(e["index"]))
    return tuple(ClassName(e["wnid"], e["name"].split(",")[0].strip()) for e in entries)


def load_split(root: Path, split: str, size: int) -> ImageSet:
    """Decode ``<root>/<split>/<wnid>/*`` to uint8 [N,size,size,3]; other sizes are scaled (whole image).

    Raises:
        FileNotFoundError: if a class folder is missing.
    """
    classes = read_classes(root)
    paths: list[tuple[Path, int]] = []
    for label, cls in enumerate(classes):
        folder = root / split / cls.wnid
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: expected <data>/{split}/<wnid>/<image> for every class")
        paths += [(p, label) for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    images = np.empty((len(paths), size, size, 3), np.uint8)
    for i, (path, _) in enumerate(tqdm(paths, desc=f"decode {split}", unit="img", mininterval=2.0)):
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        if rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
        images[i] = np.asarray(rgb)
    return ImageSet(images, np.array([label for _, label in paths], np.int64), classes)


def hold_out(data: ImageSet, per_class: int) -> tuple[ImageSet, ImageSet]:
    """Split off the last ``per_class`` images of each class (by file name): (training part, validation part)."""
    validation = np.zeros(len(data), bool)
    for label in range(len(data.classes)):
        validation[np.flatnonzero(data.labels == label)[-per_class:]] = True
    return data.subset(np.flatnonzero(~validation)), data.subset(np.flatnonzero(validation))


def training_batches(
    data: ImageSet, *, batch: int, size: int, min_scale: float, seed: int, epoch: int, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of one epoch: (float [B,3,size,size] in 0..255, int64 [B]); the last partial batch is dropped.

    A batch depends on (seed, epoch, step) alone, so that a resumed run sees exactly the batches that the
    uninterrupted one would have.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(data))
    for step in range(first_step, len(data) // batch):
        index = order[step * batch : (step + 1) * batch]
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + step)
        images = torch.from_numpy(data.images[index])
        yield random_resized_crop(images, size, min_scale, generator), torch.from_numpy(data.labels[index])
