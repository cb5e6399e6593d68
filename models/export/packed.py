"""Bi-Real nets as packed graphs: custom operators on NHWC activations, 1 bit a binary weight.

    stem -> [Pack] -> BConv ... -> MatMul for real 1x1 -> head

The training scale mean|W| and BatchNorm fold into each BConv's per-channel scale and bias (paper Eq. 20, without its
neglect of epsilon). The bias of a real 1x1 shortcut moves into the BConv that adds the shortcut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from models.arch.bireal import BinaryConvBn, BiRealBasic, BiRealBottleneck, BiRealNet, Downsample
from models.binarize.base import BinaryConv2d
from models.binarize.bireal import LEAKY_SLOPE
from models.export.fold import Array, batchnorm_affine, conv_weight, fold_conv_bn, fold_stem
from models.export.graph import BATCH, GraphBuilder, Shape, Tensor

STEM_PRECISIONS = ("int16", "float32")


@dataclass(frozen=True)
class Stream:
    """Activations between blocks: real values [N,H,W,C] and, where a binary convolution follows, their signs."""

    values: Tensor
    bits: Tensor | None

    def signs(self) -> Tensor:
        """The signs of a stream that a binary convolution reads."""
        assert self.bits is not None, "the last layer of a network makes no signs"
        return self.bits


def pack_weight(weight: NDArray[np.floating]) -> NDArray[np.int32]:
    """[O,C,KH,KW] -> int32 [O,KH,KW,ceil(C/32)]: bit i of word j is 1 where channel 32j+i is negative (Eq. 1)."""
    out_channels, channels, height, width = weight.shape
    words = -(-channels // 32)
    negative = np.zeros((out_channels, height, width, words * 32), bool)
    negative[..., :channels] = weight.transpose(0, 2, 3, 1) < 0
    packed = np.packbits(negative, axis=-1, bitorder="little")
    return packed.view("<i4").reshape(out_channels, height, width, words).astype(np.int32)


def bits_shape(activation: Shape) -> Shape:
    """Shape of the packed signs of [N,H,W,C]: [N,H+2,W+2,ceil(C/32)] (a border of zero words all around)."""
    batch, height, width, channels = activation
    assert isinstance(height, int) and isinstance(width, int) and isinstance(channels, int)
    return (batch, height + 2, width + 2, -(-channels // 32))


def half(size: int) -> int:
    """Size after stride 2 with the paddings used here: ceil(size / 2)."""
    return (size + 1) // 2


def stem(
    builder: GraphBuilder, image: Shape, conv_bn: nn.Sequential, *, precision: str, with_bits: bool
) -> tuple[Tensor, Tensor | None]:
    """7x7 stem, BatchNorm and max-pool on uint8 [N,H,W,3] -> [N,H/4,W/4,O] and optionally its signs.

    ``int16`` stores 16-bit weights with a scale a channel, which run on exact integers; ``float32`` stores floats.
    """
    if precision not in STEM_PRECISIONS:
        raise ValueError(f"stem precision {precision!r} is not one of {', '.join(STEM_PRECISIONS)}")
    weight, bias, mean = fold_stem(conv_bn)
    if precision == "int16":
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 32767.0
        scale[scale == 0] = 1.0
        stored: NDArray[np.generic] = np.rint(weight / scale[:, None, None, None]).astype(np.int16)
    else:
        scale = np.ones(len(bias))
        stored = weight.astype(np.float32)
    _, height, width, _ = image
    assert isinstance(height, int) and isinstance(width, int)
    shape: Shape = (BATCH, half(half(height)), half(half(width)), len(bias))
    outputs: list[tuple[Shape, int]] = [(shape, TensorProto.FLOAT)]
    if with_bits:
        outputs.append((bits_shape(shape), TensorProto.INT32))
    constants = [
        builder.constant(stored, "stem_weight"),
        builder.constant(scale.astype(np.float32), "stem_scale"),
        builder.constant(bias.astype(np.float32), "stem_bias"),
        builder.constant(mean.astype(np.float32), "stem_mean"),
    ]
    result = builder.custom("Stem", ["image", *constants], outputs, "stem", stride=2, pool=1)
    return result[0], result[1] if with_bits else None


def pack(builder: GraphBuilder, values: Tensor, hint: str) -> Tensor:
    """Signs of an activation."""
    return builder.custom("Pack", [values.name], [(bits_shape(values.shape), TensorProto.INT32)], hint)[0]


def avg_pool2(builder: GraphBuilder, x: Tensor) -> Tensor:
    """2x2 average pool of [N,H,W,C]."""
    batch, height, width, channels = x.shape
    assert isinstance(height, int) and isinstance(width, int)
    shape: Shape = (batch, half(height), half(width), channels)
    return builder.custom("AvgPool2", [x.name], [(shape, TensorProto.FLOAT)], "pool")[0]


def matmul(builder: GraphBuilder, x: Tensor, weight: Array, hint: str) -> Tensor:
    """Real 1x1 convolution: [N,H,W,C] times weight [O,C,1,1] -> [N,H,W,O], no bias."""
    matrix = weight[:, :, 0, 0].T
    shape: Shape = (*x.shape[:-1], matrix.shape[1])
    return builder.op("MatMul", [x.name, builder.weight(matrix, f"{hint}_weight")], shape, hint)


def binary_conv(
    builder: GraphBuilder,
    bits: Tensor,
    layer: BinaryConvBn,
    residual: Tensor,
    hint: str,
    *,
    extra_bias: Array | float = 0.0,
    with_bits: bool = True,
) -> Stream:
    """1-bit convolution + BatchNorm + residual: signs -> real values and, if a binary layer follows, their signs."""
    conv = layer.conv
    assert isinstance(conv, BinaryConv2d)
    weight = conv_weight(conv)
    bn_scale, bn_bias = batchnorm_affine(layer.bn)
    scale = bn_scale * np.abs(weight).mean(axis=(1, 2, 3))
    outputs: list[tuple[Shape, int]] = [(residual.shape, TensorProto.FLOAT)]
    if with_bits:
        outputs.append((bits_shape(residual.shape), TensorProto.INT32))
    inputs = [
        bits.name,
        builder.constant(pack_weight(weight), f"{hint}_weight"),
        builder.constant(scale.astype(np.float32), f"{hint}_scale"),
        builder.constant((bn_bias + extra_bias).astype(np.float32), f"{hint}_bias"),
        residual.name,
    ]
    attributes = {"channels": conv.in_channels, "kernel": conv.kernel_size[0], "stride": conv.stride[0]}
    result = builder.custom("BConv", inputs, outputs, hint, **attributes)
    return Stream(result[0], result[1] if with_bits else None)


def shortcut(
    builder: GraphBuilder, x: Tensor, downsample: Downsample | None, hint: str
) -> tuple[Tensor, Array | float]:
    """The residual of a block and the bias that its BConv must add: identity, or pooled real 1x1 + BatchNorm."""
    if downsample is None:
        return x, 0.0
    weight, bias = fold_conv_bn(downsample.conv_bn)
    pooled = avg_pool2(builder, x) if downsample.stride == 2 else x
    return matmul(builder, pooled, weight, hint), bias


def basic_block(builder: GraphBuilder, stream: Stream, block: BiRealBasic, hint: str, with_bits: bool) -> Stream:
    """Fig. 2 (a)."""
    residual, bias = shortcut(builder, stream.values, block.downsample, f"{hint}_down")
    return binary_conv(builder, stream.signs(), block.body, residual, hint, extra_bias=bias, with_bits=with_bits)


def bottleneck_block(
    builder: GraphBuilder, x1: Tensor | None, x2: Stream, block: BiRealBottleneck, hint: str, with_bits: bool
) -> tuple[Tensor, Stream]:
    """Fig. 2 (b): (x1, x2) -> (o2, o3)."""
    if block.first:
        assert isinstance(block.reduce, nn.Sequential)
        o1_values = _leaky_reduce(builder, x2.values, block.reduce, hint)
        o1 = Stream(o1_values, pack(builder, o1_values, f"{hint}_pack"))
    else:
        assert x1 is not None and isinstance(block.reduce, BinaryConvBn)
        matched = x1 if block.match is None else matmul(builder, x1, conv_weight(block.match), f"{hint}_match")
        o1 = binary_conv(builder, x2.signs(), block.reduce, matched, f"{hint}_reduce")
    residual = avg_pool2(builder, o1.values) if block.stride == 2 else o1.values
    o2 = binary_conv(builder, o1.signs(), block.body, residual, f"{hint}_body")
    residual, bias = shortcut(builder, x2.values, block.downsample, f"{hint}_down")
    o3 = binary_conv(
        builder, o2.signs(), block.expand, residual, f"{hint}_expand", extra_bias=bias, with_bits=with_bits
    )
    return o2.values, o3


def _leaky_reduce(builder: GraphBuilder, x: Tensor, reduce: nn.Sequential, hint: str) -> Tensor:
    """Real 1x1 + BatchNorm on the leaky clip of x, which is slope*x + (1-slope)*clip(x, -1, 1)."""
    weight, bias = fold_conv_bn(reduce)
    low, high = (builder.constant(np.asarray(v, np.float32), "clip") for v in (-1.0, 1.0))
    clipped = builder.op("Clip", [x.name, low, high], x.shape, f"{hint}_clip")
    slope = builder.constant(np.asarray(LEAKY_SLOPE, np.float32), "slope")
    rest = builder.constant(np.asarray(1.0 - LEAKY_SLOPE, np.float32), "one_minus_slope")
    leaky = builder.op(
        "Add",
        [
            builder.op("Mul", [x.name, slope], x.shape).name,
            builder.op("Mul", [clipped.name, rest], x.shape).name,
        ],
        x.shape,
        f"{hint}_leaky",
    )
    product = matmul(builder, leaky, weight, f"{hint}_reduce")
    return builder.op("Add", [product.name, builder.constant(bias.astype(np.float32), "bias")], product.shape)


def encoder(builder: GraphBuilder, image: Shape, network: BiRealNet, *, stem_precision: str) -> list[Tensor]:
    """The four stages' real-valued outputs, NHWC, for the graph input ``image``."""
    bottleneck = network.config.bottleneck
    values, bits = stem(builder, image, network.stem, precision=stem_precision, with_bits=not bottleneck)
    stream = Stream(values, bits)
    x1: Tensor | None = None
    features = []
    for stage_index, stage in enumerate(network.stages):
        assert isinstance(stage, nn.Sequential)
        for block_index, block in enumerate(stage):
            hint = f"stage{stage_index + 1}_{block_index}"
            last = stage_index == len(network.stages) - 1 and block_index == len(stage) - 1
            if isinstance(block, BiRealBottleneck):
                x1, stream = bottleneck_block(builder, x1, stream, block, hint, not last)
            else:
                assert isinstance(block, BiRealBasic)
                stream = basic_block(builder, stream, block, hint, not last)
        features.append(stream.values)
    return features
