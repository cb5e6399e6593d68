"""A second, independent implementation of the packed dialect, in NumPy, as plain as it can be.

It is written from the operators' definition only: integer sums by an explicit walk over the taps of the window,
popcounts nowhere, no layout tricks. With ONNX's own reference evaluator for stock nodes it runs whole packed graphs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def bit_of(words: np.ndarray, channel: int) -> np.ndarray:
    """One sign bit out of words [..., CW]: bool [...]."""
    return (words[..., channel // 32].astype(np.int64) >> (channel % 32)) & 1 == 1


def signs_of(words: np.ndarray, channels: int) -> np.ndarray:
    """Signs, int64 [..., C] of -1 and +1."""
    return np.stack([np.where(bit_of(words, c), -1, 1) for c in range(channels)], axis=-1)


def words_of(negative: np.ndarray) -> np.ndarray:
    """Packs bool [..., C] into int32 [..., CW], bit by bit."""
    channels = negative.shape[-1]
    words = np.zeros((*negative.shape[:-1], (channels + 31) // 32), np.int64)
    for c in range(channels):
        words[..., c // 32] += negative[..., c].astype(np.int64) << (c % 32)
    return words.astype(np.uint32).view(np.int32)


def bits_of(x: np.ndarray, threshold: np.ndarray | float = 0.0) -> np.ndarray:
    """float32 [N,H,W,C] -> int32 [N,H+2,W+2,CW] with its border of zero words."""
    n, h, w, c = x.shape
    bits = np.zeros((n, h + 2, w + 2, (c + 31) // 32), np.int32)
    bits[:, 1 : h + 1, 1 : w + 1] = words_of(x < threshold)
    return bits


def window_sums(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """Cross-correlation with zero padding k//2: x [N,H,W,C], weight [O,K,K,C] -> [N,OH,OW,O], in the dtype of x."""
    n, h, w, _ = x.shape
    o, k, _, _ = weight.shape
    oh, ow = (h - 1) // stride + 1, (w - 1) // stride + 1
    sums = np.zeros((n, oh, ow, o), x.dtype)
    for oy in range(oh):
        for ox in range(ow):
            for ky in range(k):
                for kx in range(k):
                    y, z = oy * stride + ky - k // 2, ox * stride + kx - k // 2
                    if 0 <= y < h and 0 <= z < w:
                        sums[:, oy, ox] += x[:, y, z] @ weight[:, ky, kx].T
    return sums


def max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 2, padding 1; the padding never wins."""
    n, h, w, c = x.shape
    padded = np.full((n, h + 2, w + 2, c), -np.inf, x.dtype)
    padded[:, 1:-1, 1:-1] = x
    rows, columns = (h - 1) // 2 + 1, (w - 1) // 2 + 1
    pooled = np.empty((n, rows, columns, c), x.dtype)
    for y in range(rows):
        for z in range(columns):
            pooled[:, y, z] = padded[:, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3].max(axis=(1, 2))
    return pooled


class Stem(OpRun):
    op_domain = "bireal"

    def _run(self, image: Any, weight: Any, scale: Any, bias: Any, mean: Any, stride: int = 1, pool: int = 0) -> Any:
        centred = image.astype(np.float64) - mean
        y = window_sums(centred, weight.astype(np.float64), stride) * scale + bias
        y = (max_pool(y) if pool else y).astype(np.float32)
        return (y, bits_of(y))[: self.n_outputs]

    @property
    def n_outputs(self) -> int:
        return len(self.onnx_node.output)


class Pack(OpRun):
    op_domain = "bireal"

    def _run(self, x: Any, threshold: Any = None) -> Any:
        return (bits_of(x, 0.0 if threshold is None else threshold),)


class BConv(OpRun):
    op_domain = "bireal"

    def _run(
        self,
        bits: Any,
        weight: Any,
        scale: Any,
        bias: Any,
        residual: Any = None,
        channels: int = 0,
        kernel: int = 0,
        stride: int = 0,
    ) -> Any:
        assert weight.shape[1:3] == (kernel, kernel)
        sums = window_sums(signs_of(bits[:, 1:-1, 1:-1], channels), signs_of(weight, channels), stride)
        y = sums.astype(np.float32) * scale + bias
        if residual is not None:
            y = y + residual
        return (y, bits_of(y))[: len(self.onnx_node.output)]


class AvgPool2(OpRun):
    op_domain = "bireal"

    def _run(self, x: Any) -> Any:
        n, h, w, c = x.shape
        pooled = np.empty((n, (h + 1) // 2, (w + 1) // 2, c), np.float32)
        for y in range(pooled.shape[1]):
            for z in range(pooled.shape[2]):
                pooled[:, y, z] = x[:, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2].mean(axis=(1, 2), dtype=np.float64)
        return (pooled,)


class Pointwise(OpRun):
    op_domain = "bireal"

    def _run(self, x: Any, weight: Any, scale: Any, bias: Any, slope: Any = None) -> Any:
        one = np.float32(1)
        v = x if slope is None else x * slope + np.minimum(one, np.maximum(-one, x)) * (one - slope)
        if weight.dtype == np.int8:
            largest = np.abs(v).max(axis=-1, keepdims=True)
            small = largest < np.float32(1e-30)
            safe = np.where(small, one, largest)
            q = np.where(small, 0, np.rint(v * (np.float32(127) / safe))).astype(np.int64)
            step = np.where(small, 0 * one, safe / np.float32(127))
            sums = (q @ weight.astype(np.int64)).astype(np.float32) * step
        else:
            sums = (v.astype(np.float64) @ weight.astype(np.float64)).astype(np.float32)
        y = sums * scale + bias
        return (y, bits_of(y))[: len(self.onnx_node.output)]


class GlobalMean(OpRun):
    op_domain = "bireal"

    def _run(self, x: Any) -> Any:
        return (x.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32),)


def evaluate(model: onnx.ModelProto, image: np.ndarray, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """Runs a packed graph and returns its outputs, or the named tensors, by name."""
    if names:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        del tapped.graph.output[:]
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        model = tapped
    evaluator = ReferenceEvaluator(model, new_ops=[Stem, Pack, BConv, AvgPool2, Pointwise, GlobalMean])
    return dict(zip(evaluator.output_names, evaluator.run(None, {"image": image}), strict=True))
