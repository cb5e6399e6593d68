"""Building blocks of full-precision graphs: standard ONNX operators on [N,C,H,W]."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from torch import nn

from models.data.normalise import MEAN, STD
from models.export.fold import fold_conv_bn
from models.export.graph import BATCH, After, Array, GraphBuilder, Shape, Stream, Tensor, halved, leaky_clip, strided


class FloatOps:
    """Writes building blocks into a graph; every tensor is [N,C,H,W].

    Args:
        builder: the graph.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self._builder = builder

    def normalised(self, image: Shape) -> Tensor:
        """Normalise the graph's uint8 input ``image`` [N,H,W,3] to the network's input [N,3,H,W]."""
        builder = self._builder
        _, height, width, _ = image
        as_float = builder.name("image_float")
        builder.nodes.append(helper.make_node("Cast", ["image"], [as_float], name=as_float, to=TensorProto.FLOAT))
        planar = builder.op("Transpose", [as_float], (BATCH, 3, height, width), perm=[0, 3, 1, 2])

        def channels(values: tuple[float, ...]) -> str:
            return builder.constant(np.array(values, np.float32).reshape(3, 1, 1), "normalise")

        centred = builder.op("Sub", [planar.name, channels(MEAN)], planar.shape)
        return builder.op("Div", [centred.name, channels(STD)], planar.shape)

    def stem(self, image: Shape, conv_bn: nn.Sequential, *, pool: bool, relu: bool) -> Stream:
        """Normalisation, first convolution, BatchNorm, then optionally ReLU and max-pool."""
        y = self.conv_bn(self.normalised(image), conv_bn, "stem")
        if relu:
            y = self.relu(y)
        return Stream(self.max_pool(y) if pool else y)

    def conv(self, x: Tensor, weight: Array, bias: Array, stride: int, hint: str) -> Tensor:
        """Convolution with weight [O,C,K,K], zero padding K//2, and bias [O]."""
        kernel = weight.shape[2]
        shape: Shape = (x.shape[0], len(weight), strided(x.size(2), stride), strided(x.size(3), stride))
        stored = [self._builder.weight(weight, f"{hint}_weight"), self._builder.weight(bias, f"{hint}_bias")]
        return self._builder.op(
            "Conv",
            [x.name, *stored],
            shape,
            hint,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    def conv_bn(self, x: Tensor, conv_bn: nn.Sequential, hint: str) -> Tensor:
        """Convolution with the following BatchNorm folded in."""
        weight, bias = fold_conv_bn(conv_bn)
        conv = conv_bn[0]
        assert isinstance(conv, nn.Conv2d)
        return self.conv(x, weight, bias, conv.stride[0], hint)

    def pointwise(self, x: Tensor, weight: Array, hint: str) -> Tensor:
        """Real 1x1 convolution with weight [O,C,1,1], no bias."""
        shape: Shape = (x.shape[0], len(weight), *x.shape[2:])
        return self._builder.op(
            "Conv", [x.name, self._builder.weight(weight, f"{hint}_weight")], shape, hint, kernel_shape=[1, 1]
        )

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0)."""
        return self._builder.op("Relu", [x.name], x.shape)

    def clip(self, x: Tensor) -> Tensor:
        """Limit x to [-1, 1]."""
        limits = [self._builder.constant(np.asarray(v, np.float32), "clip") for v in (-1.0, 1.0)]
        return self._builder.op("Clip", [x.name, *limits], x.shape)

    def max_pool(self, x: Tensor) -> Tensor:
        """3x3 max-pool with stride 2 and padding 1."""
        shape: Shape = (*x.shape[:2], halved(x.size(2)), halved(x.size(3)))
        return self._builder.op("MaxPool", [x.name], shape, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def avg_pool2(self, x: Tensor) -> Tensor:
        """2x2 average pool with stride 2; windows that overlap the border average only the pixels inside."""
        shape: Shape = (*x.shape[:2], halved(x.size(2)), halved(x.size(3)))
        return self._builder.op(
            "AveragePool",
            [x.name],
            shape,
            kernel_shape=[2, 2],
            strides=[2, 2],
            ceil_mode=1,
            count_include_pad=0,
        )

    def clipped_pointwise(self, x: Tensor, weight: Array, bias: Array, hint: str, *, bits: bool) -> Stream:
        """Real 1x1 convolution with weight [O,C,1,1] and bias [O] on `models.binarize.functional.leaky_clip` of x."""
        assert not bits, "standard operators cannot emit packed signs"
        return Stream(self.conv(leaky_clip(self._builder, x, hint), weight, bias, 1, hint))

    def add(self, x: Tensor, after: After, hint: str) -> Stream:
        """Add ``after`` to x."""
        y = x
        if np.any(np.asarray(after.bias) != 0.0):
            bias = np.broadcast_to(np.asarray(after.bias, np.float32), (x.size(1),)).reshape(-1, 1, 1)
            y = self._builder.op("Add", [y.name, self._builder.constant(bias, f"{hint}_bias")], x.shape)
        if after.residual is not None:
            y = self._builder.op("Add", [y.name, after.residual.name], x.shape, hint)
        return Stream(y)
