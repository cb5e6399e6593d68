"""Full-precision ResNets as stock ONNX graphs (NCHW inside), BatchNorm folded."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from torch import nn

from models.arch.resnet import BasicBlock, Bottleneck, ResNet
from models.data.normalise import MEAN, STD
from models.export.fold import fold_conv_bn
from models.export.graph import BATCH, GraphBuilder, Shape, Tensor
from models.export.packed import half


def _conv(builder: GraphBuilder, x: Tensor, conv_bn: nn.Sequential, hint: str) -> Tensor:
    weight, bias = fold_conv_bn(conv_bn)
    conv = conv_bn[0]
    assert isinstance(conv, nn.Conv2d)
    batch, _, height, width = x.shape
    assert isinstance(height, int) and isinstance(width, int)
    shape: Shape = (batch, len(bias), height, width)
    if conv.stride[0] == 2:
        shape = (batch, len(bias), half(height), half(width))
    inputs = [x.name, builder.weight(weight, f"{hint}_weight"), builder.weight(bias, f"{hint}_bias")]
    kernel = conv.kernel_size[0]
    return builder.op(
        "Conv",
        inputs,
        shape,
        hint,
        kernel_shape=[kernel, kernel],
        strides=list(conv.stride),
        pads=[kernel // 2] * 4,
    )


def _block(builder: GraphBuilder, x: Tensor, block: BasicBlock | Bottleneck, hint: str) -> Tensor:
    shortcut = x if block.downsample is None else _conv(builder, x, block.downsample, f"{hint}_down")
    y = x
    for index, conv_bn in enumerate(block.convs):
        assert isinstance(conv_bn, nn.Sequential)
        y = _conv(builder, y, conv_bn, f"{hint}_conv{index + 1}")
        if index < len(block.convs) - 1:
            y = builder.op("Relu", [y.name], y.shape)
    y = builder.op("Add", [y.name, shortcut.name], y.shape)
    return builder.op("Relu", [y.name], y.shape, hint)


def encoder(builder: GraphBuilder, image: Shape, network: ResNet) -> list[Tensor]:
    """The four stages' outputs, NCHW, for the uint8 graph input ``image`` [N,H,W,3]."""
    _, height, width, _ = image
    assert isinstance(height, int) and isinstance(width, int)
    as_float = builder.name("image_float")
    builder.nodes.append(helper.make_node("Cast", ["image"], [as_float], name=as_float, to=TensorProto.FLOAT))
    planar = builder.op("Transpose", [as_float], (BATCH, 3, height, width), perm=[0, 3, 1, 2])

    def channels(values: tuple[float, ...]) -> str:
        return builder.constant(np.asarray(values, np.float32)[None, :, None, None], "normalise")

    centred = builder.op("Sub", [planar.name, channels(MEAN)], planar.shape)
    x = builder.op("Div", [centred.name, channels(STD)], planar.shape)
    x = _conv(builder, x, network.stem, "stem")
    x = builder.op("Relu", [x.name], x.shape)
    _, out, high, wide = x.shape
    assert isinstance(high, int) and isinstance(wide, int)
    x = builder.op(
        "MaxPool", [x.name], (BATCH, out, half(high), half(wide)), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
    )
    features = []
    for stage_index, stage in enumerate(network.stages):
        assert isinstance(stage, nn.Sequential)
        for block_index, block in enumerate(stage):
            assert isinstance(block, BasicBlock | Bottleneck)
            x = _block(builder, x, block, f"stage{stage_index + 1}_{block_index}")
        features.append(x)
    return features
