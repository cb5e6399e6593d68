"""Full-precision ResNets as graphs of standard ONNX operators (NCHW inside), BatchNorm folded."""

from __future__ import annotations

from torch import nn

from models.arch.resnet import BasicBlock, Bottleneck, ResNet
from models.export.float_ops import FloatOps
from models.export.graph import After, GraphBuilder, Shape, Tensor


def _block(ops: FloatOps, x: Tensor, block: BasicBlock | Bottleneck, hint: str) -> Tensor:
    shortcut = x if block.downsample is None else ops.conv_bn(x, block.downsample, f"{hint}_down")
    y = x
    for index, conv_bn in enumerate(block.convs):
        assert isinstance(conv_bn, nn.Sequential)
        y = ops.conv_bn(y, conv_bn, f"{hint}_conv{index + 1}")
        if index < len(block.convs) - 1:
            y = ops.relu(y)
    return ops.relu(ops.add(y, After(shortcut), hint).values)


def encoder(builder: GraphBuilder, image: Shape, network: ResNet) -> list[Tensor]:
    """Outputs of the four stages, NCHW, for the uint8 graph input ``image`` [N,H,W,3]."""
    ops = FloatOps(builder)
    x = ops.stem(image, network.stem, pool=network.config.stem_pool, relu=True).values
    features = []
    for stage_index, stage in enumerate(network.stages):
        assert isinstance(stage, nn.Sequential)
        for block_index, block in enumerate(stage):
            assert isinstance(block, BasicBlock | Bottleneck)
            x = _block(ops, x, block, f"stage{stage_index + 1}_{block_index}")
        features.append(x)
    return features
