"""Export of networks of 1-bit layers (or their real-valued counterparts): which shortcut is added to which layer.

    stem -> layer (+ shortcut) -> layer (+ shortcut) ... -> head

Layers write themselves (`BinaryLayer.export`, `RealLayer.export`). Each layer gets the shortcut's tensor, and the bias
of a real 1x1 shortcut, and folds them into its last operator.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.arch.bireal import BiRealBasic, BiRealBottleneck, BiRealNet
from models.arch.layers import Downsample, RealLayer
from models.arch.structures import PreActivationBlock
from models.binarize.base import BinaryLayer
from models.export.float_ops import FloatOps
from models.export.fold import conv_weight, fold_conv_bn
from models.export.graph import After, Array, GraphBuilder, Shape, Stream, Tensor
from models.export.packed_ops import PackedOps


@dataclass(frozen=True)
class StructureExporter:
    """Writes the blocks of one network.

    Attributes:
        ops: building blocks of a packed graph (1-bit layers) or a full-precision graph (real-valued layers).
        bits: whether layers read plain signs, so that every layer but the last emits them for the next.
    """

    ops: PackedOps | FloatOps
    bits: bool

    def layer(
        self,
        layer: nn.Module,
        x: Stream,
        hint: str,
        residual: Tensor | None = None,
        bias: Array | float = 0.0,
        *,
        last: bool = False,
    ) -> Stream:
        """One layer plus ``residual`` and ``bias``; ``last`` if no layer reads its output."""
        after = After(residual, bias, self.bits and not last)
        if isinstance(self.ops, PackedOps):
            assert isinstance(layer, BinaryLayer)
            return layer.export(self.ops, x, after, hint)
        assert isinstance(layer, RealLayer)
        return layer.export(self.ops, x, after, hint)

    def shortcut(self, x: Tensor, downsample: Downsample | None, hint: str) -> tuple[Tensor, Array | float]:
        """A block's shortcut and its bias: the identity, or average pool, real 1x1 and BatchNorm."""
        if downsample is None:
            return x, 0.0
        weight, bias = fold_conv_bn(downsample.conv_bn)
        pooled = self.ops.avg_pool2(x) if downsample.stride == 2 else x
        return self.ops.pointwise(pooled, weight, hint), bias

    def basic(self, x: Stream, block: BiRealBasic, hint: str, last: bool) -> Stream:
        """Fig. 2 (a)."""
        residual, bias = self.shortcut(x.values, block.downsample, f"{hint}_down")
        return self.layer(block.body, x, hint, residual, bias, last=last)

    def pre_activation(self, x: Stream, block: PreActivationBlock, hint: str, last: bool) -> Stream:
        """Fig. 10 (c), (d)."""
        residual: Tensor | None = None
        bias: Array | float = 0.0
        if block.shortcut:
            residual, bias = self.shortcut(x.values, block.downsample, f"{hint}_down")
        end = len(block.layers) - 1
        for index, layer in enumerate(block.layers):
            if index < end:
                x = self.layer(layer, x, f"{hint}_layer{index + 1}")
            else:
                x = self.layer(layer, x, f"{hint}_layer{index + 1}", residual, bias, last=last)
        return x

    def bottleneck(
        self, x1: Tensor | None, x2: Stream, block: BiRealBottleneck, hint: str, last: bool
    ) -> tuple[Tensor, Stream]:
        """Fig. 2 (b): (x1, x2) -> (o2, o3)."""
        if block.real_reduce:
            assert isinstance(block.reduce, nn.Sequential)
            weight, offset = fold_conv_bn(block.reduce)
            o1 = self.ops.clipped_pointwise(x2.values, weight, offset, f"{hint}_reduce", bits=self.bits)
        else:
            matched = x1
            if x1 is not None and block.match is not None:
                matched = self.ops.pointwise(x1, conv_weight(block.match), f"{hint}_match")
            o1 = self.layer(block.reduce, x2, f"{hint}_reduce", matched)
        residual = self.ops.avg_pool2(o1.values) if block.stride == 2 else o1.values
        o2 = self.layer(block.body, o1, f"{hint}_body", residual)
        residual, bias = self.shortcut(x2.values, block.downsample, f"{hint}_down")
        o3 = self.layer(block.expand, o2, f"{hint}_expand", residual, bias, last=last)
        return o2.values, o3


def encoder(
    builder: GraphBuilder, image: Shape, network: BiRealNet, *, stem_precision: str, pointwise_precision: str
) -> list[Tensor]:
    """Outputs of the four stages for the graph input ``image``: NHWC if the network is binary, else NCHW."""
    config = network.config
    bits = all(m.reads_plain_signs for m in network.modules() if isinstance(m, BinaryLayer)) and config.binary
    # A real-valued first 1x1 convolution does not read signs.
    first_reads_bits = bits and not (config.bottleneck and config.structure == "bireal" and config.first_1x1_real)
    ops: PackedOps | FloatOps
    if config.binary:
        ops = PackedOps(builder, stem_precision, pointwise_precision)
        stream = ops.stem(image, network.stem, pool=config.stem_pool, bits=first_reads_bits)
    else:
        ops = FloatOps(builder)
        stream = ops.stem(image, network.stem, pool=config.stem_pool, relu=False)
    exporter = StructureExporter(ops, bits)
    x1: Tensor | None = None
    features = []
    for stage_index, stage in enumerate(network.stages):
        assert isinstance(stage, nn.Sequential)
        for block_index, block in enumerate(stage):
            hint = f"stage{stage_index + 1}_{block_index}"
            last = stage_index == len(network.stages) - 1 and block_index == len(stage) - 1
            if isinstance(block, BiRealBottleneck):
                x1, stream = exporter.bottleneck(x1, stream, block, hint, last)
            elif isinstance(block, PreActivationBlock):
                stream = exporter.pre_activation(stream, block, hint, last)
            else:
                assert isinstance(block, BiRealBasic)
                stream = exporter.basic(stream, block, hint, last)
        features.append(stream.values)
    return features
