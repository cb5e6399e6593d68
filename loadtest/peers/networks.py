"""The networks that are compared: pairs of a Bi-Real net and its full-precision twin, as the exporter writes them.

With PyTorch (the extra `train`) they are built from models.arch with random weights: speed does not depend on the
weights' values, and every depth of the paper is there. Without it, the zoo's models are taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from loadtest.options import UsageError
from service.card import CARD_FILE, Card

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"

Images = NDArray[np.uint8]
Graphs = tuple[onnx.ModelProto, onnx.ModelProto]


@dataclass(frozen=True)
class Pair:
    """A binary network and its full-precision twin.

    Attributes:
        full_name: the twin's name in the rows; the same as `binary_name` where the ways to run it tell them apart.
        binary_name: the binary network's.
        height: input rows, pixels.
        width: input columns, pixels.
        load: makes (the twin's graph, the packed graph); both take `image` uint8 [N,H,W,3].
    """

    full_name: str
    binary_name: str
    height: int
    width: int
    load: Callable[[], Graphs]

    @cached_property
    def graphs(self) -> Graphs:
        """(full, packed), made when first asked for."""
        return self.load()


def pairs(weights: str) -> tuple[str, list[Pair]]:
    """The pairs to measure.

    Args:
        weights: `random`, `zoo`, or `auto` for the first of these that this installation can give.

    Returns:
        Which weights these are, `random` or `zoo`, and the pairs.

    Raises:
        UsageError: it can give none.
    """
    if weights != "zoo" and _has_torch():
        return "random", random_pairs()
    if weights == "random":
        raise UsageError(
            "Networks with random weights are built with PyTorch, which is not installed: run `make setup` (or `pip "
            "install 'bireal-serve[train]'`), or measure the zoo's models with --weights zoo."
        )
    found = zoo_pairs(ZOO)
    if not found:
        raise UsageError(
            "models/zoo has no binary model with its full-precision twin. Networks with random weights need PyTorch: "
            "run `make setup`, and leave --weights zoo out."
        )
    return "zoo", found


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401 - importing is the only sure test: a broken install counts as none
    except ImportError:
        return False
    return True


def random_pairs() -> list[Pair]:
    """ImageNet's 18, 34, 50 and 152 layers at 224 x 224, and the depth network of 50 layers at 160 x 608."""
    from loadtest.peers.networks_random import random_graphs  # here, because it needs PyTorch

    def classifier(depth: int) -> Pair:
        return Pair(f"resnet{depth}", f"bireal{depth}", 224, 224, lambda: random_graphs(224, 224, depth=depth))

    depth50 = Pair("depth50", "depth50", 160, 608, lambda: random_graphs(160, 608, depth=50, task="depth"))
    return [*(classifier(depth) for depth in (18, 34, 50, 152)), depth50]


def zoo_pairs(zoo: Path) -> list[Pair]:
    """Every binary model of a zoo whose twin is there too, in the newest version by name."""
    cards: dict[str, Card] = {}
    for file in sorted(zoo.glob(f"*/*/{CARD_FILE}")):
        card = Card.load(file.parent)
        cards[card.name] = card
    found = []
    for card in cards.values():
        twin = cards.get(card.full or "")
        if twin is not None:
            found.append(Pair(twin.name, card.name, card.input.height, card.input.width, _loader(twin, card)))
    return found


def _loader(full: Card, binary: Card) -> Callable[[], Graphs]:
    return lambda: (onnx.load(full.path), onnx.load(binary.path))


def photos(count: int, height: int, width: int, seed: int = 0) -> Images:
    """Synthetic photos: noise in which low frequencies dominate, as in natural images.

    Args:
        count: number of images.
        height: rows, pixels.
        width: columns, pixels.
        seed: of the noise.

    Returns:
        uint8 [count, height, width, 3].
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((count, height, width, 3), np.float32)
    for cells in (2, 4, 8, 16, 32):
        noise = rng.random((count, cells, cells, 3), np.float32) - 0.5
        for image, planes in zip(total, noise, strict=True):
            image += np.stack([_scaled(plane, height, width) for plane in planes.transpose(2, 0, 1)], -1) / cells**0.5
    images: Images = np.clip(total / total.std() * 60.0 + 120.0, 0, 255).astype(np.uint8)
    return images


def _scaled(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC), np.float32)
