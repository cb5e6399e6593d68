"""Image-folder classification data: ``<root>/<split>/<wnid>/<image>``, decoded once into memory where it fits.

ImageNet does not (252 GB at 256x256): its images are decoded whenever a batch asks for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
MEMORY_SHARE = 0.25  # of the machine's memory that decoded images may take; setting a part aside copies them once


@dataclass(frozen=True)
class ClassName:
    """One class of the data: WordNet id and the first human synonym."""

    wnid: str
    name: str


class ImageFiles:
    """Images that are decoded when they are asked for, by as many threads as there are cores.

    Args:
        paths: of the files.
        size: to which the whole image is scaled, pixels, square.
    """

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images uint8 [n,size,size,3], as of an array of all of them."""
        chosen = self.paths[index] if isinstance(index, slice) else [self.paths[i] for i in index]
        images = np.empty((len(chosen), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding leaves Python's lock
            for i, image in enumerate(pool.map(self._decode, chosen)):
                images[i] = image
        return images

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        return decode(path, self.size)

    def subset(self, index: NDArray[np.int64]) -> ImageFiles:
        """The files at ``index``."""
        return ImageFiles([self.paths[i] for i in index], self.size)


@dataclass(frozen=True)
class ImageSet:
    """Images of equal size.

    Attributes:
        images: uint8 [N,H,W,3] RGB, or files that index like it.
        labels: int64 [N], index into ``classes``.
        classes: in label order.
    """

    images: NDArray[np.uint8] | ImageFiles
    labels: NDArray[np.int64]
    classes: tuple[ClassName, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: NDArray[np.int64]) -> ImageSet:
        """The images at ``index``, copied if they are in memory."""
        images = self.images.subset(index) if isinstance(self.images, ImageFiles) else self.images[index]
        return ImageSet(images, self.labels[index], self.classes)


def read_classes(root: Path) -> tuple[ClassName, ...]:
    """Read ``*classes.json`` in ``root``: a list of {index, wnid, name}, in label order.

    Raises:
        FileNotFoundError: if there is none, naming what is expected.
        ValueError: if the indices are not 0, 1, 2, ..., each once.
    """
    found = sorted(root.glob("*classes.json"))
    if not found:
        raise FileNotFoundError(f"{root} has no *classes.json (a list of {{index, wnid, name}}): add one beside train/")
    entries = sorted(json.loads(found[0].read_text()), key=lambda e: int(e["index"]))
    indices = [int(e["index"]) for e in entries]
    if indices != list(range(len(entries))):
        raise ValueError(f"{found[0]}: the indices must be 0 to {len(entries) - 1}, each once; they are labels")
    return tuple(ClassName(e["wnid"], e["name"].split(",")[0].strip()) for e in entries)


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """One file as uint8 [size,size,3] RGB; another size is scaled (the whole image)."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def fits_memory(size_bytes: int) -> bool:
    """Whether decoded images of so many bytes may be held in memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return size_bytes <= MEMORY_SHARE * memory


def load_split(root: Path, split: str, size: int) -> ImageSet:
    """Images ``<root>/<split>/<wnid>/*`` as uint8 [N,size,size,3]; other sizes are scaled (whole image).

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
    labels = np.array([label for _, label in paths], np.int64)
    if not fits_memory(len(paths) * size * size * 3):
        return ImageSet(ImageFiles([path for path, _ in paths], size), labels, classes)
    images = np.empty((len(paths), size, size, 3), np.uint8)
    for i, (path, _) in enumerate(tqdm(paths, desc=f"decode {split}", unit="img", mininterval=2.0)):
        images[i] = decode(path, size)
    return ImageSet(images, labels, classes)


def hold_out(data: ImageSet, per_class: int) -> tuple[ImageSet, ImageSet]:
    """Split off the last ``per_class`` images of each class (by file name): (training part, validation part)."""
    validation = np.zeros(len(data), bool)
    for label in range(len(data.classes)):
        mine = np.flatnonzero(data.labels == label)
        validation[mine[max(0, len(mine) - per_class) :]] = True
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
