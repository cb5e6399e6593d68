"""The number of images to pass to a packed graph in one run.

A 1-bit layer computes so fast that loading its real-valued map from memory costs more than the arithmetic. The maps of
one image stay in the caches from layer to layer. Those of a large batch do not, because each layer processes all
images before the next layer starts. docs/adr/0055 has the measurements.
"""

import math

from service.card import Card

MOST_MAP_BYTES = 8 << 20
"""Maximum size of one float map over all images of a run: a fraction of the last-level cache, which is shared."""

_FLOAT_BYTES = 4
_STEM_STRIDE = 4
_STEM_CHANNELS = 64
_EXPANSION = {50: 4, 152: 4}  # bottlenecks widen their output; basic blocks do not


def largest_map_bytes(card: Card) -> int:
    """Size of the largest float map of one image: the output of the first stage's blocks.

    Computed from the card, not from the graph, so that a service that only runs `binary` need not import `onnx`. The
    card does not describe the stem: without its stride or its pooling (`models.arch.SMALL_STEM`, for images of about 32
    pixels), maps are up to 16 times as large.
    """
    pixels = math.ceil(card.input.height / _STEM_STRIDE) * math.ceil(card.input.width / _STEM_STRIDE)
    channels = _STEM_CHANNELS * card.network.width * _EXPANSION.get(card.network.depth, 1)
    return int(pixels * channels * _FLOAT_BYTES)


def images_a_run(map_bytes: int) -> int:
    """Number of images with maps of this size to run at once, at least 1."""
    return max(1, MOST_MAP_BYTES // max(1, map_bytes))
