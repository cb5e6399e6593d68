"""Naive numpy versions of the operators: what they mean, with no packing tricks.

Activations are NHWC float32. Everything here is written to be read, not to be fast; the float steps are
those of the operators (one rounding a step, nothing fused), so results are compared for equality.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

WORD_BITS = 32


def signs(x: FloatArray, threshold: FloatArray | float = 0.0) -> IntArray:
    """+1 or -1 for each value; sign(0) = +1 (Bi-Real Net, Eq. 1) and NaN counts as +1.

    Args:
        x: any shape.
        threshold: scalar or [C], broadcast over the last axis.
    """
    with np.errstate(invalid="ignore"):
        return np.where(x < threshold, -1, 1).astype(np.int32)


def pack_words(sign: IntArray) -> IntArray:
    """Signs [..., C] -> words [..., ceil(C/32)] int32; bit i of word j is 1 iff channel 32j+i is -1."""
    channels = sign.shape[-1]
    words = -(-channels // WORD_BITS)
    bits = np.zeros((*sign.shape[:-1], words * WORD_BITS), np.uint64)
    bits[..., :channels] = sign < 0
    grouped = bits.reshape(*sign.shape[:-1], words, WORD_BITS)
    values = (grouped << np.arange(WORD_BITS, dtype=np.uint64)).sum(-1)
    return values.astype(np.uint32).view(np.int32)


def pack_map(sign: IntArray) -> IntArray:
    """Signs [N,H,W,C] -> bits [N,H+2,W+2,CW] with a border of zero words."""
    return np.pad(pack_words(sign), ((0, 0), (1, 1), (1, 1), (0, 0)))


def integer_sums(sign: IntArray, weight: IntArray, stride: int) -> IntArray:
    """Binary convolution, padding kernel // 2 with zeros (after the sign).

    Args:
        sign: [N,H,W,C], +1 or -1.
        weight: [O,K,K,C], +1 or -1.
        stride: 1 or 2.

    Returns:
        [N,OH,OW,O] int32, exact.
    """
    kernel = weight.shape[1]
    pad = kernel // 2
    n, height, width, _ = sign.shape
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    padded = np.pad(sign, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(np.float64)
    total = np.zeros((n, out_height, out_width, weight.shape[0]))
    for ky in range(kernel):
        for kx in range(kernel):
            rows = slice(ky, ky + (out_height - 1) * stride + 1, stride)
            columns = slice(kx, kx + (out_width - 1) * stride + 1, stride)
            total += padded[:, rows, columns] @ weight[:, ky, kx].T.astype(np.float64)
    return total.astype(np.int32)


def bconv(
    sign: IntArray,
    weight: IntArray,
    scale: FloatArray,
    bias: FloatArray,
    stride: int,
    residual: FloatArray | None = None,
) -> FloatArray:
    """dot * scale + bias (+ residual), each step rounded to float32. Shapes as in integer_sums; scale, bias [O]."""
    y = integer_sums(sign, weight, stride).astype(np.float32) * scale + bias
    return y if residual is None else y + residual


def stem(
    image: NDArray[np.uint8],
    weight: NDArray[np.float32] | NDArray[np.int16],
    scale: FloatArray,
    bias: FloatArray,
    mean: FloatArray,
    stride: int,
    pool: bool,
) -> NDArray[np.float64]:
    """scale * sum w * (pixel - mean) + bias in float64, zero padding after the mean; then max-pool 3/2/1.

    Args:
        image: [N,H,W,3]. weight: [O,K,K,3]. scale, bias: [O]. mean: [3], 0..255.

    Returns:
        [N,PH,PW,O] float64, the exact value that the operator approximates.
    """
    kernel = weight.shape[1]
    pad = kernel // 2
    n, height, width, _ = image.shape
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    centred = np.pad(image.astype(np.float64) - mean.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = np.zeros((n, out_height, out_width, weight.shape[0]))
    for ky in range(kernel):
        for kx in range(kernel):
            rows = slice(ky, ky + (out_height - 1) * stride + 1, stride)
            columns = slice(kx, kx + (out_width - 1) * stride + 1, stride)
            total += centred[:, rows, columns] @ weight[:, ky, kx].T.astype(np.float64)
    value = total * scale.astype(np.float64) + bias.astype(np.float64)
    return max_pool(value) if pool else value


def max_pool(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """3x3, stride 2, pad 1: [N,H,W,C] -> [N,(H-1)//2+1,(W-1)//2+1,C]."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=-np.inf)
    out_height, out_width = (height - 1) // 2 + 1, (width - 1) // 2 + 1
    windows = [
        padded[:, dy : dy + 2 * out_height : 2, dx : dx + 2 * out_width : 2] for dy in range(3) for dx in range(3)
    ]
    return np.max(windows, axis=0)


def avg_pool(x: FloatArray) -> FloatArray:
    """2x2, stride 2, ceil_mode, padding not counted; sums in reading order, one rounding a step."""
    n, height, width, channels = x.shape
    out = np.zeros((n, (height + 1) // 2, (width + 1) // 2, channels), np.float32)
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(n, -1, channels)
            total = window[:, 0].copy()
            for i in range(1, window.shape[1]):
                total = total + window[:, i]
            out[:, row, column] = total * np.float32(1 / window.shape[1])
    return out


def leaky_clip(x: FloatArray, slope: float) -> FloatArray:
    """slope * x + (1 - slope) * clip(x, -1, 1), each step rounded."""
    steep = np.float32(slope)
    return x * steep + np.clip(x, np.float32(-1), np.float32(1)) * (np.float32(1) - steep)


def pointwise_8_bits(x: FloatArray, weight: NDArray[np.int8], scale: FloatArray, bias: FloatArray) -> FloatArray:
    """(sum * step) * scale + bias: each pixel of x [N,H,W,C] rounded to integers of a step of its own, times [C,O]."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    zero = largest < np.float32(1e-30)
    divisor = np.where(zero, np.float32(1), largest)
    step = np.where(zero, np.float32(0), divisor / np.float32(127))
    q = np.rint(x * np.where(zero, np.float32(0), np.float32(127) / divisor)).astype(np.int64)
    return (q @ weight.astype(np.int64)).astype(np.float32) * step * scale + bias


def global_mean(x: FloatArray) -> FloatArray:
    """Mean over the pixels, summed in reading order: [N,H,W,C] -> [N,1,1,C]."""
    n, height, width, channels = x.shape
    total = np.zeros((n, channels), np.float32)
    for pixel in x.reshape(n, -1, channels).transpose(1, 0, 2):
        total = total + pixel
    return (total * np.float32(1 / (height * width))).reshape(n, 1, 1, channels)
