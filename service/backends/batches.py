"""Batches in parts: how many images a packed graph is best given at once.

A 1-bit layer computes so fast that bringing its real-valued map from memory costs more than the arithmetic. One image's
maps stay in the caches from layer to layer; those of a batch, all images of a layer before the next layer, do not.
docs/adr/0055 has the figures.
"""

import math

from service.card import Card

MOST_MAP_BYTES = 8 << 20
"""Most that one float map of all images of a run may take: a fraction of a last-level cache that others use, too."""

_FLOAT_BYTES = 4
_STEM_STRIDE = 4
_STEM_CHANNELS = 64
_EXPANSION = {50: 4, 152: 4}  # bottlenecks widen their output; basic blocks do not


def largest_map_bytes(card: Card) -> int:
    """Size of the largest float map of one image: what the first stage's blocks pass on.

    Told by the card, not read from the graph: a service that runs `binary` alone need not carry `onnx` in memory.
    """
    pixels = math.ceil(card.input.height / _STEM_STRIDE) * math.ceil(card.input.width / _STEM_STRIDE)
    channels = _STEM_CHANNELS * card.network.width * _EXPANSION.get(card.network.depth, 1)
    return int(pixels * channels * _FLOAT_BYTES)


def images_a_run(map_bytes: int) -> int:
    """How many images of such maps to run at once, at least 1."""
    return max(1, MOST_MAP_BYTES // max(1, map_bytes))
