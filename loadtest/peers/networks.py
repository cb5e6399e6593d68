"""The networks that are compared: exported pairs of a Bi-Real net and its full-precision twin.

With PyTorch (the extra `train`) they are built from models.arch with random weights, in every depth of the paper; speed
does not depend on the values of weights. Without PyTorch, the models of the zoo are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from loadtest.options import UsageError
from service.card import CARD_FILE, Card

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"

Graphs = tuple[onnx.ModelProto, onnx.ModelProto]


@dataclass(frozen=True)
class Pair:
    """A binary network and its full-precision twin.

    Attributes:
        full_name: name of the twin in the rows; may equal `binary_name`, since the ways to run them differ.
        binary_name: name of the binary network in the rows.
        height: input height, pixels.
        width: input width, pixels.
        load: returns (the twin's graph, the packed graph); both take `image` uint8 [N,H,W,3].
    """

    full_name: str
    binary_name: str
    height: int
    width: int
    load: Callable[[], Graphs]

    @cached_property
    def graphs(self) -> Graphs:
        """(full, packed), loaded on first use."""
        return self.load()


def pairs(weights: str) -> tuple[str, list[Pair]]:
    """The pairs to measure.

    Args:
        weights: `random`, `zoo`, or `auto` for the first of these that is available in this installation.

    Returns:
        The kind of weights, `random` or `zoo`, and the pairs.

    Raises:
        UsageError: they are not available.
    """
    if weights != "zoo" and _has_torch():
        return "random", random_pairs()
    if weights == "random":
        raise UsageError(
            "Networks with random weights need PyTorch, which is not installed: run `make setup` (or `pip install "
            "'bireal-serve[train]'`), or measure the zoo's models with --weights zoo."
        )
    found = zoo_pairs(ZOO)
    if not found:
        raise UsageError(
            "models/zoo has no binary model with its full-precision twin. To measure networks with random weights, "
            "install PyTorch with `make setup` and leave out --weights zoo."
        )
    return "zoo", found


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401 - only importing it detects a broken installation
    except ImportError:
        return False
    return True


def random_pairs() -> list[Pair]:
    """ImageNet classifiers of 18, 34, 50 and 152 layers at 224 x 224, and the 50-layer depth network at 160 x 608."""
    from loadtest.peers.networks_random import random_graphs  # imported here because it needs PyTorch

    def classifier(depth: int) -> Pair:
        return Pair(f"resnet{depth}", f"bireal{depth}", 224, 224, lambda: random_graphs(224, 224, depth=depth))

    depth50 = Pair("depth50", "depth50", 160, 608, lambda: random_graphs(160, 608, depth=50, task="depth"))
    return [*(classifier(depth) for depth in (18, 34, 50, 152)), depth50]


def zoo_pairs(zoo: Path) -> list[Pair]:
    """Every binary model of a zoo with its twin, in the last version by name."""
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
