"""The operator's packed sign format in NumPy: 32 signs per word.

A sign is one bit: 1 stands for -1 and 0 for +1. Sign 32*j + i of a pixel is bit i of word j; the unused bits of the
last word are 0. An activation map has a border of one pixel of zero words. The kernels may read the border but never
count it: padding is zero after the sign, so a border tap adds nothing to a sum.
"""

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 32
BORDER = 1
"""Pixels of zero words around a packed map."""


def words_per_pixel(channels: int) -> int:
    """Number of 32-bit words that hold the signs of one pixel."""
    return -(-channels // WORD_BITS)


def pack_signs(negative: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Packs signs along the last axis.

    Args:
        negative: bool [..., C], true where the value is -1.

    Returns:
        int32 [..., ceil(C/32)].
    """
    channels = negative.shape[-1]
    packed = np.packbits(negative, axis=-1, bitorder="little")
    whole = np.zeros((*negative.shape[:-1], words_per_pixel(channels) * WORD_BITS // 8), np.uint8)
    whole[..., : packed.shape[-1]] = packed
    return whole.view("<i4").astype(np.int32, copy=False)


def unpack_signs(words: NDArray[np.int32], channels: int) -> NDArray[np.float32]:
    """Unpacks signs along the last axis.

    Args:
        words: int32 [..., ceil(C/32)].
        channels: C.

    Returns:
        float32 [..., C] of -1 and +1.
    """
    octets = np.ascontiguousarray(words.astype("<i4", copy=False)).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1, count=channels, bitorder="little")
    return np.float32(1) - np.float32(2) * bits


def pack_map(x: NDArray[np.float32], threshold: NDArray[np.float32] | float = 0.0) -> NDArray[np.int32]:
    """Packs the signs of an activation map: -1 where x < threshold; ties and NaN give +1 (paper, Eq. 1).

    Args:
        x: float32 [N, H, W, C].
        threshold: a number or float32 [C].

    Returns:
        int32 [N, H+2, W+2, ceil(C/32)]; border and unused bits are zero.
    """
    inside = ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0))
    return np.pad(pack_signs(np.less(x, threshold)), inside)


def unpack_map(bits: NDArray[np.int32], channels: int) -> NDArray[np.float32]:
    """Inverse of `pack_map`, without the border: int32 [N, H+2, W+2, CW] -> float32 [N, H, W, C] of -1 and +1."""
    return unpack_signs(bits[:, BORDER:-BORDER, BORDER:-BORDER], channels)
