"""Image-folder classification data: ``<root>/<split>/<wnid>/**/<image>``, decoded once into memory if it fits.

Larger data, such as ImageNet (252 GB at 256x256), is decoded batch by batch.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models.command_line import listed
from models.data.augment import random_resized_crop
from service import imaging
from service.errors import ServiceError
from service.evaluation import IMAGE_SUFFIXES, files_below
from service.imaging import ImageLimits

LIMITS = ImageLimits(max_pixels=178_000_000)  # above the service's default: our own data are no attack
MEMORY_SHARE = 0.25  # fraction of RAM for decoded images; splitting off a held-out set temporarily copies them


@dataclass(frozen=True)
class ClassName:
    """A class of the data: WordNet id and the first synonym of its name."""

    wnid: str
    name: str


class ImageFiles:
    """Images decoded on access, with one thread per core.

    Args:
        paths: the image files.
        size: side in pixels of the square that the whole image is scaled to.
        shorter: as for `decode`.
    """

    def __init__(self, paths: list[Path], size: int, shorter: int = 0) -> None:
        self.paths = paths
        self.size = size
        self.shorter = shorter

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images uint8 [n,size,size,3], indexed like an array of all images."""
        chosen = self.paths[index] if isinstance(index, slice) else [self.paths[i] for i in index]
        images = np.empty((len(chosen), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoding releases the GIL
            for i, image in enumerate(pool.map(self._decode, chosen)):
                images[i] = image
        return images

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        return decode(path, self.size, self.shorter)

    def cut(
        self, index: NDArray[np.int64], size: int, shorter: NDArray[np.int64], position: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Square crops uint8 [n,size,size,3] of the images at ``index`` [n], each as `decode` cuts it.

        Args:
            index: which images.
            size: side of the crops in pixels.
            shorter: shorter side of each image in the same pixels, [n].
            position: of each crop, [n,2].
        """

        def one(i: int) -> NDArray[np.uint8]:
            left, top = position[i]
            return decode(self.paths[index[i]], size, int(shorter[i]), (float(left), float(top)))

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return np.stack(list(pool.map(one, range(len(index)))))

    def subset(self, index: NDArray[np.int64]) -> ImageFiles:
        """The files at ``index``."""
        return ImageFiles([self.paths[i] for i in index], self.size, self.shorter)


@dataclass(frozen=True)
class ImageSet:
    """Images of equal size.

    Attributes:
        images: uint8 [N,H,W,3] RGB, or files that are indexed like such an array.
        labels: int64 [N], index into ``classes``.
        classes: the classes, in label order.
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
        FileNotFoundError, ValueError: see `class_entries`.
    """
    return tuple(ClassName(e["wnid"], e["name"].split(",")[0].strip()) for e in class_entries(root))


def class_entries(root: Path, *numbers: str) -> list[dict[str, Any]]:
    """The entries of ``*classes.json`` in ``root``, in label order, each with whole ``numbers`` besides its index.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, an entry lacks a field, the indices are not 0, 1, 2, ..., each once, or two
            classes have the same wnid.
    """
    found = sorted(root.glob("*classes.json"))
    if not found:
        raise FileNotFoundError(f"{root} has no *classes.json (a list of {{index, wnid, name}}): add one beside train/")
    path, numbers, texts = found[0], ("index", *numbers), ("wnid", "name")
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    wanted = f"{', '.join(numbers)} (whole numbers), {' and '.join(texts)} (texts)"
    if not isinstance(entries, list):
        raise ValueError(f"{path} must be a list of classes, each with {wanted}")  # noqa: TRY004  # a file's content
    for entry in entries:
        if not isinstance(entry, dict) or not (
            all(str(entry.get(key)).isdecimal() for key in numbers)
            and all(isinstance(entry.get(key), str) for key in texts)
        ):
            raise ValueError(f"{path}: {json.dumps(entry):.120} is no class with {wanted}")
    entries.sort(key=lambda entry: int(entry["index"]))
    if [int(entry["index"]) for entry in entries] != list(range(len(entries))):
        raise ValueError(f"{path}: the indices are labels and must be 0 to {len(entries) - 1}, each once")
    wnids = Counter(entry["wnid"] for entry in entries)
    if twice := [wnid for wnid, number in wnids.items() if number > 1]:
        raise ValueError(f"{path} lists {twice[0]} more than once: its images would have several labels")
    return entries


def read_rgb(path: Path) -> Image.Image:
    """Decode a file to RGB as the service does: upright, alpha over white, 16-bit grey by its high byte.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded; the message names the file.
    """
    try:
        return imaging.decode(path.read_bytes(), limits=LIMITS).image
    except FileNotFoundError:
        raise
    except (OSError, ServiceError) as error:
        why = error.detail.rstrip(".") if isinstance(error, ServiceError) else str(error)
        raise ValueError(f"{path} cannot be read as an image ({why}): replace or remove it") from error


def decode(path: Path, size: int, shorter: int = 0, position: tuple[float, float] = (0.5, 0.5)) -> NDArray[np.uint8]:
    """Decode a file to uint8 [size,size,3] RGB; the whole image is scaled if it has another size.

    With ``shorter``, the image is scaled to this shorter side instead, keeping its aspect, and a square is cropped: the
    centre, as the service does and in one step as there, or at another ``position``, from (0, 0) at the top left to
    (1, 1) at the bottom right.

    Raises:
        FileNotFoundError, ValueError: see `read_rgb`.
    """
    rgb = read_rgb(path)
    if shorter:
        side = size * min(rgb.size) / shorter  # of the crop, in pixels of the file
        left, top = ((whole - side) * share for whole, share in zip(rgb.size, position, strict=True))
        box = (left, top, left + side, top + side)
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box)
    elif rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def fits_memory(size_bytes: int) -> bool:
    """Whether decoded images of ``size_bytes`` may be held in memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return size_bytes <= MEMORY_SHARE * memory


def load_split(root: Path, split: str, size: int) -> ImageSet:
    """Images ``<root>/<split>/<wnid>/*`` as uint8 [N,size,size,3], whole images scaled if they have another size.

    Raises:
        FileNotFoundError: a class folder is missing or has no images.
        ValueError: an image cannot be decoded.
    """
    files = split_files(root, split, size)
    return in_memory(files, split) if fits_memory(len(files) * size * size * 3) else files


def in_memory(data: ImageSet, split: str) -> ImageSet:
    """The same images, decoded; ``split`` names them in the progress bar."""
    assert isinstance(data.images, ImageFiles)
    files = data.images
    images = np.empty((len(data), files.size, files.size, 3), np.uint8)
    for i, path in enumerate(tqdm(files.paths, desc=f"decode {split}", unit="img", mininterval=2.0)):
        images[i] = decode(path, files.size, files.shorter)
    return ImageSet(images, data.labels, data.classes)


def split_files(root: Path, split: str, size: int, shorter: int = 0) -> ImageSet:
    """The files of a split, decoded on access by `decode` with ``size`` and ``shorter``.

    As in ``python -m service evaluate``, images may lie in subfolders of a class. Folders that are no class, of which
    there may be good reasons to have some, are named on standard error.

    Raises:
        FileNotFoundError: a class folder is missing or has no images.
        DataError: a folder cannot be read.
    """
    classes = read_classes(root)
    paths: list[tuple[Path, int]] = []
    for label, cls in enumerate(classes):
        folder = root / split / cls.wnid
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: expected <data>/{split}/<wnid>/<image> for every class")
        files = sorted(files_below(folder, all_folders=True))
        mine = [(path, label) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if not mine:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise FileNotFoundError(
                f"{folder} has no images ({kinds}): add some, or remove {cls.wnid} from the classes"
            )
        paths += mine
    folders = {entry.name for entry in (root / split).iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if others := sorted(folders - {cls.wnid for cls in classes}):
        print(f"{root / split}: left out, because *classes.json does not list them: {listed(others)}", file=sys.stderr)
    labels = np.array([label for _, label in paths], np.int64)
    return ImageSet(ImageFiles([path for path, _ in paths], size, shorter), labels, classes)


def hold_out(data: ImageSet, per_class: int) -> tuple[ImageSet, ImageSet]:
    """Hold out the last ``per_class`` images of each class (by file name): (training set, held-out set)."""
    validation = np.zeros(len(data), bool)
    for label in range(len(data.classes)):
        mine = np.flatnonzero(data.labels == label)
        validation[mine[max(0, len(mine) - per_class) :]] = True
    return data.subset(np.flatnonzero(~validation)), data.subset(np.flatnonzero(validation))


def training_part(data: ImageSet, per_class: int, root: Path) -> ImageSet:
    """The training set of `hold_out`; ``root`` is the folder of the images.

    Raises:
        ValueError: it is empty.
    """
    train, held_out = hold_out(data, per_class)
    if not len(train):
        raise ValueError(
            f"{root}: all {len(held_out)} images are held out ({per_class} of each class), so none is left to measure "
            f"on: give more than {per_class} of a class"
        )
    return train


def training_batches(
    data: ImageSet, *, batch: int, size: int, min_scale: float, seed: int, epoch: int, first_step: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of one epoch: (float [B,3,size,size] in 0..255, int64 [B]); the last partial batch is dropped.

    A batch depends only on (seed, epoch, step), so that a resumed run sees the same batches as an uninterrupted one.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(data))
    for step in range(first_step, len(data) // batch):
        index = order[step * batch : (step + 1) * batch]
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + step)
        images = torch.from_numpy(data.images[index])
        yield random_resized_crop(images, size, min_scale, generator), torch.from_numpy(data.labels[index])
