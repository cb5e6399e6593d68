"""Colour pictures of the difference of two depth maps."""

import math

import numpy as np
import numpy.typing as npt

from service.tasks import scale_bar
from service.tasks.depth_formats import encode_png

#: Ratio of depths at which the colour saturates.
FULL_RATIO = 2.0

# Blue and red through white, which colour-blind people can distinguish too.
_NEARER, _EQUAL, _FARTHER = (33, 102, 172), (247, 247, 247), (178, 24, 43)

#: Labels of the bar by a / b, most important first.
_LABELS = {1.0: "a = b", 1 / FULL_RATIO: "a = b / 2", FULL_RATIO: "a = 2 b", 0.8: "0.8 b", 1.25: "1.25 b"}


def error_map(a_m: npt.NDArray[np.float32], b_m: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colours the ratio of two maps on a logarithmic scale, so that half and double are equally strong.

    Args:
        a_m: float32 [H, W], metres, above 0.
        b_m: The same for the other map of the picture.

    Returns:
        uint8 [H, W, 3] RGB: white where they are equal, blue where `a` is nearer, red where it is farther, saturated
        from a factor of 2 on.
    """
    return _colors(np.clip(np.log2(a_m.astype(np.float64) / b_m) / math.log2(FULL_RATIO), -1, 1))


def encode_error_map(a_m: npt.NDArray[np.float32], b_m: npt.NDArray[np.float32], *, with_bar: bool = True) -> bytes:
    """Encodes `error_map` as a PNG, by default with a scale bar below it."""
    picture = error_map(a_m, b_m)
    if not with_bar:
        return encode_png(picture)
    height, width = picture.shape[:2]
    ticks = [
        scale_bar.Tick((math.log2(ratio) / math.log2(FULL_RATIO) + 1) / 2, text) for ratio, text in _LABELS.items()
    ]
    bar = scale_bar.bar(width, height, _colors(np.linspace(-1, 1, 255)), ticks)
    both = np.full((height + bar.shape[0], bar.shape[1], 3), 255, np.uint8)
    both[:height, :width] = picture
    both[height:] = bar
    return encode_png(both)


def _colors(octaves: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Colours values from -1 (`a` is nearer) to 1 (`a` is farther) as uint8 [..., 3] RGB."""
    channels = [np.interp(octaves, (-1, 0, 1), values) for values in zip(_NEARER, _EQUAL, _FARTHER, strict=True)]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)
